//! What the examples are made of.

use tickwire_core::coverage::{Coverage, GapReason, Limits, Offered, Step};
use tickwire_core::ids::{Incarnation, Life, Millis, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::replay::{Part, ReplayAnswer};
use tickwire_core::section::Section;

pub(crate) const LIFE: Incarnation = Incarnation(7);
pub(crate) const GRACE: u64 = 20;
pub(crate) const TIMEOUT: u64 = 1_000;
pub(crate) const LIMITS: Limits = Limits {
    grace: GRACE,
    hold_bytes: 400,
    replays: 2,
    replay_timeout: TIMEOUT,
    give_up_after: 2_060,
    replay_range: 1_000,
};

pub(crate) fn coverage() -> Coverage<&'static str> {
    Coverage::new(2, LIMITS)
}

pub(crate) fn section(
    partition: u16,
    revision: u64,
    prev: u64,
    upto: u64,
    events: &[(u64, &'static str)],
) -> Section<&'static str> {
    Section {
        partition: Partition(partition),
        revision: Revision(revision),
        prev: Seq(prev),
        upto: Seq(upto),
        events: events.iter().map(|(seq, event)| (Seq(*seq), *event)).collect(),
    }
}

pub(crate) fn life(incarnation: Incarnation, before: u64) -> Life {
    Life { incarnation, before: Seq(before) }
}

/// Offers a section at `now`, and tells what became of it and what is to be done.
pub(crate) fn offer(
    coverage: &mut Coverage<&'static str>,
    now: u64,
    section: Section<&'static str>,
) -> (Offered, Vec<Step<&'static str>>) {
    let mut steps = Vec::new();
    let offered = coverage.offer(Millis(now), life(LIFE, 0), section, &mut steps);
    steps.retain(|step| !matches!(step, Step::Reset { .. } | Step::Adopt { .. }));
    (offered, steps)
}

pub(crate) fn apply(partition: u16, from: u64, upto: u64, events: &[(u64, &'static str)]) -> Step<&'static str> {
    let events = events.iter().map(|(seq, event)| (Seq(*seq), *event)).collect();
    Step::Apply { partition: Partition(partition), from: Seq(from), upto: Seq(upto), events }
}

pub(crate) fn gap(partition: u16, from: u64, upto: u64, reason: GapReason) -> Step<&'static str> {
    Step::Gap { partition: Partition(partition), from: Seq(from), upto: Seq(upto), reason }
}

/// An ask: its number, its partition, and its range.
pub(crate) type Asked = (u64, u16, u64, u64);

/// What is asked for at `now`, and what is to be done.
pub(crate) fn asks(coverage: &mut Coverage<&'static str>, now: u64) -> (Vec<Asked>, Vec<Step<&'static str>>) {
    let mut steps = Vec::new();
    coverage.expire(Millis(now), &mut steps);
    let asks = coverage.asks(Millis(now), Revision(1), &mut steps);
    (asks.into_iter().map(|ask| (ask.number, ask.partition.0, ask.from.0, ask.to.0)).collect(), steps)
}

/// Takes a message of an answer at `now`, and tells what became of it and what is to be done.
pub(crate) fn answer(
    coverage: &mut Coverage<&'static str>,
    now: u64,
    ask: u64,
    part: Part<&'static str>,
    last: bool,
) -> (Offered, Vec<Step<&'static str>>) {
    let mut steps = Vec::new();
    let answer = ReplayAnswer { router: node("r"), incarnation: LIFE, part, last };
    let offered = coverage.answer(Millis(now), ask, answer, &mut steps);
    (offered, steps)
}

/// A coverage that misses `(0, 5]` of partition 0, and has asked for it as ask 1 when the grace was over.
pub(crate) fn asking() -> Coverage<&'static str> {
    asking_within(LIMITS)
}

/// The same within these limits.
pub(crate) fn asking_within(limits: Limits) -> Coverage<&'static str> {
    let mut coverage = Coverage::new(2, limits);
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(0, 1, 5, 7, &[(6, "b")]));
    assert_eq!(asks(&mut coverage, GRACE - 1), (vec![], vec![]));
    assert_eq!(asks(&mut coverage, GRACE), (vec![(1, 0, 0, 5)], vec![]));
    coverage
}

pub(crate) fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}
