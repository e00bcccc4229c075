//! Tests of repairs: the asks, their times, and the answers.

use tickwire_core::coverage::{Coverage, GapReason, Repaired, SectionOutcome};
use tickwire_core::ids::{Millis, Partition, Revision, Seq};
use tickwire_core::replay::{ReplayPart, ReplayRefusal};

use crate::fixtures::{EPOCH_ID, GRACE, LIMITS, TIMEOUT, answer, apply, asking, asks, coverage, gap, offer, section};

#[test]
fn gap_is_asked_for_after_its_grace_and_delays_no_other_partition() {
    let mut coverage = asking();
    offer(&mut coverage, 0, section(1, 1, 0, 0, &[]));
    assert_eq!(offer(&mut coverage, GRACE, section(1, 1, 0, 8, &[])).1, [apply(1, 0, 8, &[])]);
    // An answer of two messages. The held section follows at once.
    let first = answer(&mut coverage, 30, 1, ReplayPart::Events(section(0, 1, 0, 3, &[(2, "a")])), false);
    assert_eq!(first, (SectionOutcome::Applied, vec![apply(0, 0, 3, &[(2, "a")])]));
    let rest = answer(&mut coverage, 40, 1, ReplayPart::Events(section(0, 1, 3, 5, &[])), true);
    assert_eq!(rest.1, [apply(0, 3, 5, &[]), apply(0, 5, 7, &[(6, "b")])]);
    assert_eq!(coverage.next_expiry(), None);
    let reported: Vec<Repaired> = coverage.repaired().collect();
    let repaired = Repaired { partition: Partition(0), from: Seq(0), through: Seq(7), lasted: 40, asks: 1 };
    assert_eq!(reported, [repaired]);
}

#[test]
fn answer_may_be_split_reordered_duplicated_and_late() {
    let mut coverage = asking();
    let piece = |prev, through| ReplayPart::Events(section(0, 1, prev, through, &[(through, "x")]));
    assert_eq!(answer(&mut coverage, 30, 1, piece(3, 5), true), (SectionOutcome::Held, vec![]));
    // Only the range that is still missing is asked for again, after a pause.
    assert_eq!(asks(&mut coverage, 30), (vec![], vec![]));
    assert_eq!(asks(&mut coverage, 80).0, [(2, 0, 0, 3)]);
    let late = answer(&mut coverage, 90, 1, piece(0, 3), false);
    assert_eq!(late.1, [apply(0, 0, 3, &[(3, "x")]), apply(0, 3, 5, &[(5, "x")]), apply(0, 5, 7, &[(6, "b")])]);
    assert_eq!(answer(&mut coverage, 95, 2, piece(0, 3), true), (SectionOutcome::Duplicate, vec![]));
    assert_eq!(coverage.next_expiry(), None);
}

#[test]
fn answer_that_was_not_asked_for_changes_nothing() {
    let removed = |partition, through| ReplayPart::Removed {
        partition: Partition(partition),
        from: Seq(0),
        through: Seq(through),
        damaged: None,
    };
    let events = |partition, through| ReplayPart::Events(section(partition, 1, 0, through, &[]));
    let mut coverage = asking();
    offer(&mut coverage, 0, section(1, 1, 0, 0, &[]));
    // Nothing of partition 1 is missing, and ask 1 is for partition 0. No gap has the others.
    for (ask, part) in
        [(1, events(1, 9)), (1, removed(1, 9)), (0, events(0, 5)), (2, events(0, 5)), (u64::MAX, removed(0, 5))]
    {
        let unasked = answer(&mut coverage, 30, ask, part.clone(), false);
        assert_eq!(unasked, (SectionOutcome::Unasked, vec![]), "{ask}: {part:?}");
    }
    assert_eq!(coverage.position().unwrap().seqs, [Seq(0), Seq(0)]);
    assert_eq!(answer(&mut coverage, 30, 1, events(0, 5), true).0, SectionOutcome::Applied);
    // The gap is closed, and so is its ask.
    assert_eq!(answer(&mut coverage, 30, 1, events(0, 99), true), (SectionOutcome::Unasked, vec![]));
}

#[test]
fn incomplete_answer_is_followed_by_the_next_ask_at_once() {
    let mut coverage = asking();
    answer(&mut coverage, 30, 1, ReplayPart::Events(section(0, 1, 0, 2, &[])), true);
    assert_eq!(asks(&mut coverage, 30).0, [(2, 0, 2, 5)]);
}

#[test]
fn gap_is_reported_after_asks_failed_for_too_long() {
    let mut coverage = asking();
    // After a refusal the next ask follows after a pause, after a timeout at once. Both times count.
    answer(&mut coverage, 30, 1, ReplayPart::Refused(ReplayRefusal::UnknownInterest), true);
    assert_eq!(coverage.next_expiry(), Some(Millis(80)));
    assert_eq!(asks(&mut coverage, 80).0, [(2, 0, 0, 5)]);
    assert_eq!(coverage.next_expiry(), Some(Millis(80 + TIMEOUT)));
    assert_eq!(asks(&mut coverage, 80 + TIMEOUT).0, [(3, 0, 0, 5)]);
    // A late answer to an earlier ask does not affect this one.
    assert_eq!(answer(&mut coverage, 1_200, 2, ReplayPart::Refused(ReplayRefusal::Busy), true).1, []);
    let reported = asks(&mut coverage, 80 + 2 * TIMEOUT);
    assert_eq!(reported, (vec![], vec![gap(0, 0, 5, GapReason::Lost), apply(0, 5, 7, &[(6, "b")])]));
    assert_eq!((coverage.next_expiry(), coverage.repaired().count()), (None, 0));
}

#[test]
fn progress_resets_the_time_of_failed_asks() {
    let mut coverage = asking();
    let mut now = GRACE;
    for (number, through) in [(1, 1), (4, 2), (7, 3)] {
        for _ in number..number + 2 {
            now += TIMEOUT;
            assert_eq!(asks(&mut coverage, now).0.len(), 1);
        }
        let moved = ReplayPart::Events(section(0, 1, through - 1, through, &[]));
        assert_eq!(answer(&mut coverage, now, number + 2, moved, true).1, [apply(0, through - 1, through, &[])]);
        assert_eq!(asks(&mut coverage, now).0, [(number + 3, 0, through, 5)]);
    }
}

#[test]
fn busy_router_is_asked_again_without_limit_after_growing_pauses() {
    let mut coverage = asking();
    let mut now = GRACE;
    for (number, pause) in (1..).zip([50, 100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000, 2_000]) {
        assert_eq!(answer(&mut coverage, now, number, ReplayPart::Refused(ReplayRefusal::Busy), true).1, []);
        assert_eq!(coverage.next_expiry(), Some(Millis(now + pause)));
        now += pause;
        assert_eq!(asks(&mut coverage, now), (vec![(number + 1, 0, 0, 5)], vec![]));
        assert!(coverage.routers_busy());
    }
    answer(&mut coverage, now, 11, ReplayPart::Refused(ReplayRefusal::NotThere), true);
    assert!(!coverage.routers_busy());
}

#[test]
fn ask_counts_the_unanswered_asks_before_it() {
    let mut coverage = asking();
    let mut coverage_events = Vec::new();
    let mut next = |coverage: &mut Coverage<&'static str>, now| {
        coverage.expire(Millis(now), &mut coverage_events);
        coverage.asks(Millis(now), Revision(1), &mut coverage_events).first().map(|ask| ask.unanswered)
    };
    assert_eq!(next(&mut coverage, GRACE + TIMEOUT), Some(1));
    assert_eq!(next(&mut coverage, GRACE + 2 * TIMEOUT), Some(2));
    // A refusal counts as an answer.
    answer(&mut coverage, GRACE + 2 * TIMEOUT, 3, ReplayPart::Refused(ReplayRefusal::Busy), true);
    assert_eq!(next(&mut coverage, GRACE + 3 * TIMEOUT), Some(0));
}

#[test]
fn time_of_an_unsent_ask_does_not_count() {
    let mut coverage = asking();
    let mut now = GRACE;
    for number in 1..10 {
        coverage.unsent(Millis(now), number);
        assert_eq!(coverage.next_expiry(), Some(Millis(now + 100)));
        now += 100;
        assert_eq!(asks(&mut coverage, now), (vec![(number + 1, 0, 0, 5)], vec![]));
    }
}

#[test]
fn exactly_the_discarded_range_is_reported_as_a_gap() {
    let mut coverage = asking();
    let removed = |from, through| ReplayPart::Removed {
        partition: Partition(0),
        from: Seq(from),
        through: Seq(through),
        damaged: None,
    };
    // A section received while the ask is pending is given.
    offer(&mut coverage, 25, section(0, 1, 2, 3, &[(3, "x")]));
    let reported = answer(&mut coverage, 30, 1, removed(0, 4), false);
    assert_eq!(reported.1, [gap(0, 0, 2, GapReason::Retention), apply(0, 2, 3, &[(3, "x")])]);
    let again = answer(&mut coverage, 30, 1, removed(0, 4), true);
    assert_eq!(again, (SectionOutcome::Applied, vec![gap(0, 3, 4, GapReason::Retention)]));
    assert_eq!(answer(&mut coverage, 30, 1, removed(0, 4), true), (SectionOutcome::Duplicate, vec![]));
    assert_eq!(asks(&mut coverage, 40).0, [(2, 0, 4, 5)]);
}

#[test]
fn older_part_of_a_too_long_gap_is_reported() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(0, 1, 1_500, 1_501, &[]));
    assert_eq!(asks(&mut coverage, GRACE), (vec![(1, 0, 500, 1_500)], vec![gap(0, 0, 500, GapReason::TooLong)]));
}

#[test]
fn concurrent_replays_are_limited_and_the_longest_due_is_first() {
    let mut coverage = Coverage::new(3, LIMITS);
    for partition in [2, 0, 1] {
        offer(&mut coverage, 0, section(partition, 1, 0, 0, &[]));
        let now = 10 - u64::from(partition);
        offer(&mut coverage, now, section(partition, 1, 5, 6, &[]));
    }
    assert_eq!(asks(&mut coverage, 50).0, [(1, 2, 0, 5), (2, 1, 0, 5)]);
    assert_eq!(coverage.next_expiry(), Some(Millis(50 + TIMEOUT)));
    answer(&mut coverage, 60, 1, ReplayPart::Events(section(2, 1, 0, 1, &[])), true);
    assert_eq!(asks(&mut coverage, 60).0, [(3, 0, 0, 5)]);
    assert_eq!(coverage.gaps(), 3);
}

#[test]
fn answer_does_not_count_as_live_reading() {
    let mut coverage = coverage();
    assert_eq!(
        answer(&mut coverage, 0, 1, ReplayPart::Events(section(0, 9, 0, 5, &[])), true),
        (SectionOutcome::Foreign, vec![])
    );
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(1, 1, 0, 0, &[]));
    coverage.unreadable(Millis(0), EPOCH_ID, Partition(0), Seq(5));
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 0, 5)]);
    answer(&mut coverage, 500, 1, ReplayPart::Events(section(0, 9, 0, 5, &[])), true);
    assert_eq!(coverage.lowest_revision(), Revision(1));
    assert_eq!(coverage.silent(Millis(400)).count(), 2);
    assert_eq!(coverage.position().unwrap().seqs, [Seq(5), Seq(0)]);
}
