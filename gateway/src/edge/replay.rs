//! Repair of gaps: routers are asked to replay what the coverage lacks, and the result is logged and counted.
//!
//! While NATS is disconnected nothing is asked, and no attempt is used up: gaps wait for the connection.

use std::borrow::Cow;
use std::sync::Arc;

use tickwire_core::coverage::{Ask, CoverageEvent, Repaired};
#[cfg(test)]
use tickwire_core::ids::{EpochId, Partition, Seq};
use tickwire_core::ids::{Millis, NodeRef, Revision};
use tickwire_core::interest::Interest;
use tickwire_core::placement::{Role, View};
use tickwire_core::replay::{Purpose, ReplayInterest, ReplayRequest};
use tickwire_core::wire;
use tickwire_node::names;
use tracing::{debug, info, warn};

use super::{Edge, Outgoing, refused};
use crate::backfill::cohorts::{CARRIED_ENTRIES, Cohorts, is_carried};
use crate::delivery::Delivery;
#[cfg(test)]
use crate::messages::SessionId;
use crate::metrics;

/// The largest interest that a request contains, in bytes.
const CARRIED_BYTES: usize = 32 * 1024;

impl Edge {
    /// Asks for the gaps that are due, and logs those that were repaired.
    pub(super) fn repair(&mut self, now: Millis) {
        let revision = self.log.revision();
        for ask in self.coverage.asks(now, revision, &mut self.coverage_events) {
            let request = request(&self.gateway, &ask, revision, self.log.sent(), Purpose::Repair);
            self.ask(now, &ask, request);
        }
        for Repaired { partition, from, through, lasted, asks } in self.coverage.repaired() {
            metrics::GAPS_REPAIRED.increment(1);
            metrics::REPAIR_SECONDS.record(lasted as f64 / 1000.0);
            info!(%partition, %from, %through, asks, milliseconds = lasted, "gap repaired");
        }
    }

    /// Updates the metrics of open gaps.
    pub(super) fn publish_gap_metrics(&self) {
        metrics::OPEN_GAPS.set(self.open_gaps() as f64);
        metrics::HELD_BYTES.set(self.coverage.held_bytes() as f64);
    }

    /// The number of partitions with an open gap.
    pub(crate) fn open_gaps(&self) -> usize {
        self.coverage.gaps()
    }

    /// A partition of this epoch that is known to reach one of these `ends`, although it is not covered up to there and
    /// has no open gap.
    #[cfg(test)]
    pub(crate) fn forgotten(&self, epoch_id: EpochId, ends: &[(Partition, Seq)]) -> Option<Partition> {
        let position = self.coverage.position().filter(|position| position.epoch_id == epoch_id)?;
        let lacks = |(partition, end): &&(Partition, Seq)| {
            let is_open = |partition| self.coverage.stuck(Millis(u64::MAX)).any(|open| open == partition);
            position.seqs[usize::from(partition.0)] < *end && !is_open(*partition)
        };
        ends.iter().find(lacks).map(|(partition, _)| *partition)
    }

    /// Whether the answer to this ask is awaited.
    #[cfg(test)]
    pub(crate) fn is_pending(&self, ask: u64) -> bool {
        self.coverage.partition_of_ask(ask).is_some() || self.cohorts.is_pending(ask)
    }

    /// A session that is in a cohort, although it is gone.
    #[cfg(test)]
    pub(crate) fn gone_in_cohort(&self) -> Option<SessionId> {
        self.cohorts.sessions().find(|session| !self.registrations.contains_key(session))
    }

    /// The bytes that wait behind gaps.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.coverage.held_bytes()
    }

    /// What it reports to routers of its coverage.
    #[cfg(test)]
    pub(crate) fn reached(&self) -> tickwire_core::coverage::reached::GatewayCoverage {
        self.reached
    }

    /// Sends a request for a replay. Without a connection it is repeated later, and no attempt is used up.
    pub(super) fn ask(&mut self, now: Millis, ask: &Ask, request: Option<Vec<u8>>) {
        let Some(payload) = request.filter(|_| self.connection.is_up) else { return self.unsent(now, ask.number) };
        debug!(partition = %ask.partition, from = %ask.from, to = %ask.to, "replay requested");
        let subject = select_router(self.log.view(), ask);
        self.outgoing.push(Outgoing { subject, payload, ask: Some(ask.number) });
    }

    /// The request was sent.
    pub(crate) fn sent(ask: u64) {
        match Cohorts::is_cohort_ask(ask) {
            true => metrics::BACKFILL_REQUESTS.increment(1),
            false => metrics::REPLAY_REQUESTS.increment(1),
        }
    }

    /// The request could not be sent.
    pub fn unsent(&mut self, now: Millis, ask: u64) {
        match Cohorts::is_cohort_ask(ask) {
            true => self.cohorts.unsent(now, ask),
            false => self.coverage.unsent(now, ask),
        }
    }
}

/// The subject for a request: first any router that NATS chooses; after an unanswered request each router of the view
/// in turn. A router that hangs is still connected, so NATS would keep choosing it.
fn select_router(view: &View, ask: &Ask) -> Cow<'static, str> {
    let routers: Vec<_> = view.available(Role::Router).collect();
    if ask.unanswered == 0 || routers.is_empty() {
        return Cow::Borrowed(names::REPLAY);
    }
    // Different partitions start with different routers, and each further attempt takes the next one.
    let turn = usize::from(ask.partition.0) + ask.unanswered as usize;
    let router = &routers[turn % routers.len()].node;
    names::replay_of(router.id.as_str(), &router.nonce.to_string()).into()
}

/// The encoded request for the events of `interest`. If the interest is too large for a request, the request has
/// `revision` instead: the interest is part of the gateway's interest at that revision.
pub(crate) fn request(
    gateway: &NodeRef,
    ask: &Ask,
    revision: Revision,
    interest: &Interest,
    purpose: Purpose,
) -> Option<Vec<u8>> {
    let is_small = is_carried(interest) && interest.encoded() <= CARRIED_BYTES;
    let request = ReplayRequest {
        gateway: gateway.clone(),
        partition: ask.partition,
        from: ask.from,
        to: ask.to,
        epoch_id: ask.epoch_id,
        interest: ReplayInterest::of(gateway, revision, interest, if is_small { CARRIED_ENTRIES } else { 0 }),
        purpose,
    };
    wire::encode(&request).inspect_err(refused).ok()
}

/// Logs and counts coverage events that lose something.
pub(super) fn note(coverage_event: &CoverageEvent<Arc<Delivery>>) {
    match coverage_event {
        CoverageEvent::Gap { partition, from, through, reason } => {
            let reason = reason.as_str();
            metrics::UNFILLED_GAPS.with(reason).increment(1);
            warn!(%partition, %from, %through, reason, "gap reported to clients");
        }
        CoverageEvent::Reset { former: Some(former), epoch } => {
            let (epoch_id, before) = (epoch.epoch_id, epoch.before);
            warn!(%former, %epoch_id, %before, "new epoch of the stream, all positions reset");
        }
        CoverageEvent::Reset { former: None, .. } | CoverageEvent::Adopt { .. } | CoverageEvent::Apply { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::placement::Member;

    fn view(routers: usize) -> View {
        let node = |number| NodeRef { id: NodeId::new(&format!("r{number}")).unwrap(), nonce: Nonce(1) };
        let member = |number| Member { node: node(number), role: Role::Router, weight: 1, draining: false };
        View { version: 1, members: (0..routers).map(member).collect(), ..View::default() }
    }

    fn asked(view: &View, number: u64, unanswered: u32) -> String {
        let (partition, epoch_id) = (Partition(5), EpochId(1));
        let ask = Ask { number, partition, epoch_id, from: Seq(1), to: Seq(2), unanswered };
        select_router(view, &ask).to_string()
    }

    #[test]
    fn unanswered_request_goes_to_every_router_before_any_router_twice() {
        for routers in 1..5 {
            let view = view(routers);
            assert_eq!(asked(&view, 1, 0), names::REPLAY);
            // Each try has the next number.
            let mut first: Vec<_> =
                (1..=routers as u32).map(|tries| asked(&view, 1 + u64::from(tries), tries)).collect();
            first.sort_unstable();
            first.dedup();
            assert_eq!(first.len(), routers);
        }
        assert_eq!(asked(&view(0), 2, 1), names::REPLAY);
    }
}
