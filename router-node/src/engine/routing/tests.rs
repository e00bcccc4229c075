//! The decisions of the routing, without an engine.

use super::*;
use crate::checkpoint::Mark;
use tickwire_core::coverage::reached;
use tickwire_core::event::Event;
use tickwire_core::event::Handling;
use tickwire_core::event::Timestamp;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{EpochId, NodeId, Nonce};
use tickwire_core::interest::InterestBeat;
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::Member;
use tickwire_testkit::blank_event;

const PARTITION: Partition = Partition(3);

fn tenure(number: u64) -> Tenure {
    Tenure { source: Source::Partition(PARTITION), number }
}

fn event(seq: u64, priority: Priority) -> Readable {
    let event = Event { priority, ..blank_event() };
    Readable { seq: Seq(seq), event, wire: vec![0; 10].into(), trace: None }
}

fn events(number: u64, seqs: std::ops::RangeInclusive<u64>) -> IntakeReport {
    IntakeReport {
        tenure: tenure(number),
        what: IntakeEvent::Events {
            through: Seq(*seqs.end()),
            mark: Some(Mark { seq: Seq(*seqs.end()), stored: 7 }),
            events: seqs.map(|seq| event(seq, Priority::Low)).collect(),
        },
    }
}

/// A routing with one gateway that wants every pattern, at revision 1.
fn routing() -> (Routing, NodeRef) {
    let gateway = NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) };
    let mut routing =
        Routing::new(Flush::new(2, 10_000, 1_000), 60_000, TableLimits::default(), GatewayCache::new(100_000));
    let mut log = InterestLog::new(gateway.clone(), View::default(), 0, Bounds::default());
    log.add(&Arc::new(Filter::default()));
    let delta = log.cut(Millis(0)).unwrap();
    assert_eq!(routing.handle_interest_message(Millis(0), InterestMessage::Delta(delta)), Some(gateway.clone()));
    assert!(routing.lags(&gateway));
    let parts = log.sent().parts(&gateway, log.revision(), 1_000);
    let other = NodeRef { nonce: Nonce(2), ..gateway.clone() };
    assert_eq!(routing.handle_snapshot(Millis(0), other.clone(), parts.clone()), Some(other));
    assert_eq!(routing.handle_snapshot(Millis(0), gateway.clone(), parts), None);
    (routing, gateway)
}

fn taken(routing: &mut Routing, gateway: &NodeRef) -> Vec<(u64, u64, Vec<u64>)> {
    let sections = routing.take(Millis(0), gateway, true).into_iter().map(|section| {
        assert_eq!(section.revision, Revision(1));
        let seqs = section.events.iter().map(|(seq, _)| seq.0).collect();
        (section.prev.0, section.through.0, seqs)
    });
    sections.collect()
}

#[test]
fn reports_of_a_former_tenure_change_nothing() {
    let (mut routing, gateway) = routing();
    routing.own(tenure(1), Seq(10));
    routing.read(Millis(0), events(1, 11..=12));
    assert!(routing.disown(tenure(1)));
    // The lease was lost while the process was paused: what was read meanwhile is not in any section.
    routing.read(Millis(0), events(1, 13..=14));
    assert_eq!((routing.checkpoints(), taken(&mut routing, &gateway)), (SourceCheckpoints::new(), vec![]));
    routing.own(tenure(2), Seq(20));
    routing.read(Millis(0), events(1, 15..=16));
    assert!(!routing.disown(tenure(1)));
    assert_eq!(
        routing.checkpoints(),
        SourceCheckpoints::from([(tenure(2), SourceProgress { checkpoint: Seq(20), mark: None })])
    );
    routing.read(Millis(0), events(2, 21..=22));
    assert_eq!(taken(&mut routing, &gateway), [(20, 22, vec![21, 22])]);
    let mark = Some(Mark { seq: Seq(22), stored: 7 });
    assert_eq!(
        routing.checkpoints(),
        SourceCheckpoints::from([(tenure(2), SourceProgress { checkpoint: Seq(22), mark })])
    );
}

#[test]
fn new_epoch_is_routed_from_its_new_tenures_on() {
    let (mut routing, gateway) = routing();
    routing.own(tenure(1), Seq(10));
    routing.read(Millis(0), events(1, 11..=12));
    routing.renew();
    routing.read(Millis(0), events(1, 13..=13));
    routing.own(tenure(2), Seq(0));
    routing.read(Millis(0), events(2, 1..=1));
    assert_eq!(taken(&mut routing, &gateway), [(0, 1, vec![1])]);
}

#[test]
fn skipped_range_leaves_a_gap_and_a_stuck_source_is_reported() {
    let (mut routing, gateway) = routing();
    routing.own(tenure(1), Seq(10));
    routing.read(Millis(0), events(1, 11..=11));
    let skip = |number, what| IntakeReport { tenure: tenure(number), what };
    routing.read(Millis(0), skip(1, IntakeEvent::Skip(Seq(50))));
    routing.read(Millis(0), events(1, 51..=51));
    assert_eq!(taken(&mut routing, &gateway), [(10, 11, vec![11]), (50, 51, vec![51])]);
    routing.read(Millis(0), skip(1, IntakeEvent::Flowing));
    assert_eq!(routing.report(), EngineReport::default());
    routing.read(Millis(0), skip(1, IntakeEvent::Stuck("broken".to_owned())));
    assert_eq!(routing.report().unread[&tenure(1).source], "broken");
}

#[test]
fn urgent_event_does_not_wait_for_the_window() {
    let (mut routing, gateway) = routing();
    routing.own(tenure(1), Seq(10));
    routing.take(Millis(100), &gateway, false);
    routing.read(Millis(0), events(1, 11..=11));
    assert_eq!(routing.due(Millis(101)), (vec![], Some(Millis(102))));
    assert_eq!(routing.due(Millis(102)).0, std::slice::from_ref(&gateway));
    routing.read(
        Millis(0),
        IntakeReport {
            tenure: tenure(1),
            what: IntakeEvent::Events { through: Seq(12), mark: None, events: vec![event(12, Priority::Critical)] },
        },
    );
    assert_eq!(routing.due(Millis(101)).0, [gateway]);
}

#[test]
fn priority_first_event_does_not_wait_for_the_window() {
    let (mut routing, gateway) = routing();
    routing.own(tenure(1), Seq(10));
    routing.take(Millis(100), &gateway, false);
    let mut first = event(11, Priority::Low);
    first.event.handling = Some(Box::new(Handling { strategy: Strategy::PriorityFirst, ..Handling::default() }));
    let what = IntakeEvent::Events { through: Seq(11), mark: None, events: vec![first] };
    routing.read(Millis(0), IntakeReport { tenure: tenure(1), what });
    assert_eq!(routing.due(Millis(101)).0, [gateway]);
}

#[test]
fn coverage_of_members_is_passed_on_and_that_of_others_is_not() {
    let (mut routing, gateway) = routing();
    let beat = |gateway: &NodeRef, epoch_id: u64, through: u64| {
        let last = Some((Seq(through - 1), Timestamp(7)));
        let reached = Some(reached::GatewayCoverage { epoch_id: EpochId(epoch_id), through: Seq(through), last });
        InterestMessage::Beat(InterestBeat { gateway: gateway.clone(), revision: Revision(1), reached })
    };
    let expected = |epoch_id: u64, through: u64| {
        let mark = Some(Mark { seq: Seq(through - 1), stored: 7 });
        Checkpoint { checkpoint: Seq(through), epoch_id: EpochId(epoch_id), mark }
    };
    routing.handle_interest_message(Millis(0), beat(&gateway, 1, 90));
    assert_eq!(routing.take_gateway_coverage(), None, "not a member yet");
    let member = |node: &NodeRef| Member { node: node.clone(), role: Role::Gateway, weight: 1, draining: false };
    let other = NodeRef { id: NodeId::new("other").unwrap(), nonce: Nonce(7) };
    routing.set_view(Arc::new(View { version: 1, members: vec![member(&gateway), member(&other)], ..View::default() }));
    routing.handle_interest_message(Millis(0), beat(&NodeRef { nonce: Nonce(2), ..gateway.clone() }, 1, 95));
    routing.handle_interest_message(Millis(0), beat(&gateway, u64::MAX, 95));
    assert_eq!(routing.take_gateway_coverage(), None, "a gateway that is not a member, and an impossible epoch");
    for (epoch_id, through) in [(1, 80), (1, 90), (2, 10)] {
        routing.handle_interest_message(Millis(0), beat(&gateway, epoch_id, through));
    }
    let by_gateway = BTreeMap::from([(gateway, expected(2, 10))]);
    assert_eq!((routing.take_gateway_coverage(), routing.take_gateway_coverage()), (Some(by_gateway.clone()), None));
    // One that has moved less counts too.
    routing.handle_interest_message(Millis(0), beat(&other, 2, 6));
    let mut by_both = by_gateway;
    by_both.insert(other.clone(), expected(2, 6));
    assert_eq!(routing.take_gateway_coverage(), Some(by_both));
    routing.set_view(Arc::new(View { version: 2, members: vec![member(&other)], ..View::default() }));
    routing.handle_interest_message(Millis(0), beat(&other, 2, 7));
    assert_eq!(routing.take_gateway_coverage(), Some(BTreeMap::from([(other, expected(2, 7))])));
}

#[test]
fn member_whose_interest_is_not_known_is_reported_once() {
    let (mut routing, gateway) = routing();
    let silent = NodeRef { id: NodeId::new("silent").unwrap(), nonce: Nonce(3) };
    let member = |node: &NodeRef| Member { node: node.clone(), role: Role::Gateway, weight: 1, draining: false };
    let members = vec![member(&gateway), member(&silent)];
    routing.set_view(Arc::new(View { version: 1, members, ..View::default() }));
    assert_eq!(routing.report().gateways_without_interest, std::slice::from_ref(&silent));
    // It announces a revision whose delta has not arrived.
    let beat = InterestBeat { gateway: gateway.clone(), revision: Revision(9), reached: None };
    routing.handle_interest_message(Millis(0), InterestMessage::Beat(beat));
    assert_eq!(routing.report().gateways_without_interest, [gateway, silent]);
}
