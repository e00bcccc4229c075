//! The rules of a backfill, one by one.

use crate::limits::backfill_slots::BackfillSlots;
use tickwire_core::event::Event;
use tickwire_core::ids::Symbol;
use tickwire_testkit::blank_event;

use super::*;
use crate::limits::account::Account;
use crate::outbox::Frame;

const LIMITS: OutboxLimits = OutboxLimits { bytes: 1 << 20, critical: u32::MAX, lanes: false, patience: 10_000 };
const JSON: Encoding = Encoding::Json;
const EPOCH_ID: EpochId = EpochId(7);
const COHORT: u64 = 5;
const TIME: Timestamp = Timestamp(1_700_000_000_000);

fn delivery(partition: u16, seq: u64) -> Arc<Delivery> {
    let event = Event { symbol: Some(Symbol::new("AAPL").unwrap()), ..blank_event() };
    Arc::new(Delivery::new(event, Partition(partition), Seq(seq)))
}

/// A subscription without alerts.
fn of(subscription: u32) -> Target {
    Target { subscription, window_ms: 0, alert: false }
}

fn seqs<const N: usize>(seqs: [u64; N]) -> Vec<Seq> {
    seqs.map(Seq).into()
}

fn position<const N: usize>(of: [u64; N]) -> Position {
    Position { epoch_id: EPOCH_ID, seqs: seqs(of) }
}

/// A backfill of two partitions that lacks `(10, 20]` of the first and nothing of the second.
fn lacking(of: BackfillTarget) -> Backfill {
    Backfill::new(Millis(0), None, of, seqs([10, 30]), &position([20, 30]))
}

/// The same, in [`COHORT`].
fn joined_cohort(of: BackfillTarget) -> Backfill {
    let mut one = lacking(of);
    one.asked();
    one.joined_cohort(COHORT);
    one
}

/// Offers an event of the first partition for subscription 1.
fn take(one: &mut Backfill, seq: u64) -> bool {
    one.take(Millis(0), (COHORT, of(1)), &delivery(0, seq), JSON, &LIMITS)
}

fn reach(one: &mut Backfill, through: u64) {
    one.reach(COHORT, Partition(0), Seq(through));
}

/// The client reads everything that waits.
fn read(one: &mut Backfill) -> Vec<u64> {
    let (mut account, mut frame, mut got) = (Account::new(0), Frame::default(), Vec::new());
    while one.outbox.has_output() {
        one.outbox.compose((Millis(0), || Timestamp(0)), (&mut account, |_, _| true), JSON, &LIMITS, &mut frame);
        got.extend(frame.events.iter().map(|waiting| waiting.delivery.seq.0));
    }
    got
}

fn held_back(one: &Backfill, applied: [u64; 2]) -> Vec<Seq> {
    let mut position = position(applied);
    one.hold_back(&mut position);
    position.seqs
}

#[test]
fn only_lacking_events_are_taken() {
    let mut one = joined_cohort(BackfillTarget::Session);
    let taken: Vec<u64> = (8..=23).filter(|seq| take(&mut one, *seq)).collect();
    assert_eq!(taken, (11..=20).collect::<Vec<_>>());
    assert!(
        !one.take(Millis(0), (COHORT, of(1)), &delivery(1, 30), JSON, &LIMITS),
        "the other partition lacks nothing"
    );
    assert_eq!(read(&mut one), taken);
}

#[test]
fn events_up_to_the_reached_sequence_are_not_taken_again() {
    let mut one = joined_cohort(BackfillTarget::Session);
    assert!(take(&mut one, 12));
    reach(&mut one, 15);
    assert!(!take(&mut one, 12) && !take(&mut one, 15) && take(&mut one, 16));
    assert_eq!(one.ranges(), (EPOCH_ID, seqs([15, 30]), seqs([20, 30])));
    reach(&mut one, 13);
    assert_eq!(one.ranges().1, seqs([15, 30]), "it never moves back");
    reach(&mut one, 99);
    assert_eq!(one.ranges().1, seqs([20, 30]), "it never moves beyond the end");
}

#[test]
fn event_that_matches_two_subscriptions_is_sent_once() {
    let mut one = joined_cohort(BackfillTarget::Session);
    let event = delivery(0, 11);
    for subscription in [1, 2] {
        assert!(one.take(Millis(0), (COHORT, of(subscription)), &event, JSON, &LIMITS));
    }
    assert_eq!(read(&mut one), [11]);
}

#[test]
fn another_cohort_changes_nothing() {
    let mut one = lacking(BackfillTarget::Session);
    let other = |one: &mut Backfill, cohort| {
        let taken = one.take(Millis(0), (cohort, of(1)), &delivery(0, 11), JSON, &LIMITS);
        one.reach(cohort, Partition(0), Seq(12));
        let missed = one.miss(cohort, Partition(0), Seq(10), Seq(12));
        (taken, missed, one.ranges().1[0])
    };
    let nothing = (false, None, Seq(10));
    assert_eq!(other(&mut one, COHORT), nothing, "it has not asked yet");
    one.joined_cohort(COHORT);
    assert_eq!((one.cohort(), other(&mut one, COHORT)), (None, nothing), "without a request it joins no cohort");
    one.asked();
    assert_eq!(other(&mut one, COHORT), nothing, "it is in no cohort yet");
    one.joined_cohort(COHORT);
    assert_eq!((one.cohort(), other(&mut one, COHORT + 1)), (Some(COHORT), nothing));
    one.ended(COHORT + 1);
    assert_eq!(one.cohort(), Some(COHORT), "the end of another cohort has no effect");
    one.ended(COHORT);
    assert_eq!((one.cohort(), other(&mut one, COHORT)), (None, nothing));
    assert!(one.complete);
}

#[test]
fn backfill_of_a_subscription_takes_only_its_events() {
    let mut one = joined_cohort(BackfillTarget::Subscription(2));
    assert!(!take(&mut one, 11), "the event is for subscription 1");
    assert!(one.take(Millis(0), (COHORT, of(2)), &delivery(0, 11), JSON, &LIMITS));
    assert_eq!((one.of(), read(&mut one)), (BackfillTarget::Subscription(2), vec![11]));
}

#[test]
fn position_is_limited_to_what_the_client_has_received() {
    let mut one = joined_cohort(BackfillTarget::Session);
    assert_eq!(held_back(&one, [25, 35]), seqs([10, 35]), "a partition that lacks nothing is free");
    take(&mut one, 12);
    reach(&mut one, 15);
    assert_eq!(held_back(&one, [25, 35]), seqs([11, 35]), "what waits was not sent yet");
    read(&mut one);
    assert_eq!(held_back(&one, [25, 35]), seqs([15, 35]));
    assert_eq!(held_back(&one, [9, 35]), seqs([9, 35]), "it is never moved forward");
    reach(&mut one, 20);
    assert_eq!(held_back(&one, [25, 35]), seqs([25, 35]));
}

#[test]
fn backfill_of_a_subscription_does_not_limit_the_position() {
    let mut one = joined_cohort(BackfillTarget::Subscription(1));
    take(&mut one, 12);
    assert_eq!(held_back(&one, [25, 35]), seqs([25, 35]));
}

#[test]
fn found_beginning_is_clipped_to_the_end() {
    let applied = position([20, 30]);
    let new = || Backfill::new(Millis(0), None, BackfillTarget::Subscription(1), applied.seqs.clone(), &applied);
    let mut one = new().finding(TIME, false);
    assert_eq!(one.next(&LIMITS), BackfillAction::Wait);
    assert_eq!(one.found(Timestamp(TIME.0 + 1), Seq(5)), None, "the answer to an earlier request for another time");
    assert_eq!(one.found(TIME, Seq(25)), Some((&seqs([20, 25])[..], false)));
    assert_eq!((one.ranges(), one.next(&LIMITS)), ((EPOCH_ID, seqs([20, 25]), seqs([20, 30])), BackfillAction::Ask));
    assert_eq!(one.found(TIME, Seq(0)), None, "it is found only once");
    let mut none = new().finding(TIME, true);
    assert_eq!(none.found(TIME, Seq(u64::MAX)), Some((&seqs([20, 30])[..], true)));
    assert_eq!(none.next(&LIMITS), BackfillAction::Done);
}

#[test]
fn gap_is_reported_for_the_lacking_part_only() {
    let miss = |one: &mut Backfill, from, through| one.miss(COHORT, Partition(0), Seq(from), Seq(through));
    let mut one = joined_cohort(BackfillTarget::Session);
    assert_eq!((miss(&mut one, 0, 10), miss(&mut one, 20, 30), one.complete), (None, None, true));
    assert_eq!((miss(&mut one, 5, 12), one.complete), (Some((Seq(10), Seq(12))), false));
    assert_eq!(one.ranges().1, seqs([12, 30]));
    assert!(!take(&mut one, 12) && take(&mut one, 13), "what was reported as a gap is not taken as well");
    reach(&mut one, 15);
    assert_eq!(miss(&mut one, 12, 15), None);
    assert_eq!(miss(&mut one, 15, 99), Some((Seq(15), Seq(20))));
    assert_eq!(one.ranges().1, seqs([20, 30]));
}

#[test]
fn backfill_that_gives_way_asks_for_the_rest_later() {
    let mut one = joined_cohort(BackfillTarget::Session);
    take(&mut one, 12);
    reach(&mut one, 12);
    one.pause();
    assert!(!take(&mut one, 13));
    reach(&mut one, 14);
    assert_eq!(one.miss(COHORT, Partition(0), Seq(12), Seq(14)), None);
    assert_eq!(one.next(&LIMITS), BackfillAction::Read(COHORT), "the cohort has not ended");
    one.ended(COHORT);
    assert_eq!((one.next(&LIMITS), one.ranges().1), (BackfillAction::Ask, seqs([12, 30])));
    one.asked();
    assert_eq!(one.next(&LIMITS), BackfillAction::Wait);
    one.joined_cohort(COHORT + 1);
    assert!(one.take(Millis(0), (COHORT + 1, of(1)), &delivery(0, 13), JSON, &LIMITS), "it takes again");
    assert!(one.complete);
}

#[test]
fn more_is_asked_for_when_the_client_has_read_half() {
    let mut one = joined_cohort(BackfillTarget::Session);
    take(&mut one, 12);
    let size = one.outbox.bytes();
    let [tight, wide] = [2 * size - 1, 2 * size].map(|bytes| OutboxLimits { bytes, ..LIMITS });
    assert_eq!((one.next(&tight), one.next(&wide)), (BackfillAction::Wait, BackfillAction::Read(COHORT)));
    one.ended(COHORT);
    assert_eq!((one.next(&tight), one.next(&wide)), (BackfillAction::Wait, BackfillAction::Ask));
}

#[test]
fn dropped_new_events_become_part_of_the_backfill() {
    let mut one = joined_cohort(BackfillTarget::Session);
    assert!(one.fall_behind() && one.is_behind());
    assert!(one.fall_behind(), "new events are dropped until it is renewed, and this counts as one renewal");
    one.renew(&position([40, 50]));
    assert_eq!((one.is_behind(), one.ranges()), (false, (EPOCH_ID, seqs([10, 30]), seqs([40, 50]))));
    one.renew(&position([60, 60]));
    assert_eq!(one.ranges().2, seqs([40, 50]), "nothing was dropped since");
}

#[test]
fn position_does_not_move_back_when_new_events_join_the_backfill() {
    let mut one = joined_cohort(BackfillTarget::Session);
    assert_eq!(held_back(&one, [40, 50]), seqs([10, 50]), "nothing of the second partition is lacking");
    assert!(one.fall_behind());
    // An event waits behind 45 there.
    one.come_to(&position([40, 45]));
    one.renew(&position([40, 50]));
    assert_eq!((one.ranges().1, held_back(&one, [40, 50])), (seqs([10, 45]), seqs([10, 45])));
}

#[test]
fn extended_range_is_requested_with_the_next_cohort() {
    let mut one = joined_cohort(BackfillTarget::Session);
    // Others of the cohort lack more: the cohort advanced to 25 before this backfill was extended.
    assert!(take(&mut one, 20) && !take(&mut one, 25));
    reach(&mut one, 25);
    assert!(one.fall_behind());
    one.renew(&position([40, 50]));
    assert!(!take(&mut one, 30));
    reach(&mut one, 30);
    assert_eq!(one.miss(COHORT, Partition(0), Seq(30), Seq(35)), None);
    assert_eq!((one.ranges().1, held_back(&one, [40, 50])), (seqs([20, 30]), seqs([19, 30])));
    one.ended(COHORT);
    assert_eq!(one.next(&LIMITS), BackfillAction::Ask);
    one.asked();
    one.joined_cohort(COHORT);
    assert!(!take(&mut one, 20) && take(&mut one, 25) && take(&mut one, 40));
}

#[test]
fn backfill_is_extended_sixteen_times_at_most() {
    let mut one = lacking(BackfillTarget::Session);
    for time in 1..=16 {
        assert!(one.fall_behind());
        one.renew(&position([20 + time, 30]));
    }
    assert!(!one.fall_behind() && !one.is_behind());
    assert_eq!(one.ranges().2, seqs([36, 30]));
}

#[test]
fn backfill_of_a_subscription_is_never_extended() {
    let mut one = lacking(BackfillTarget::Subscription(1));
    assert!(!one.fall_behind() && !one.is_behind());
    one.renew(&position([40, 50]));
    assert_eq!(one.ranges().2, seqs([20, 30]));
}

#[test]
fn backfill_is_done_when_nothing_is_lacking_and_nothing_waits() {
    let mut one = joined_cohort(BackfillTarget::Session);
    take(&mut one, 20);
    reach(&mut one, 20);
    assert_eq!(one.next(&LIMITS), BackfillAction::Read(COHORT), "its cohort continues");
    one.ended(COHORT);
    assert_eq!(one.next(&LIMITS), BackfillAction::Wait, "an event waits");
    read(&mut one);
    assert!(one.fall_behind());
    assert_eq!(one.next(&LIMITS), BackfillAction::Wait, "new events were dropped");
    one.renew(&position([20, 30]));
    assert_eq!(one.next(&LIMITS), BackfillAction::Done);
}

#[test]
fn new_epoch_ends_a_backfill_of_which_nothing_is_kept() {
    let mut one = joined_cohort(BackfillTarget::Session);
    take(&mut one, 12);
    assert!(one.fall_behind());
    let next = Epoch { epoch_id: EpochId(8), before: Seq(4) };
    let lost = [(Partition(0), Seq(10), Seq(25)), (Partition(1), Seq(30), Seq(33))];
    assert_eq!(one.reset(next, &seqs([25, 33])), lost, "what was lacking, and what was dropped");
    assert!(!one.complete && !one.is_behind() && one.cohort().is_none());
    assert_eq!(one.next(&LIMITS), BackfillAction::Done, "what waits in the outbox is lost as well");
    assert_eq!(read(&mut one), [0; 0]);
    // Events of the new epoch that are dropped are requested in the new epoch.
    assert!(one.fall_behind());
    one.renew(&Position { epoch_id: next.epoch_id, seqs: seqs([6, 4]) });
    assert_eq!(one.ranges(), (next.epoch_id, seqs([4, 4]), seqs([6, 4])));
}

#[test]
fn what_a_new_epoch_keeps_is_still_lacking() {
    let mut one = joined_cohort(BackfillTarget::Session);
    let next = Epoch { epoch_id: EpochId(EPOCH_ID.0 + 1), before: Seq(15) };
    assert_eq!(one.reset(next, &seqs([20, 30])), [(Partition(0), Seq(15), Seq(20))]);
    assert_eq!(one.ranges(), (next.epoch_id, seqs([10, 15]), seqs([15, 15])));
    assert_eq!(one.next(&LIMITS), BackfillAction::Ask);
    // It is unknown what is kept of an epoch that is not the one just before.
    let mut one = joined_cohort(BackfillTarget::Session);
    let later = Epoch { epoch_id: EpochId(EPOCH_ID.0 + 2), before: Seq(15) };
    assert_eq!(one.reset(later, &seqs([20, 30])), [(Partition(0), Seq(10), Seq(20))]);
    assert_eq!(one.next(&LIMITS), BackfillAction::Done);
}

#[test]
fn new_epoch_loses_everything_if_the_time_was_not_found_yet() {
    let mut one = lacking(BackfillTarget::Subscription(1)).finding(TIME, true);
    let next = Epoch { epoch_id: EpochId(8), before: Seq(0) };
    let lost = [(Partition(0), Seq(0), Seq(20)), (Partition(1), Seq(0), Seq(30))];
    assert_eq!(one.reset(next, &seqs([25, 33])), lost);
    assert_eq!(one.found(TIME, Seq(7)), None, "the search has no effect any more");
}

#[test]
fn reading_is_paid_once_per_slot_and_received_events_by_each_session() {
    let mut slots = BackfillSlots::default();
    let at = |seqs: &[u64]| Position { epoch_id: EPOCH_ID, seqs: seqs.iter().copied().map(Seq).collect() };
    let all = at(&[1_000_000, 1_000_000]);
    // A new backfill that lacks everything, and what it pays for the request.
    let mut ask = || {
        let mut one = Backfill::new(Millis(0), None, BackfillTarget::Session, at(&[0, 0]).seqs, &all);
        let slot = slots.join(one.class()).or_else(|| slots.take(one.class())).unwrap();
        let paid = one.take_slot(slot);
        one.asked();
        (one, paid)
    };
    let both = [(); 2].map(|()| {
        let (mut one, paid) = ask();
        one.joined_cohort(COHORT);
        (one, paid)
    });
    assert_eq!(both.each_ref().map(|(_, paid)| *paid), [PAID_AHEAD; 2], "a cohort that has begun is not joined");
    drop(both);

    let [(first, ahead), (second, shared)] = [ask(), ask()];
    assert_eq!([ahead, shared], [PAID_AHEAD, 0], "more is paid when it has arrived");
    let mut both = [first, second];
    for (at, one) in both.iter_mut().enumerate() {
        one.joined_cohort(COHORT);
        assert!((1..=17).all(|seq| take(one, seq)));
        one.reach(COHORT, Partition(0), Seq(400_000));
        one.reach(COHORT, Partition(1), Seq(200_000));
        one.ended(COHORT);
        let read = if at == 0 { 300_000 - PAID_AHEAD } else { 0 };
        assert_eq!((one.unpaid(), one.unpaid()), (read + 2, 0));
    }
    // The slot is free again, and the next request is paid for again.
    let [one, _] = &mut both;
    assert_eq!(one.take_slot(slots.take(one.class()).unwrap()), PAID_AHEAD);
    let mut short = Backfill::new(Millis(0), None, BackfillTarget::Session, at(&[999_990, 999_993]).seqs, &all);
    assert_eq!(short.take_slot(slots.take(short.class()).unwrap()), 10);
}
