//! The rules of catching up, one by one.

use tickwire_core::event::Event;
use tickwire_core::ids::Symbol;
use tickwire_testkit::blank_event;

use super::*;
use crate::limits::account::Account;
use crate::outbox::Frame;

const LIMITS: OutboxLimits = OutboxLimits { bytes: 1 << 20, critical: u32::MAX, lanes: false, patience: 10_000 };
const JSON: Encoding = Encoding::Json;
const LIFE: EpochId = EpochId(7);
const GATHERING: u64 = 5;
const TIME: Timestamp = Timestamp(1_700_000_000_000);

fn delivery(partition: u16, seq: u64) -> Arc<Delivery> {
    let event = Event { symbol: Some(Symbol::new("AAPL").unwrap()), ..blank_event() };
    Arc::new(Delivery::new(event, Partition(partition), Seq(seq)))
}

fn seqs<const N: usize>(seqs: [u64; N]) -> Vec<Seq> {
    seqs.map(Seq).into()
}

fn position<const N: usize>(of: [u64; N]) -> Position {
    Position { epoch_id: LIFE, seqs: seqs(of) }
}

/// Two partitions, of which `(10, 20]` and `(30, 30]`, that is nothing, are lacking.
fn lacking(of: BackfillTarget) -> Backfill {
    Backfill::new(Millis(0), None, of, seqs([10, 30]), &position([20, 30]))
}

/// The same, on its way with [`GATHERING`].
fn gathered(of: BackfillTarget) -> Backfill {
    let mut one = lacking(of);
    one.asked();
    one.gathered(GATHERING);
    one
}

/// Offers an event of the first partition for subscription 1.
fn take(one: &mut Backfill, seq: u64) -> bool {
    one.take(Millis(0), (GATHERING, 1), &delivery(0, seq), JSON, &LIMITS)
}

fn reach(one: &mut Backfill, through: u64) {
    one.reach(GATHERING, Partition(0), Seq(through));
}

/// The client reads all there is.
fn read(one: &mut Backfill) -> Vec<u64> {
    let (mut account, mut frame, mut got) = (Account::new(0), Frame::default(), Vec::new());
    while one.outbox.wants_out() {
        one.outbox.compose(Millis(0), &mut account, JSON, &LIMITS, |_, _| true, &mut frame);
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
fn what_is_lacking_is_taken_and_nothing_else() {
    let mut one = gathered(BackfillTarget::Session);
    let taken: Vec<u64> = (8..=23).filter(|seq| take(&mut one, *seq)).collect();
    assert_eq!(taken, (11..=20).collect::<Vec<_>>());
    assert!(!one.take(Millis(0), (GATHERING, 1), &delivery(1, 30), JSON, &LIMITS), "the other partition lacks nothing");
    assert_eq!(read(&mut one), taken);
}

#[test]
fn what_has_been_reached_is_not_taken_again() {
    let mut one = gathered(BackfillTarget::Session);
    assert!(take(&mut one, 12));
    reach(&mut one, 15);
    assert!(!take(&mut one, 12) && !take(&mut one, 15) && take(&mut one, 16));
    assert_eq!(one.ranges(), (LIFE, seqs([15, 30]), seqs([20, 30])));
    reach(&mut one, 13);
    assert_eq!(one.ranges().1, seqs([15, 30]), "nobody goes back");
    reach(&mut one, 99);
    assert_eq!(one.ranges().1, seqs([20, 30]), "nor beyond the end");
}

#[test]
fn an_event_that_two_subscriptions_want_goes_once() {
    let mut one = gathered(BackfillTarget::Session);
    let event = delivery(0, 11);
    for subscription in [1, 2] {
        assert!(one.take(Millis(0), (GATHERING, subscription), &event, JSON, &LIMITS));
    }
    assert_eq!(read(&mut one), [11]);
}

#[test]
fn another_gathering_gives_nothing() {
    let mut one = lacking(BackfillTarget::Session);
    let other = |one: &mut Backfill, cohort| {
        let taken = one.take(Millis(0), (cohort, 1), &delivery(0, 11), JSON, &LIMITS);
        one.reach(cohort, Partition(0), Seq(12));
        let missed = one.miss(cohort, Partition(0), Seq(10), Seq(12));
        (taken, missed, one.ranges().1[0])
    };
    let nothing = (false, None, Seq(10));
    assert_eq!(other(&mut one, GATHERING), nothing, "it has not asked");
    one.gathered(GATHERING);
    assert_eq!((one.cohort(), other(&mut one, GATHERING)), (None, nothing), "nor was it gathered for asking nothing");
    one.asked();
    assert_eq!(other(&mut one, GATHERING), nothing, "it is not gathered");
    one.gathered(GATHERING);
    assert_eq!((one.cohort(), other(&mut one, GATHERING + 1)), (Some(GATHERING), nothing));
    one.ended(GATHERING + 1);
    assert_eq!(one.cohort(), Some(GATHERING), "the end of another is none");
    one.ended(GATHERING);
    assert_eq!((one.cohort(), other(&mut one, GATHERING)), (None, nothing));
    assert!(one.complete);
}

#[test]
fn a_subscriptions_past_is_its_own() {
    let mut one = gathered(BackfillTarget::Subscription(2));
    assert!(!take(&mut one, 11), "that is of subscription 1");
    assert!(one.take(Millis(0), (GATHERING, 2), &delivery(0, 11), JSON, &LIMITS));
    assert_eq!((one.of(), read(&mut one)), (BackfillTarget::Subscription(2), vec![11]));
}

#[test]
fn positions_are_held_back_to_what_has_come() {
    let mut one = gathered(BackfillTarget::Session);
    assert_eq!(held_back(&one, [25, 35]), seqs([10, 35]), "a partition that lacks nothing is free");
    take(&mut one, 12);
    reach(&mut one, 15);
    assert_eq!(held_back(&one, [25, 35]), seqs([11, 35]), "what waits was not given yet");
    read(&mut one);
    assert_eq!(held_back(&one, [25, 35]), seqs([15, 35]));
    assert_eq!(held_back(&one, [9, 35]), seqs([9, 35]), "it is never moved on");
    reach(&mut one, 20);
    assert_eq!(held_back(&one, [25, 35]), seqs([25, 35]));
}

#[test]
fn a_subscriptions_past_holds_no_position_back() {
    let mut one = gathered(BackfillTarget::Subscription(1));
    take(&mut one, 12);
    assert_eq!(held_back(&one, [25, 35]), seqs([25, 35]));
}

#[test]
fn where_the_past_begins_is_clipped_to_its_end() {
    let applied = position([20, 30]);
    let new = || Backfill::new(Millis(0), None, BackfillTarget::Subscription(1), applied.seqs.clone(), &applied);
    let mut one = new().finding(TIME, false);
    assert_eq!(one.next(&LIMITS), BackfillAction::Wait);
    assert_eq!(one.found(Timestamp(TIME.0 + 1), Seq(5)), None, "another time was asked for before");
    assert_eq!(one.found(TIME, Seq(25)), Some((&seqs([20, 25])[..], false)));
    assert_eq!((one.ranges(), one.next(&LIMITS)), ((LIFE, seqs([20, 25]), seqs([20, 30])), BackfillAction::Ask));
    assert_eq!(one.found(TIME, Seq(0)), None, "it is found once");
    let mut none = new().finding(TIME, true);
    assert_eq!(none.found(TIME, Seq(u64::MAX)), Some((&seqs([20, 30])[..], true)));
    assert_eq!(none.next(&LIMITS), BackfillAction::Done);
}

#[test]
fn a_gap_is_told_where_it_is_lacking() {
    let miss = |one: &mut Backfill, from, through| one.miss(GATHERING, Partition(0), Seq(from), Seq(through));
    let mut one = gathered(BackfillTarget::Session);
    assert_eq!((miss(&mut one, 0, 10), miss(&mut one, 20, 30), one.complete), (None, None, true));
    assert_eq!((miss(&mut one, 5, 12), one.complete), (Some((Seq(10), Seq(12))), false));
    assert_eq!(one.ranges().1, seqs([12, 30]));
    assert!(!take(&mut one, 12) && take(&mut one, 13), "what was told does not come as well");
    reach(&mut one, 15);
    assert_eq!(miss(&mut one, 12, 15), None);
    assert_eq!(miss(&mut one, 15, 99), Some((Seq(15), Seq(20))));
    assert_eq!(one.ranges().1, seqs([20, 30]));
}

#[test]
fn who_gives_way_asks_for_the_rest() {
    let mut one = gathered(BackfillTarget::Session);
    take(&mut one, 12);
    reach(&mut one, 12);
    one.give_way();
    assert!(!take(&mut one, 13));
    reach(&mut one, 14);
    assert_eq!(one.miss(GATHERING, Partition(0), Seq(12), Seq(14)), None);
    assert_eq!(one.next(&LIMITS), BackfillAction::Read(GATHERING), "the others are not done");
    one.ended(GATHERING);
    assert_eq!((one.next(&LIMITS), one.ranges().1), (BackfillAction::Ask, seqs([12, 30])));
    one.asked();
    assert_eq!(one.next(&LIMITS), BackfillAction::Wait);
    one.gathered(GATHERING + 1);
    assert!(one.take(Millis(0), (GATHERING + 1, 1), &delivery(0, 13), JSON, &LIMITS), "it takes again");
    assert!(one.complete);
}

#[test]
fn a_client_has_half_read_before_more_is_asked_for() {
    let mut one = gathered(BackfillTarget::Session);
    take(&mut one, 12);
    let size = one.outbox.bytes();
    let [tight, wide] = [2 * size - 1, 2 * size].map(|bytes| OutboxLimits { bytes, ..LIMITS });
    assert_eq!((one.next(&tight), one.next(&wide)), (BackfillAction::Wait, BackfillAction::Read(GATHERING)));
    one.ended(GATHERING);
    assert_eq!((one.next(&tight), one.next(&wide)), (BackfillAction::Wait, BackfillAction::Ask));
}

#[test]
fn new_events_that_are_too_many_become_past() {
    let mut one = gathered(BackfillTarget::Session);
    assert!(one.fall_behind() && one.is_behind());
    assert!(one.fall_behind(), "they are let go until it is renewed, which takes one of its times");
    one.renew(&position([40, 50]));
    assert_eq!((one.is_behind(), one.ranges()), (false, (LIFE, seqs([10, 30]), seqs([40, 50]))));
    one.renew(&position([60, 60]));
    assert_eq!(one.ranges().2, seqs([40, 50]), "nothing was let go since");
}

#[test]
fn what_became_past_is_asked_for_anew() {
    let mut one = gathered(BackfillTarget::Session);
    // Others of the gathering lack more: it went on to 25 before this one wanted it.
    assert!(take(&mut one, 20) && !take(&mut one, 25));
    reach(&mut one, 25);
    assert!(one.fall_behind());
    one.renew(&position([40, 50]));
    assert!(!take(&mut one, 30));
    reach(&mut one, 30);
    assert_eq!(one.miss(GATHERING, Partition(0), Seq(30), Seq(35)), None);
    assert_eq!((one.ranges().1, held_back(&one, [40, 50])), (seqs([20, 30]), seqs([19, 30])));
    one.ended(GATHERING);
    assert_eq!(one.next(&LIMITS), BackfillAction::Ask);
    one.asked();
    one.gathered(GATHERING);
    assert!(!take(&mut one, 20) && take(&mut one, 25) && take(&mut one, 40));
}

#[test]
fn new_events_become_past_sixteen_times() {
    let mut one = lacking(BackfillTarget::Session);
    for time in 1..=16 {
        assert!(one.fall_behind());
        one.renew(&position([20 + time, 30]));
    }
    assert!(!one.fall_behind() && !one.is_behind());
    assert_eq!(one.ranges().2, seqs([36, 30]));
}

#[test]
fn a_subscriptions_past_does_not_grow() {
    let mut one = lacking(BackfillTarget::Subscription(1));
    assert!(!one.fall_behind() && !one.is_behind());
    one.renew(&position([40, 50]));
    assert_eq!(one.ranges().2, seqs([20, 30]));
}

#[test]
fn it_is_done_when_nothing_lacks_and_nothing_waits() {
    let mut one = gathered(BackfillTarget::Session);
    take(&mut one, 20);
    reach(&mut one, 20);
    assert_eq!(one.next(&LIMITS), BackfillAction::Read(GATHERING), "its gathering goes on");
    one.ended(GATHERING);
    assert_eq!(one.next(&LIMITS), BackfillAction::Wait, "an event waits");
    read(&mut one);
    assert!(one.fall_behind());
    assert_eq!(one.next(&LIMITS), BackfillAction::Wait, "new events were let go");
    one.renew(&position([20, 30]));
    assert_eq!(one.next(&LIMITS), BackfillAction::Done);
}

#[test]
fn another_life_of_the_stream_ends_it() {
    let mut one = gathered(BackfillTarget::Session);
    take(&mut one, 12);
    assert!(one.fall_behind());
    let next = Epoch { epoch_id: EpochId(8), before: Seq(4) };
    let lost = [(Partition(0), Seq(10), Seq(25)), (Partition(1), Seq(30), Seq(33))];
    assert_eq!(one.reset(next, &seqs([25, 33])), lost, "what was lacking, and what was let go");
    assert!(!one.complete && !one.is_behind() && one.cohort().is_none());
    assert_eq!(one.next(&LIMITS), BackfillAction::Done, "what has come and not left is lost as well");
    assert_eq!(read(&mut one), [0; 0]);
    // What is let go of the new life is asked for in the new life.
    assert!(one.fall_behind());
    one.renew(&Position { epoch_id: next.epoch_id, seqs: seqs([6, 4]) });
    assert_eq!(one.ranges(), (next.epoch_id, seqs([4, 4]), seqs([6, 4])));
}

#[test]
fn what_another_life_of_the_stream_keeps_is_lacking_still() {
    let mut one = gathered(BackfillTarget::Session);
    let next = Epoch { epoch_id: EpochId(LIFE.0 + 1), before: Seq(15) };
    assert_eq!(one.reset(next, &seqs([20, 30])), [(Partition(0), Seq(15), Seq(20))]);
    assert_eq!(one.ranges(), (next.epoch_id, seqs([10, 15]), seqs([15, 15])));
    assert_eq!(one.next(&LIMITS), BackfillAction::Ask);
    // Of a life that is not the one just before nobody knows what is kept.
    let mut one = gathered(BackfillTarget::Session);
    let later = Epoch { epoch_id: EpochId(LIFE.0 + 2), before: Seq(15) };
    assert_eq!(one.reset(later, &seqs([20, 30])), [(Partition(0), Seq(10), Seq(20))]);
    assert_eq!(one.next(&LIMITS), BackfillAction::Done);
}

#[test]
fn of_a_time_that_was_not_found_yet_all_is_lost_with_the_life_of_the_stream() {
    let mut one = lacking(BackfillTarget::Subscription(1)).finding(TIME, true);
    let next = Epoch { epoch_id: EpochId(8), before: Seq(0) };
    let lost = [(Partition(0), Seq(0), Seq(20)), (Partition(1), Seq(0), Seq(30))];
    assert_eq!(one.reset(next, &seqs([25, 33])), lost);
    assert_eq!(one.found(TIME, Seq(7)), None, "nothing more is told of it");
}

#[test]
fn what_is_read_is_paid_for_once_and_what_is_given_by_each() {
    let mut places = BackfillSlots::default();
    let at = |seqs: &[u64]| Position { epoch_id: LIFE, seqs: seqs.iter().copied().map(Seq).collect() };
    let all = at(&[1_000_000, 1_000_000]);
    // Another one that lacks all, and what it pays for being asked for.
    let mut ask = || {
        let mut one = Backfill::new(Millis(0), None, BackfillTarget::Session, at(&[0, 0]).seqs, &all);
        let place = places.join(one.class()).or_else(|| places.take(one.class())).unwrap();
        let paid = one.take_place(place);
        one.asked();
        (one, paid)
    };
    let both = [(); 2].map(|()| {
        let (mut one, paid) = ask();
        one.gathered(GATHERING);
        (one, paid)
    });
    assert_eq!(both.each_ref().map(|(_, paid)| *paid), [PAID_AHEAD; 2], "a gathering that has begun is not joined");
    drop(both);

    let [(first, ahead), (second, shared)] = [ask(), ask()];
    assert_eq!([ahead, shared], [PAID_AHEAD, 0], "more when it has come");
    let mut both = [first, second];
    for (at, one) in both.iter_mut().enumerate() {
        one.gathered(GATHERING);
        assert!((1..=17).all(|seq| take(one, seq)));
        one.reach(GATHERING, Partition(0), Seq(400_000));
        one.reach(GATHERING, Partition(1), Seq(200_000));
        one.ended(GATHERING);
        let read = if at == 0 { 300_000 - PAID_AHEAD } else { 0 };
        assert_eq!((one.unpaid(), one.unpaid()), (read + 2, 0));
    }
    // The place is free again, and what is asked for next is paid for again.
    let [one, _] = &mut both;
    assert_eq!(one.take_place(places.take(one.class()).unwrap()), PAID_AHEAD);
    let mut short = Backfill::new(Millis(0), None, BackfillTarget::Session, at(&[999_990, 999_993]).seqs, &all);
    assert_eq!(short.take_place(places.take(short.class()).unwrap()), 10);
}
