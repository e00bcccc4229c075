//! The gateways whose interest a router waits for before it is ready, and for how long. Pure: the view, the engine's
//! report and the time are passed in.
//!
//! A router that starts should know the interest of every gateway before it takes partitions, or the gateways ask for
//! the first events again. But a member may never send its interest: a gateway that hangs, one whose interest no router
//! has room for, or somebody who only sends beats. Such a member would keep every router not ready, hold up each
//! rolling update, and delay each takeover. So it is awaited for a while only. Nothing is lost by that: a gateway gets
//! no section that was not matched with its interest, and asks for the ranges that it lacks.

use crate::engine::EngineReport;
use std::collections::{BTreeMap, BTreeSet};
use tickwire_core::ids::{Millis, NodeId, NodeRef};
use tickwire_core::placement::View;
use tracing::warn;

/// How long the interest of a gateway is awaited, in milliseconds. That is time for several requests, each with
/// [`SNAPSHOT_DEADLINE`](crate::interest::SNAPSHOT_DEADLINE).
const PATIENCE: u64 = 10_000;

/// The most gateways that a text names.
const NAMED: usize = 3;

/// The state.
#[derive(Debug, Default)]
pub(super) struct AwaitedGateways {
    /// How long each is awaited.
    patience: u64,
    /// Since when the interest of a gateway of this name is not known. A gateway that is started again and again
    /// without sending its interest is the same one here.
    since: BTreeMap<NodeId, Millis>,
    awaited: BTreeSet<NodeRef>,
    /// Those that were awaited for too long.
    given_up: BTreeSet<NodeRef>,
}

impl AwaitedGateways {
    /// None is awaited yet. A gateway sends an interest beat within `member_timeout` milliseconds, or is no member any
    /// more.
    pub(super) fn new(member_timeout: u64) -> Self {
        Self { patience: PATIENCE.max(member_timeout), ..Self::default() }
    }

    /// Takes the current members, and the gateways whose interest is not known.
    pub(super) fn update(&mut self, now: Millis, view: &View, report: &EngineReport) {
        let missing = members_without_interest(view, report);
        let mut former = std::mem::take(&mut self.since);
        for gateway in &missing {
            let since = former.remove(&gateway.id).unwrap_or(now);
            self.since.entry(gateway.id.clone()).or_insert(since);
        }
        let is_late = |gateway: &NodeRef| self.since.get(&gateway.id).is_some_and(|at| now.since(*at) >= self.patience);
        let (given_up, awaited): (BTreeSet<_>, BTreeSet<_>) = missing.into_iter().cloned().partition(is_late);
        for gateway in given_up.difference(&self.given_up) {
            warn!(%gateway, patience_ms = self.patience, "interest of a gateway not received, no longer awaited");
        }
        (self.awaited, self.given_up) = (awaited, given_up);
    }

    /// Each gateway has its time again: without a connection to NATS, none can send its interest.
    pub(super) fn restart(&mut self, now: Millis) {
        self.since.values_mut().for_each(|since| *since = now);
    }

    /// Whether no interest is awaited.
    pub(super) fn is_empty(&self) -> bool {
        self.awaited.is_empty()
    }

    /// What is missing, for an operator.
    pub(super) fn missing(&self) -> Option<String> {
        named(&self.awaited).map(|names| format!("the interest of these gateways is not known: {names}"))
    }

    /// What is wrong, although it is not awaited any more.
    pub(super) fn warning(&self) -> Option<String> {
        let names = named(&self.given_up)?;
        Some(format!("the interest of these gateways is not known, and no longer awaited: {names}"))
    }

    /// The number of gateways that are not awaited any more.
    pub(super) fn given_up(&self) -> usize {
        self.given_up.len()
    }
}

/// The members among the gateways whose interest is not known. A gateway that is not a member does not count, even
/// though its interest is kept for a while. Both may be many, if somebody invents them.
fn members_without_interest<'a>(view: &'a View, report: &'a EngineReport) -> Vec<&'a NodeRef> {
    if report.gateways_without_interest.is_empty() {
        return Vec::new();
    }
    let members: BTreeSet<&NodeRef> = view.members.iter().map(|member| &member.node).collect();
    report.gateways_without_interest.iter().filter(|gateway| members.contains(gateway)).collect()
}

/// The first names, and how many there are beside them; `None` for no gateway.
fn named(gateways: &BTreeSet<NodeRef>) -> Option<String> {
    let names: Vec<String> = gateways.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match gateways.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| format!("{}{more}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::Nonce;
    use tickwire_core::placement::{Member, Role};

    const TIMEOUT: u64 = 3_000;

    fn gateway(name: &str, nonce: u64) -> NodeRef {
        NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(nonce) }
    }

    fn view(gateways: &[&NodeRef]) -> View {
        let member = |node: &NodeRef| Member { node: node.clone(), role: Role::Gateway, weight: 1, draining: false };
        View { version: 3, members: gateways.iter().map(|node| member(node)).collect(), ..View::default() }
    }

    fn report(gateways: &[&NodeRef]) -> EngineReport {
        let gateways_without_interest = gateways.iter().map(|node| (*node).clone()).collect();
        EngineReport { gateways_without_interest, ..EngineReport::default() }
    }

    #[test]
    fn interest_of_members_only_is_awaited() {
        let (member, gone) = (gateway("g1", 1), gateway("g2", 1));
        let mut awaited = AwaitedGateways::new(TIMEOUT);
        awaited.update(Millis(0), &view(&[&member]), &report(&[]));
        assert!(awaited.is_empty() && awaited.missing().is_none());
        awaited.update(Millis(0), &view(&[&member]), &report(&[&gone]));
        assert!(awaited.is_empty() && awaited.missing().is_none());
        awaited.update(Millis(0), &view(&[&member]), &report(&[&gone, &member]));
        assert!(!awaited.is_empty() && awaited.warning().is_none());
        let missing = awaited.missing().unwrap();
        assert!(missing.contains("g1.") && !missing.contains("g2."), "{missing}");
    }

    #[test]
    fn gateway_that_never_sends_its_interest_is_awaited_for_a_while_only() {
        let (mute, other) = (gateway("mute", 1), gateway("other", 1));
        let members = view(&[&mute, &other]);
        let mut awaited = AwaitedGateways::new(TIMEOUT);
        awaited.update(Millis(500), &members, &report(&[&mute]));
        awaited.update(Millis(499 + PATIENCE), &members, &report(&[&mute, &other]));
        assert!(!awaited.is_empty() && awaited.warning().is_none());
        awaited.update(Millis(500 + PATIENCE), &members, &report(&[&mute, &other]));
        let (missing, warning) = (awaited.missing().unwrap(), awaited.warning().unwrap());
        assert!(missing.contains("other.") && !missing.contains("mute."), "{missing}");
        assert!(warning.contains("mute.") && !warning.contains("other."), "{warning}");
        awaited.update(Millis(600 + PATIENCE), &members, &report(&[&mute]));
        assert!(awaited.is_empty() && awaited.missing().is_none());
        // Once it has sent it, it is awaited again when it is behind.
        awaited.update(Millis(700 + PATIENCE), &members, &report(&[]));
        assert!(awaited.warning().is_none());
        awaited.update(Millis(800 + PATIENCE), &members, &report(&[&mute]));
        assert!(!awaited.is_empty());
    }

    #[test]
    fn gateway_that_is_started_again_and_again_without_sending_its_interest_is_not_awaited_anew() {
        let mut awaited = AwaitedGateways::new(TIMEOUT);
        for start in 0..20 {
            let node = gateway("mute", start);
            awaited.update(Millis(start * 1_000), &view(&[&node]), &report(&[&node]));
            assert_eq!(awaited.is_empty(), start * 1_000 >= PATIENCE, "start {start}");
        }
    }

    #[test]
    fn time_without_a_connection_does_not_count_and_slow_beats_have_their_time() {
        let mute = gateway("mute", 1);
        let mut awaited = AwaitedGateways::new(TIMEOUT);
        awaited.update(Millis(0), &view(&[&mute]), &report(&[&mute]));
        awaited.restart(Millis(9_000));
        awaited.update(Millis(8_999 + PATIENCE), &view(&[&mute]), &report(&[&mute]));
        assert!(!awaited.is_empty());
        awaited.update(Millis(9_000 + PATIENCE), &view(&[&mute]), &report(&[&mute]));
        assert!(awaited.is_empty());
        let mut awaited = AwaitedGateways::new(2 * PATIENCE);
        for (now, is_over) in [(0, false), (2 * PATIENCE - 1, false), (2 * PATIENCE, true)] {
            awaited.update(Millis(now), &view(&[&mute]), &report(&[&mute]));
            assert_eq!(awaited.is_empty(), is_over, "after {now} ms");
        }
    }

    #[test]
    fn many_gateways_are_counted_and_three_are_named() {
        let gateways: Vec<NodeRef> = (0..9).map(|number| gateway(&format!("g{number}"), 1)).collect();
        let all: Vec<&NodeRef> = gateways.iter().collect();
        let mut awaited = AwaitedGateways::new(TIMEOUT);
        awaited.update(Millis(0), &view(&all), &report(&all));
        assert!(awaited.missing().unwrap().ends_with("and 6 more"));
    }
}
