//! Fixtures of the tests.

use tickwire_core::coverage::section::Section;
use tickwire_core::coverage::{Coverage, CoverageEvent, GapReason, RepairLimits, SectionOutcome};
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::replay::{ReplayAnswer, ReplayPart};

pub(crate) const EPOCH_ID: EpochId = EpochId(7);
pub(crate) const GRACE: u64 = 20;
pub(crate) const TIMEOUT: u64 = 1_000;
pub(crate) const LIMITS: RepairLimits = RepairLimits {
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
    through: u64,
    events: &[(u64, &'static str)],
) -> Section<&'static str> {
    Section {
        partition: Partition(partition),
        revision: Revision(revision),
        prev: Seq(prev),
        through: Seq(through),
        events: events.iter().map(|(seq, event)| (Seq(*seq), *event)).collect(),
    }
}

pub(crate) fn epoch(epoch_id: EpochId, before: u64) -> Epoch {
    Epoch { epoch_id, before: Seq(before) }
}

/// Offers a section at `now`. Returns the outcome and the coverage events.
pub(crate) fn offer(
    coverage: &mut Coverage<&'static str>,
    now: u64,
    section: Section<&'static str>,
) -> (SectionOutcome, Vec<CoverageEvent<&'static str>>) {
    let mut coverage_events = Vec::new();
    let outcome = coverage.offer(Millis(now), epoch(EPOCH_ID, 0), section, &mut coverage_events);
    coverage_events
        .retain(|coverage_event| !matches!(coverage_event, CoverageEvent::Reset { .. } | CoverageEvent::Adopt { .. }));
    (outcome, coverage_events)
}

pub(crate) fn apply(
    partition: u16,
    from: u64,
    through: u64,
    events: &[(u64, &'static str)],
) -> CoverageEvent<&'static str> {
    let events = events.iter().map(|(seq, event)| (Seq(*seq), *event)).collect();
    CoverageEvent::Apply { partition: Partition(partition), from: Seq(from), through: Seq(through), events }
}

pub(crate) fn gap(partition: u16, from: u64, through: u64, reason: GapReason) -> CoverageEvent<&'static str> {
    CoverageEvent::Gap { partition: Partition(partition), from: Seq(from), through: Seq(through), reason }
}

/// An ask: its number, its partition, and its range.
pub(crate) type Asked = (u64, u16, u64, u64);

/// The asks at `now`, and the coverage events.
pub(crate) fn asks(coverage: &mut Coverage<&'static str>, now: u64) -> (Vec<Asked>, Vec<CoverageEvent<&'static str>>) {
    let mut coverage_events = Vec::new();
    coverage.expire(Millis(now), &mut coverage_events);
    let asks = coverage.asks(Millis(now), Revision(1), &mut coverage_events);
    (asks.into_iter().map(|ask| (ask.number, ask.partition.0, ask.from.0, ask.to.0)).collect(), coverage_events)
}

/// Takes a message of an answer at `now`. Returns the outcome and the coverage events.
pub(crate) fn answer(
    coverage: &mut Coverage<&'static str>,
    now: u64,
    ask: u64,
    part: ReplayPart<&'static str>,
    last: bool,
) -> (SectionOutcome, Vec<CoverageEvent<&'static str>>) {
    let mut coverage_events = Vec::new();
    let answer = ReplayAnswer { router: node("r"), epoch_id: EPOCH_ID, part, last };
    let outcome = coverage.answer(Millis(now), ask, answer, &mut coverage_events);
    (outcome, coverage_events)
}

/// A coverage that misses `(0, 5]` of partition 0, and has made ask 1 for it after the grace.
pub(crate) fn asking() -> Coverage<&'static str> {
    asking_within(LIMITS)
}

/// The same within these limits.
pub(crate) fn asking_within(limits: RepairLimits) -> Coverage<&'static str> {
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
