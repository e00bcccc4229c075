//! Coverage, claims and interest by example: each rule once, small enough to read. The simulator tries them together.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;

use tickwire_core::claims::{Claims, Delivered, Reading};
use tickwire_core::confirm::Confirmations;
use tickwire_core::coverage::{Coverage, GapReason, Limits, Offered, Repaired, Step};
use tickwire_core::event::Event;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{
    Confidence, Incarnation, Life, Millis, NodeId, NodeRef, Nonce, Partition, Revision, Room, Seq, Symbol, UserId,
};
use tickwire_core::interest_log::{Bounds, InterestLog};
use tickwire_core::replay::{Part, Purpose, Refusal, ReplayAnswer, ReplayRequest, Reply, Sought};
use tickwire_core::ring::{Member, Role, View};
use tickwire_core::section::Section;
use tickwire_testkit::blank_event;

const LIFE: Incarnation = Incarnation(7);
const GRACE: u64 = 20;
const TIMEOUT: u64 = 1_000;
const LIMITS: Limits = Limits {
    grace: GRACE,
    hold_bytes: 400,
    replays: 2,
    replay_timeout: TIMEOUT,
    give_up_after: 2_060,
    replay_range: 1_000,
};

fn coverage() -> Coverage<&'static str> {
    Coverage::new(2, LIMITS)
}

fn section(
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

fn life(incarnation: Incarnation, before: u64) -> Life {
    Life { incarnation, before: Seq(before) }
}

/// Offers a section at `now`, and tells what became of it and what is to be done.
fn offer(
    coverage: &mut Coverage<&'static str>,
    now: u64,
    section: Section<&'static str>,
) -> (Offered, Vec<Step<&'static str>>) {
    let mut steps = Vec::new();
    let offered = coverage.offer(Millis(now), life(LIFE, 0), section, &mut steps);
    steps.retain(|step| !matches!(step, Step::Reset { .. } | Step::Adopt { .. }));
    (offered, steps)
}

fn apply(partition: u16, from: u64, upto: u64, events: &[(u64, &'static str)]) -> Step<&'static str> {
    let events = events.iter().map(|(seq, event)| (Seq(*seq), *event)).collect();
    Step::Apply { partition: Partition(partition), from: Seq(from), upto: Seq(upto), events }
}

fn gap(partition: u16, from: u64, upto: u64, reason: GapReason) -> Step<&'static str> {
    Step::Gap { partition: Partition(partition), from: Seq(from), upto: Seq(upto), reason }
}

/// An ask: its number, its partition, and its range.
type Asked = (u64, u16, u64, u64);

/// What is asked for at `now`, and what is to be done.
fn asks(coverage: &mut Coverage<&'static str>, now: u64) -> (Vec<Asked>, Vec<Step<&'static str>>) {
    let mut steps = Vec::new();
    coverage.expire(Millis(now), &mut steps);
    let asks = coverage.asks(Millis(now), &mut steps);
    (asks.into_iter().map(|ask| (ask.number, ask.partition.0, ask.from.0, ask.to.0)).collect(), steps)
}

/// Takes a message of an answer at `now`, and tells what became of it and what is to be done.
fn answer(
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
fn asking() -> Coverage<&'static str> {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(0, 1, 5, 7, &[(6, "b")]));
    assert_eq!(asks(&mut coverage, GRACE - 1), (vec![], vec![]));
    assert_eq!(asks(&mut coverage, GRACE), (vec![(1, 0, 0, 5)], vec![]));
    coverage
}

#[test]
fn coverage_applies_what_follows_and_trims_what_is_known() {
    let mut coverage = coverage();
    let first = offer(&mut coverage, 0, section(0, 1, 10, 12, &[(12, "a")]));
    assert_eq!(first, (Offered::Applied, vec![apply(0, 10, 12, &[(12, "a")])]));
    let overlapping = offer(&mut coverage, 0, section(0, 1, 8, 15, &[(9, "old"), (12, "a"), (14, "b")]));
    assert_eq!(overlapping, (Offered::Applied, vec![apply(0, 12, 15, &[(14, "b")])]));
    let known = offer(&mut coverage, 0, section(0, 1, 10, 15, &[(12, "a"), (14, "b")]));
    assert_eq!(known, (Offered::Duplicate, vec![]));
}

#[test]
fn coverage_puts_sections_in_order_within_the_grace() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 5, 7, &[(6, "b")])), (Offered::Held, vec![]));
    let filled = offer(&mut coverage, GRACE - 1, section(0, 1, 0, 5, &[(3, "a")]));
    assert_eq!(filled.1, [apply(0, 0, 5, &[(3, "a")]), apply(0, 5, 7, &[(6, "b")])]);
    assert_eq!(coverage.next_expiry(), None);
}

#[test]
fn a_gap_is_asked_for_when_its_grace_is_over_and_holds_no_other_partition() {
    let mut coverage = asking();
    offer(&mut coverage, 0, section(1, 1, 0, 0, &[]));
    assert_eq!(offer(&mut coverage, GRACE, section(1, 1, 0, 8, &[])).1, [apply(1, 0, 8, &[])]);
    // An answer of two messages: what is held follows at once.
    let first = answer(&mut coverage, 30, 1, Part::Events(section(0, 1, 0, 3, &[(2, "a")])), false);
    assert_eq!(first, (Offered::Applied, vec![apply(0, 0, 3, &[(2, "a")])]));
    let rest = answer(&mut coverage, 40, 1, Part::Events(section(0, 1, 3, 5, &[])), true);
    assert_eq!(rest.1, [apply(0, 3, 5, &[]), apply(0, 5, 7, &[(6, "b")])]);
    assert_eq!(coverage.next_expiry(), None);
    let told: Vec<Repaired> = coverage.repaired().collect();
    let repaired = Repaired { partition: Partition(0), from: Seq(0), upto: Seq(7), lasted: 40, asks: 1 };
    assert_eq!(told, [repaired]);
}

#[test]
fn an_answer_may_come_in_pieces_out_of_order_twice_and_after_its_time() {
    let mut coverage = asking();
    let piece = |prev, upto| Part::Events(section(0, 1, prev, upto, &[(upto, "x")]));
    assert_eq!(answer(&mut coverage, 30, 1, piece(3, 5), true), (Offered::Held, vec![]));
    // Only what is still missing is asked for again, after a pause.
    assert_eq!(asks(&mut coverage, 30), (vec![], vec![]));
    assert_eq!(asks(&mut coverage, 80).0, [(2, 0, 0, 3)]);
    let late = answer(&mut coverage, 90, 1, piece(0, 3), false);
    assert_eq!(late.1, [apply(0, 0, 3, &[(3, "x")]), apply(0, 3, 5, &[(5, "x")]), apply(0, 5, 7, &[(6, "b")])]);
    assert_eq!(answer(&mut coverage, 95, 2, piece(0, 3), true), (Offered::Duplicate, vec![]));
    assert_eq!(coverage.next_expiry(), None);
}

#[test]
fn an_answer_that_ends_early_is_followed_by_the_next_ask_at_once() {
    let mut coverage = asking();
    answer(&mut coverage, 30, 1, Part::Events(section(0, 1, 0, 2, &[])), true);
    assert_eq!(asks(&mut coverage, 30).0, [(2, 0, 2, 5)]);
}

#[test]
fn a_gap_is_told_when_it_was_asked_for_in_vain_for_too_long() {
    let mut coverage = asking();
    // Refused: after a pause. Not answered: at once. The time of both counts.
    answer(&mut coverage, 30, 1, Part::Refused(Refusal::UnknownInterest), true);
    assert_eq!(coverage.next_expiry(), Some(Millis(80)));
    assert_eq!(asks(&mut coverage, 80).0, [(2, 0, 0, 5)]);
    assert_eq!(coverage.next_expiry(), Some(Millis(80 + TIMEOUT)));
    assert_eq!(asks(&mut coverage, 80 + TIMEOUT).0, [(3, 0, 0, 5)]);
    // A late word on an earlier ask says nothing of this one.
    assert_eq!(answer(&mut coverage, 1_200, 2, Part::Refused(Refusal::Busy), true).1, []);
    let told = asks(&mut coverage, 80 + 2 * TIMEOUT);
    assert_eq!(told, (vec![], vec![gap(0, 0, 5, GapReason::Lost), apply(0, 5, 7, &[(6, "b")])]));
    assert_eq!((coverage.next_expiry(), coverage.repaired().count()), (None, 0));
}

#[test]
fn whatever_moves_a_partition_on_starts_the_counting_of_time_anew() {
    let mut coverage = asking();
    let mut now = GRACE;
    for (number, upto) in [(1, 1), (4, 2), (7, 3)] {
        for _ in number..number + 2 {
            now += TIMEOUT;
            assert_eq!(asks(&mut coverage, now).0.len(), 1);
        }
        let moved = Part::Events(section(0, 1, upto - 1, upto, &[]));
        assert_eq!(answer(&mut coverage, now, number + 2, moved, true).1, [apply(0, upto - 1, upto, &[])]);
        assert_eq!(asks(&mut coverage, now).0, [(number + 3, 0, upto, 5)]);
    }
}

#[test]
fn a_router_that_is_busy_is_asked_again_after_growing_pauses_and_however_often() {
    let mut coverage = asking();
    let mut now = GRACE;
    for (number, pause) in (1..).zip([50, 100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000, 2_000]) {
        assert_eq!(answer(&mut coverage, now, number, Part::Refused(Refusal::Busy), true).1, []);
        assert_eq!(coverage.next_expiry(), Some(Millis(now + pause)));
        now += pause;
        assert_eq!(asks(&mut coverage, now), (vec![(number + 1, 0, 0, 5)], vec![]));
        assert!(coverage.is_crowded());
    }
    answer(&mut coverage, now, 11, Part::Refused(Refusal::NotThere), true);
    assert!(!coverage.is_crowded());
}

#[test]
fn an_ask_tells_how_many_before_it_were_not_answered() {
    let mut coverage = asking();
    let mut steps = Vec::new();
    let mut next = |coverage: &mut Coverage<&'static str>, now| {
        coverage.expire(Millis(now), &mut steps);
        coverage.asks(Millis(now), &mut steps).first().map(|ask| ask.unanswered)
    };
    assert_eq!(next(&mut coverage, GRACE + TIMEOUT), Some(1));
    assert_eq!(next(&mut coverage, GRACE + 2 * TIMEOUT), Some(2));
    // An answer is an answer, whatever it says.
    answer(&mut coverage, GRACE + 2 * TIMEOUT, 3, Part::Refused(Refusal::Busy), true);
    assert_eq!(next(&mut coverage, GRACE + 3 * TIMEOUT), Some(0));
}

#[test]
fn the_time_of_an_ask_that_could_not_be_sent_does_not_count() {
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
fn what_the_stream_discarded_is_told_and_no_more_than_that() {
    let mut coverage = asking();
    let removed = |from, upto| Part::Removed { partition: Partition(0), from: Seq(from), upto: Seq(upto) };
    // What came after all while it was asked for is given.
    offer(&mut coverage, 25, section(0, 1, 2, 3, &[(3, "x")]));
    let told = answer(&mut coverage, 30, 1, removed(0, 4), false);
    assert_eq!(told.1, [gap(0, 0, 2, GapReason::Retention), apply(0, 2, 3, &[(3, "x")])]);
    let again = answer(&mut coverage, 30, 1, removed(0, 4), true);
    assert_eq!(again, (Offered::Applied, vec![gap(0, 3, 4, GapReason::Retention)]));
    assert_eq!(answer(&mut coverage, 30, 1, removed(0, 4), true), (Offered::Duplicate, vec![]));
    assert_eq!(asks(&mut coverage, 40).0, [(2, 0, 4, 5)]);
}

#[test]
fn of_a_gap_that_is_too_long_the_older_part_is_told() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(0, 1, 1_500, 1_501, &[]));
    assert_eq!(asks(&mut coverage, GRACE), (vec![(1, 0, 500, 1_500)], vec![gap(0, 0, 500, GapReason::TooLong)]));
}

#[test]
fn coverage_holds_within_a_bound_and_asks_for_what_it_lets_go() {
    let mut coverage = asking();
    offer(&mut coverage, 20, section(0, 1, 7, 9, &[(8, "c"), (9, "d")]));
    let full = coverage.held_bytes();
    assert_eq!(offer(&mut coverage, 20, section(0, 1, 9, 10, &[(10, "e")])), (Offered::Held, vec![]));
    assert_eq!((full, coverage.held_bytes()), (187, 187), "two sections of 56 bytes, three events of 25");
    // What others need does not hinder one that needs little.
    offer(&mut coverage, 20, section(1, 1, 0, 0, &[]));
    offer(&mut coverage, 20, section(1, 1, 1, 2, &[(2, "f")]));
    assert_eq!(coverage.held_bytes(), 187 + 81);
    offer(&mut coverage, 20, section(1, 1, 0, 1, &[]));
    let filled = answer(&mut coverage, 30, 1, Part::Events(section(0, 1, 0, 5, &[])), true);
    let held = [apply(0, 5, 7, &[(6, "b")]), apply(0, 7, 9, &[(8, "c"), (9, "d")])];
    assert_eq!(filled.1, [&[apply(0, 0, 5, &[])], &held[..]].concat());
    assert_eq!(asks(&mut coverage, 30).0, [(2, 0, 9, 10)]);
}

#[test]
fn only_so_many_replays_are_under_way_and_the_longest_due_goes_first() {
    let mut coverage = Coverage::new(3, LIMITS);
    for partition in [2, 0, 1] {
        offer(&mut coverage, 0, section(partition, 1, 0, 0, &[]));
        let now = 10 - u64::from(partition);
        offer(&mut coverage, now, section(partition, 1, 5, 6, &[]));
    }
    assert_eq!(asks(&mut coverage, 50).0, [(1, 2, 0, 5), (2, 1, 0, 5)]);
    assert_eq!(coverage.next_expiry(), Some(Millis(50 + TIMEOUT)));
    answer(&mut coverage, 60, 1, Part::Events(section(2, 1, 0, 1, &[])), true);
    assert_eq!(asks(&mut coverage, 60).0, [(3, 0, 0, 5)]);
    assert_eq!(coverage.gaps(), 3);
}

#[test]
fn coverage_takes_no_proof_from_a_revision_older_than_what_was_confirmed() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 3, 0, 4, &[]));
    coverage.require(Revision(4));
    // No other section need come: what one tells of that proves nothing is asked for.
    assert_eq!(offer(&mut coverage, 0, section(0, 3, 4, 6, &[(5, "a")])), (Offered::Outdated, vec![]));
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 4, 6)]);
    offer(&mut coverage, GRACE, section(0, 4, 6, 7, &[]));
    let old = answer(&mut coverage, 30, 1, Part::Events(section(0, 3, 4, 6, &[])), true);
    assert_eq!(old, (Offered::Outdated, vec![]));
    assert_eq!(asks(&mut coverage, 80).0, [(2, 0, 4, 6)]);
    // What waits loses its proof as well.
    coverage.require(Revision(5));
    let new = answer(&mut coverage, 90, 2, Part::Events(section(0, 5, 4, 6, &[(5, "a")])), true);
    assert_eq!(new.1, [apply(0, 4, 6, &[(5, "a")])]);
    assert_eq!(asks(&mut coverage, 90).0, [(3, 0, 6, 7)]);
}

#[test]
fn an_answer_tells_nothing_of_what_routers_do_at_present() {
    let mut coverage = coverage();
    assert_eq!(answer(&mut coverage, 0, 1, Part::Events(section(0, 9, 0, 5, &[])), true), (Offered::Foreign, vec![]));
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(1, 1, 0, 0, &[]));
    answer(&mut coverage, 500, 1, Part::Events(section(0, 9, 0, 5, &[])), true);
    assert_eq!(coverage.lowest_revision(), Revision(1));
    assert_eq!(coverage.silent(Millis(400)).count(), 2);
    assert_eq!(coverage.position().unwrap().seqs, [Seq(5), Seq(0)]);
}

#[test]
fn who_was_promised_something_is_given_the_next_life_of_the_stream_from_its_beginning() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 90, &[]));
    offer(&mut coverage, 0, section(1, 1, 0, 91, &[]));
    let (mut steps, next) = (Vec::new(), life(Incarnation(8), 60));
    coverage.offer(Millis(0), next, section(0, 1, 62, 65, &[(64, "new")]), &mut steps);
    let adopt = |partition| Step::Adopt { partition: Partition(partition), at: Seq(60) };
    let reset = Step::Reset { former: Some(LIFE), life: next };
    assert_eq!(steps, [reset, adopt(0), adopt(1)]);
    assert_eq!(coverage.position().unwrap().seqs, [Seq(60), Seq(60)]);
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 60, 62)]);
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 90, 91, &[])), (Offered::Foreign, vec![]));
    assert_eq!(answer(&mut coverage, 0, 1, Part::Events(section(0, 1, 0, 91, &[])), true), (Offered::Foreign, vec![]));
}

#[test]
fn who_was_promised_nothing_yet_begins_where_routers_do() {
    let mut coverage = coverage();
    // Of partition 1 nothing was heard, so that nothing can have been confirmed.
    offer(&mut coverage, 0, section(0, 1, 0, 90, &[]));
    let (mut steps, next) = (Vec::new(), life(Incarnation(8), 0));
    coverage.offer(Millis(0), next, section(0, 1, 2, 3, &[(3, "new")]), &mut steps);
    let reset = Step::Reset { former: Some(LIFE), life: next };
    let adopt = Step::Adopt { partition: Partition(0), at: Seq(2) };
    assert_eq!(steps, [reset, adopt, apply(0, 2, 3, &[(3, "new")])]);
    assert!(!coverage.is_complete());
}

#[test]
fn the_range_of_a_section_that_cannot_be_read_is_asked_for() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 4, &[]));
    coverage.unreadable(Millis(0), Incarnation(6), Partition(0), Seq(9));
    coverage.unreadable(Millis(0), LIFE, Partition(0), Seq(3));
    assert_eq!(coverage.next_expiry(), None);
    coverage.unreadable(Millis(0), LIFE, Partition(0), Seq(6));
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 4, 6)]);
}

#[test]
fn a_stream_made_anew_ends_every_repair() {
    let mut coverage = asking();
    let mut steps = Vec::new();
    coverage.offer(Millis(30), life(Incarnation(8), 0), section(0, 1, 0, 2, &[]), &mut steps);
    assert_eq!((coverage.next_expiry(), coverage.gaps()), (None, 0));
    answer(&mut coverage, 40, 1, Part::Refused(Refusal::OtherStream), true);
    assert_eq!(asks(&mut coverage, 10_000), (vec![], vec![]));
}

#[test]
fn a_reply_claims_what_was_read_and_no_more() {
    let request = ReplayRequest {
        gateway: node("gw"),
        partition: Partition(0),
        from: Seq(10),
        to: Seq(20),
        incarnation: LIFE,
        interest: Sought::Told(Revision(1)),
        purpose: Purpose::Repair,
    };
    let reply = |read: &[(u64, Option<&'static str>)]| {
        let mut reply = Reply::new(&request, Revision(1));
        read.iter().for_each(|(seq, wanted)| reply.read(Seq(*seq), *wanted));
        reply
    };
    let whole = reply(&[(12, Some("a")), (15, None), (20, Some("b"))]);
    assert!(whole.is_complete());
    assert_eq!(whole.finish(Seq(10)), [Part::Events(section(0, 1, 10, 20, &[(12, "a"), (20, "b")]))]);
    // One that lies behind the range completes it as well, and is not part of it.
    let behind = reply(&[(12, Some("a")), (23, Some("c"))]);
    assert_eq!(behind.finish(Seq(0)), [Part::Events(section(0, 1, 10, 20, &[(12, "a")]))]);
    // A replica that lags shows less.
    let lagging = reply(&[(12, Some("a")), (15, None)]);
    assert!(!lagging.is_complete());
    assert_eq!(lagging.finish(Seq(0)), [Part::Events(section(0, 1, 10, 15, &[(12, "a")]))]);
    assert_eq!(reply(&[]).finish(Seq(0)), [Part::Refused(Refusal::NotThere)]);
    // What retention has passed is not claimed, though some of it was read.
    let removed = |upto| Part::Removed { partition: Partition(0), from: Seq(10), upto: Seq(upto) };
    let passed = reply(&[(12, Some("a")), (15, None), (20, Some("b"))]);
    assert_eq!(passed.finish(Seq(13)), [removed(13), Part::Events(section(0, 1, 13, 20, &[(20, "b")]))]);
    assert_eq!(reply(&[(30, None)]).finish(Seq(29)), [removed(20)]);
}

#[test]
fn a_confirmation_waits_for_every_partition_but_not_for_ever() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250);
    confirmations.ask(Millis(0), Revision(2), "subscription");
    offer(&mut coverage, 0, section(0, 2, 0, 1, &[]));
    assert!(confirmations.take(Millis(1_000), &mut coverage).is_empty(), "a partition was never heard of");
    assert_eq!(confirmations.next_deadline(&coverage), None, "no time changes that");
    offer(&mut coverage, 0, section(1, 1, 0, 1, &[]));
    assert!(confirmations.take(Millis(249), &mut coverage).is_empty());
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(250)));
    assert_eq!(confirmations.take(Millis(250), &mut coverage), ["subscription"]);
    assert_eq!(offer(&mut coverage, 0, section(1, 1, 1, 2, &[])).0, Offered::Outdated);
}

#[test]
fn confirmations_come_in_the_order_of_asking_and_those_that_wait_stay() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250);
    for (at, revision, token) in [(0, 5, "late"), (10, 2, "b"), (20, 9, "waits"), (30, 1, "a"), (30, 2, "c")] {
        confirmations.ask(Millis(at), Revision(revision), token);
    }
    offer(&mut coverage, 0, section(0, 2, 0, 1, &[]));
    offer(&mut coverage, 0, section(1, 2, 0, 1, &[]));
    assert_eq!(confirmations.take(Millis(100), &mut coverage), ["b", "a", "c"]);
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(250)));
    assert_eq!(confirmations.take(Millis(260), &mut coverage), ["late"]);
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(270)));
    assert_eq!(confirmations.take(Millis(270), &mut coverage), ["waits"]);
    assert_eq!(confirmations.next_deadline(&coverage), None);
}

fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}

#[test]
fn a_claim_has_one_revision_and_shows_what_cannot_be_read() {
    let (gateway, partition) = (node("gw"), Partition(0));
    let mut claims = Claims::default();
    claims.own(partition, Seq(10));
    claims.revise(&gateway, Revision(1));
    assert_eq!(
        claims.take(&gateway, false),
        [section(0, 1, 10, 10, &[])],
        "a new gateway hears where its claims start"
    );
    claims.push(&gateway, partition, Seq(12), "a");
    claims.advance(partition, Seq(12));
    claims.cut(&gateway);
    claims.revise(&gateway, Revision(2));
    claims.push(&gateway, partition, Seq(14), "b");
    claims.advance(partition, Seq(14));
    claims.skip(partition, Seq(20));
    claims.advance(partition, Seq(21));
    let taken = claims.take(&gateway, true);
    assert_eq!(
        taken,
        [section(0, 1, 10, 12, &[(12, "a")]), section(0, 2, 12, 14, &[(14, "b")]), section(0, 2, 20, 21, &[])]
    );
    assert!(claims.take(&gateway, true).is_empty());
}

#[test]
fn a_reading_is_contiguous_in_the_consumers_own_count() {
    let mut reading = Reading::after(Seq(10));
    assert_eq!(reading.accept(Seq(15), 1), Delivered::Next);
    assert_eq!(reading.accept(Seq(15), 1), Delivered::Known);
    assert_eq!(reading.accept(Seq(40), 3), Delivered::Hole);
    assert_eq!(reading.last, Seq(15));
    // A consumer that starts again from the beginning of the stream is harmless.
    let mut reading = Reading::after(Seq(10));
    assert_eq!(reading.accept(Seq(1), 1), Delivered::Known);
    assert_eq!(reading.accept(Seq(11), 2), Delivered::Next);
}

#[test]
fn interest_grows_with_the_next_revision_and_shrinks_late() {
    let mut log = InterestLog::new(node("gw"), View::default(), 1_000, Bounds::default());
    let narrow = Filter {
        symbols: Some([Symbol::new("AAPL").unwrap()].into()),
        min_confidence: Confidence::new(0.8),
        ..Filter::default()
    };
    let wide = Arc::new(Filter { min_confidence: None, ..narrow.clone() });
    let narrow = Arc::new(narrow);
    assert_eq!(log.add(&wide), Revision(1));
    assert_eq!(log.cut(Millis(0)).unwrap().set.len(), 1);
    assert_eq!(log.add(&narrow), Revision(1), "what is asked for already is part of every revision since");
    assert_eq!(log.cut(Millis(0)), None);
    log.remove(Millis(0), wide.clone());
    assert_eq!(log.cut(Millis(999)), None);
    let shrunk = log.cut(Millis(1_000)).unwrap();
    assert_eq!((shrunk.revision, shrunk.set[0].1.min_confidence), (Revision(2), Confidence::new(0.8)));
    assert_eq!(log.add(&wide), Revision(3), "what grew again is part of the next revision only");
    log.remove(Millis(2_000), wide);
    log.remove(Millis(2_000), narrow);
    assert_eq!(log.cut(Millis(3_000)).unwrap().unset.len(), 1);
}

#[test]
fn who_wants_a_room_is_not_sent_what_is_not_in_it() {
    let room = |name: &str| Room::new(name).unwrap();
    let of_rooms =
        |names: &[&str]| Filter { rooms: Some(names.iter().map(|name| room(name)).collect()), ..Filter::default() };
    let in_rooms = |names: &[&str]| Event { rooms: names.iter().map(|name| room(name)).collect(), ..blank_event() };
    let mut log = InterestLog::new(node("gw"), View::default(), 0, Bounds::default());
    let admits = |log: &mut InterestLog, names: &[&str]| {
        log.cut(Millis(0));
        log.sent().wants.values().any(|want| want.admits(&in_rooms(names)))
    };
    log.add(&Arc::new(of_rooms(&["vip"])));
    log.add(&Arc::new(of_rooms(&["desk"])));
    assert!(admits(&mut log, &["vip"]) && admits(&mut log, &["desk", "lobby"]));
    assert!(!admits(&mut log, &["lobby"]) && !admits(&mut log, &[]));
    log.remove(Millis(0), Arc::new(of_rooms(&["vip"])));
    assert!(!admits(&mut log, &["vip"]));
    log.add(&Arc::new(Filter::default()));
    assert!(admits(&mut log, &[]), "another wants all of the kind");
}

#[test]
fn only_users_away_from_home_are_named() {
    let view = |names: &[&str]| {
        let member = |name: &&str| Member { node: node(name), role: Role::Gateway, weight: 1, draining: false };
        View { version: 1, members: names.iter().map(member).collect() }
    };
    let both = view(&["gw-1", "gw-2"]);
    let user = |at: &str| {
        let mut names = (0..).map(|number| UserId::new(&format!("u{number}")).unwrap());
        names.find(|user| both.home(user) == Some(&node(at))).unwrap()
    };
    let (at_home, stray) = (user("gw-1"), user("gw-2"));
    let mut log = InterestLog::new(node("gw-1"), both.clone(), 0, Bounds::default());
    log.cut(Millis(0)).unwrap();
    assert_eq!(log.add_user(&at_home), Revision(1), "the routers know by the ring");
    assert_eq!(log.cut(Millis(0)), None);
    assert_eq!(log.add_user(&stray), Revision(2));
    assert_eq!(log.cut(Millis(0)).unwrap().strays, std::slice::from_ref(&stray));
    log.set_view(view(&["gw-1"]));
    let alone = log.cut(Millis(0)).unwrap();
    assert_eq!((alone.view, alone.settled), (log.view().id(), vec![stray]), "the view and its strays change together");
}
