//! Gaps out: what coverage misses is asked of the routers, and what became of it is told to the operator.
//!
//! While NATS is away nothing is asked, and no try is lost: what is missing waits for the connection.

use std::sync::Arc;
use std::time::Duration;

use async_nats::subject::Subject;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tickwire_core::coverage::{Ask, Repaired, Step};
use tickwire_core::ids::{NodeRef, Revision};
use tickwire_core::interest::Interest;
use tickwire_core::replay::{ReplayRequest, Sought};
use tickwire_core::ring::Role;
use tickwire_core::wire;
use tickwire_node::names;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{Edge, refused};
use crate::delivery::Delivery;

/// The most entries of interest that travel in a request. A larger interest is named by its revision.
const CARRIED_ENTRIES: usize = 64;

/// The largest request that carries its interest, in bytes.
const CARRIED_BYTES: usize = 32 * 1024;

/// How long a request may wait for room in the connection. It is made again, so waiting longer gains nothing.
const ASK_TIMEOUT: Duration = Duration::from_millis(50);

impl Edge {
    /// Asks for what is due to be asked for, and tells what was repaired.
    pub(super) async fn repair(&mut self) {
        let now = self.now();
        for ask in self.coverage.asks(now, &mut self.steps) {
            let request = request(&self.gateway, &ask, self.log.revision(), self.log.sent());
            if self.send_ask(&ask, request).await {
                counter!("tickwire_gateway_replays_asked_total").increment(1);
            } else {
                self.coverage.unsent(self.now(), ask.number);
            }
        }
        for Repaired { partition, from, upto, lasted, asks } in self.coverage.repaired() {
            counter!("tickwire_gateway_gaps_repaired_total").increment(1);
            histogram!("tickwire_gateway_repair_seconds").record(lasted as f64 / 1000.0);
            info!(%partition, %from, %upto, asks, milliseconds = lasted, "a gap was repaired");
        }
    }

    /// Tells the operator how much waits.
    pub(super) fn tell_open_gaps(&self) {
        gauge!("tickwire_gateway_open_gaps").set(self.coverage.gaps() as f64);
    }

    /// Any router, of NATS's choosing; if one did not answer, each of those in the view in turn. A router that stands still
    /// is still connected, and NATS goes on choosing it.
    fn whom_to_ask(&self, ask: &Ask) -> Subject {
        let routers: Vec<_> = self.log.view().takers(Role::Router).collect();
        let turn = (ask.number + u64::from(ask.unanswered)) as usize;
        match routers.get(turn % routers.len().max(1)) {
            Some(router) if ask.unanswered > 0 => {
                names::replay_of(router.node.id.as_str(), &router.node.nonce.to_string()).into()
            }
            _ => Subject::from_static(names::REPLAY),
        }
    }

    /// Returns whether it is on its way.
    pub(super) async fn send_ask(&self, ask: &Ask, request: Option<Vec<u8>>) -> bool {
        let Some(bytes) = request.filter(|_| self.nats.is_connected()) else { return false };
        let (id, nonce) = (self.gateway.id.as_str(), self.gateway.nonce.to_string());
        let reply = Subject::from(names::replayed(id, &nonce, ask.number));
        let publish = self.nats.client.publish_with_reply(self.whom_to_ask(ask), reply, bytes.into());
        debug!(partition = %ask.partition, from = %ask.from, to = %ask.to, "asking for a replay");
        matches!(timeout(ASK_TIMEOUT, publish).await, Ok(Ok(())))
    }
}

/// The request for what `interest` wants, in its form for the wire. One that is too large to travel is part of what the
/// routers know of the gateway since `revision` or before.
pub(super) fn request(gateway: &NodeRef, ask: &Ask, revision: Revision, interest: &Interest) -> Option<Vec<u8>> {
    let mut request = ReplayRequest {
        gateway: gateway.clone(),
        partition: ask.partition,
        from: ask.from,
        to: ask.to,
        incarnation: ask.incarnation,
        interest: Sought::of(gateway, revision, interest, CARRIED_ENTRIES),
    };
    let mut bytes = wire::encode(&request);
    if bytes.as_ref().is_ok_and(|bytes| bytes.len() > CARRIED_BYTES) {
        request.interest = Sought::Told(revision);
        bytes = wire::encode(&request);
    }
    bytes.inspect_err(refused).ok()
}

/// Tells the operator of steps that lose something.
pub(super) fn note(step: &Step<Arc<Delivery>>) {
    match step {
        Step::Gap { partition, from, upto, reason } => {
            let reason = reason.as_str();
            counter!("tickwire_gateway_gaps_total", "reason" => reason).increment(1);
            warn!(%partition, %from, %upto, reason, "events may be missing, and clients are told so");
        }
        Step::Reset { former: Some(former), incarnation } => {
            warn!(%former, %incarnation, "the stream was made anew; all positions start again");
        }
        Step::Reset { former: None, .. } | Step::Adopt { .. } | Step::Apply { .. } => {}
    }
}

pub(super) fn describe() {
    describe_counter!("tickwire_gateway_replays_asked_total", "Requests for replays, sent to the routers");
    describe_counter!("tickwire_gateway_gaps_total", "Ranges of a partition that nobody could give, by reason");
    describe_counter!("tickwire_gateway_gaps_repaired_total", "Gaps that replays have closed");
    describe_gauge!("tickwire_gateway_open_gaps", "Partitions that wait for something that is missing");
    describe_histogram!("tickwire_gateway_repair_seconds", "From when a gap was seen until a replay had closed it");
}
