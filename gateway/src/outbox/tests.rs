//! The rules of an outbox: by example, and under random load, limits and stalls.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tickwire_core::event::{Event, Handling, Priority, Strategy as SpreadStrategy};
use tickwire_core::ids::{Confidence, EpochId, Symbol};
use tickwire_testkit::blank_event;

use super::*;

mod alerts;
mod handling;
mod properties;

const WINDOW: u16 = 100;
const TARGET: Target = Target { subscription: 1, window_ms: WINDOW, alert: false };
const OPEN: OutboxLimits = OutboxLimits { bytes: 1 << 20, critical: 1_000, lanes: true, patience: 10_000 };
const JSON: Encoding = Encoding::Json;

/// What rules, or its producer, said of an event of a test.
#[derive(Clone, Copy, Debug, Default)]
struct Handled {
    goes_first: bool,
    confidence: Option<f64>,
    ttl_ms: Option<u64>,
    stored: i64,
}

impl Handled {
    /// The handling; `None` if there is nothing to say.
    fn handling(self) -> Option<Box<Handling>> {
        let strategy = if self.goes_first { SpreadStrategy::PriorityFirst } else { SpreadStrategy::Content };
        let handling = Handling { strategy, rooms: Vec::new(), ttl_ms: self.ttl_ms };
        (handling != Handling::default()).then(|| Box::new(handling))
    }
}

fn event(seq: u64, priority: Priority, key: u8, size: usize) -> Arc<Delivery> {
    handled_event(seq, priority, key, size, Handled::default())
}

fn handled_event(seq: u64, priority: Priority, key: u8, size: usize, handled: Handled) -> Arc<Delivery> {
    let symbol = Symbol::new(&format!("S{key}")).unwrap();
    let mut data = serde_json::Map::new();
    data.insert("note".into(), "x".repeat(size).into());
    let event = Event {
        key: symbol.as_str().into(),
        stored: Timestamp(handled.stored),
        symbol: Some(symbol),
        confidence: handled.confidence.and_then(Confidence::new),
        priority,
        data,
        handling: handled.handling(),
        ..blank_event()
    };
    Arc::new(Delivery::new(event, Partition(u16::from(key % 2)), Seq(seq)))
}

/// The time of day at a moment of a test.
fn time_of_day(now: Millis) -> Timestamp {
    Timestamp(now.0 as i64)
}

fn no_quota(_: &mut Account, _: &QueuedEvent) -> bool {
    true
}

/// An outbox with an unlimited user, for examples.
struct Example {
    outbox: Outbox,
    account: Account,
    limits: OutboxLimits,
    frame: Frame,
}

impl Example {
    fn new(rate: u32, limits: OutboxLimits) -> Self {
        Self { outbox: Outbox::new(), account: Account::new(rate), limits, frame: Frame::default() }
    }

    fn push(&mut self, now: u64, seq: u64, priority: Priority) -> OutboxLoad {
        self.outbox.push(Millis(now), &event(seq, priority, seq as u8, 1), TARGET, JSON, &self.limits)
    }

    fn send(&mut self, now: u64) -> Vec<u64> {
        let times = (Millis(now), || time_of_day(Millis(now)));
        self.outbox.compose(times, (&mut self.account, no_quota), JSON, &self.limits, &mut self.frame);
        self.frame.events.iter().map(|waiting| waiting.delivery.seq.0).collect()
    }

    fn due(&self) -> Option<u64> {
        self.outbox.due().map(|due| due.0)
    }
}

#[test]
fn event_is_sent_at_once_to_a_quiet_session_and_at_the_end_of_the_window_to_a_busy_one() {
    let mut one = Example::new(0, OPEN);
    one.push(1_000, 1, Priority::Low);
    assert_eq!((one.due(), one.send(1_000)), (Some(1_000), vec![1]));
    assert_eq!(one.due(), None);
    one.push(1_025, 2, Priority::Low);
    assert_eq!(one.due(), Some(1_100));
    one.outbox.push(
        Millis(1_025),
        &event(3, Priority::Low, 3, 1),
        Target { window_ms: WINDOW / 2, ..TARGET },
        JSON,
        &OPEN,
    );
    assert_eq!(one.due(), Some(1_050), "the smallest window counts");
    one.push(1_030, 4, Priority::Critical);
    assert_eq!(one.due(), Some(1_030), "a critical event waits for no window");
    assert_eq!(one.send(1_030), [4, 2, 3], "and its frame has the others too");
    assert!(!one.frame.early, "nothing was overtaken: all were sent together");
    one.push(1_300, 5, Priority::Low);
    assert_eq!(one.due(), Some(1_300));
}

#[test]
fn event_that_matches_several_subscriptions_waits_once() {
    let (mut outbox, once) = (Outbox::new(), event(1, Priority::Critical, 1, 1));
    let limits = OutboxLimits { critical: 1, ..OPEN };
    for subscription in 1..4 {
        outbox.push(Millis(0), &once, Target { subscription, ..TARGET }, JSON, &limits);
    }
    assert_eq!(outbox.len(), 1);
    // It used one unit of the budget, not three.
    assert!(outbox.notices.is_empty());
}

#[test]
fn frames_end_at_fifty_events_or_sixty_four_kilobytes() {
    let mut many = Example::new(0, OPEN);
    for seq in 1..=120 {
        many.push(0, seq, Priority::Low);
    }
    assert_eq!([50, 50, 20], [(); 3].map(|()| many.send(0).len()));
    assert!(many.send(0).is_empty());
    let mut large = Example::new(0, OPEN);
    for (seq, size) in [(1, 30_000), (2, 30_000), (3, 30_000), (4, 100_000)] {
        large.outbox.push(Millis(0), &event(seq, Priority::Low, seq as u8, size), TARGET, JSON, &OPEN);
    }
    assert_eq!([(); 3].map(|()| large.send(0)), [vec![1, 2], vec![3], vec![4]]);
}

#[test]
fn frame_is_no_larger_than_what_may_wait_for_its_session() {
    let mut small = Example::new(0, OutboxLimits { bytes: 16_384, ..OPEN });
    for seq in 1..=4 {
        // An outbox that is over its bound is still sent: the events were taken before the bound was checked.
        small.outbox.push(Millis(0), &event(seq, Priority::Low, seq as u8, 7_000), TARGET, JSON, &OPEN);
    }
    assert_eq!([(); 2].map(|()| small.send(0)), [vec![1, 2], vec![3, 4]]);
}

#[test]
fn lanes_are_sent_by_priority_and_a_frame_that_overtakes_is_early() {
    let mut lanes = Example::new(0, OPEN);
    for seq in 1..=60 {
        let priority = if seq % 2 == 0 { Priority::High } else { Priority::Low };
        lanes.outbox.push(Millis(0), &event(seq, priority, 1, 1), TARGET, JSON, &OPEN);
    }
    let first = lanes.send(0);
    assert_eq!(first[..30], (1..=30).map(|n| n * 2).collect::<Vec<u64>>());
    assert!(lanes.frame.early);
    let applied = Position { epoch_id: EpochId(7), seqs: vec![Seq(60), Seq(60)] };
    assert_eq!(lanes.outbox.hold_back(&applied).seqs, [Seq(60), Seq(40)]);
    assert_eq!(lanes.send(0), (20..30).map(|n| n * 2 + 1).collect::<Vec<u64>>());
    assert!(!lanes.frame.early);
    assert_eq!(lanes.outbox.hold_back(&applied), applied);

    let mut single = Example::new(0, OutboxLimits { lanes: false, ..OPEN });
    for (seq, priority) in [(1, Priority::Low), (2, Priority::High), (3, Priority::Critical)] {
        single.push(0, seq, priority);
    }
    assert_eq!((single.send(0), single.frame.early), (vec![1, 2, 3], false));
}

#[test]
fn critical_events_beyond_their_budget_wait_with_a_notice() {
    let mut critical = Example::new(0, OutboxLimits { critical: 2, ..OPEN });
    critical.push(0, 1, Priority::Critical);
    assert_eq!(critical.send(0), [1]);
    critical.push(10, 2, Priority::Critical);
    assert_eq!((critical.due(), critical.send(10)), (Some(10), vec![2]));
    critical.push(20, 3, Priority::Critical);
    assert_eq!(critical.due(), Some(110));
    assert_eq!(critical.send(110), [3]);
    let [(1, notice)] = &critical.frame.notices[..] else { panic!("{:?}", critical.frame.notices) };
    assert_eq!((notice.code.as_str(), notice.delayed, notice.dropped), ("critical_budget", 1, 0));
    assert_eq!(notice.ranges, [tickwire_core::protocol::SeqRange { p: Partition(1), first: Seq(3), last: Seq(3) }]);
}

#[test]
fn used_up_rate_conflates_then_drops_and_lets_critical_events_pass() {
    let mut user = Example::new(3, OPEN);
    // Nine events of three keys, after three that were sent.
    for seq in 1..=3 {
        user.push(0, seq, Priority::Low);
    }
    assert_eq!(user.send(0), [1, 2, 3]);
    for seq in 4..=12 {
        user.outbox.push(Millis(10), &event(seq, Priority::Low, (seq % 3) as u8, 1), TARGET, JSON, &OPEN);
    }
    assert!(user.send(100).is_empty());
    let [(1, notice)] = &user.frame.notices[..] else { panic!("{:?}", user.frame.notices) };
    assert_eq!((notice.code.as_str(), notice.conflated, notice.dropped), ("throttled", 6, 0));
    assert_eq!(user.due(), Some(1_100), "when the first of the second is over");
    user.push(110, 13, Priority::Critical);
    assert_eq!((user.due(), user.send(110)), (Some(110), vec![13]));
    assert_eq!(user.send(1_100), [10, 11, 12]);
    assert!(user.frame.events.iter().all(|waiting| waiting.conflated == 2));
    // High events are never conflated: more of them than a second's worth are dropped.
    for seq in 20..30 {
        user.push(1_110, seq, Priority::High);
    }
    assert!(user.send(1_210).is_empty());
    let [(1, notice)] = &user.frame.notices[..] else { panic!("{:?}", user.frame.notices) };
    assert_eq!((notice.code.as_str(), notice.conflated, notice.dropped), ("throttled", 0, 7));
    assert_eq!(user.send(2_200), [27, 28, 29]);
}

#[test]
fn event_that_waited_for_five_seconds_is_sent_first() {
    let mut slow = Example::new(0, OPEN);
    slow.push(0, 1, Priority::Low);
    for seq in 2..=80 {
        slow.push(5_000, seq, Priority::High);
    }
    assert_eq!(slow.send(4_999)[0], 2);
    let next = slow.send(5_000);
    assert_eq!((next[0], slow.frame.promoted), (1, 1));
}

#[test]
fn slow_reader_loses_low_events_with_a_notice_and_then_recovers_or_is_closed() {
    let limits = OutboxLimits { bytes: 20_000, ..OPEN };
    let mut slow = Example::new(0, limits);
    let mut dropped = Vec::new();
    let mut push = |slow: &mut Example, seq: u64, priority, now| {
        let load = slow.outbox.push(Millis(now), &event(seq, priority, seq as u8, 900), TARGET, JSON, &limits);
        (load == OutboxLoad::Heavy).then(|| slow.outbox.shed_load(Millis(now), JSON, &limits, &mut dropped))
    };
    let mut times_shed = 0;
    for seq in 1..=40 {
        let priority = if seq % 2 == 0 { Priority::High } else { Priority::Low };
        times_shed += u32::from(push(&mut slow, seq, priority, 0) == Some(ShedResult::WithinLimit));
    }
    assert!(times_shed > 0 && slow.outbox.bytes() <= limits.bytes);
    assert!(
        slow.outbox.lanes.iter().all(|waiting| waiting.delivery.event.priority == Priority::High),
        "low events are dropped first"
    );
    slow.send(10);
    let codes: Vec<(&str, u64)> =
        slow.frame.notices.iter().map(|(_, notice)| (notice.code.as_str(), notice.dropped)).collect();
    assert_eq!(codes, [("slow_consumer", 40 - slow.frame.events.len() as u64), ("recovered", 0)]);
    assert!(slow.outbox.slow_since.is_none());

    let mut stalled = Example::new(0, limits);
    let mut over_limit = None;
    for seq in 1..=300 {
        if push(&mut stalled, seq, Priority::High, seq * 100) == Some(ShedResult::OverLimit) {
            over_limit = Some(seq * 100);
            break;
        }
    }
    let since = stalled.outbox.slow_since.unwrap().0;
    assert!(over_limit.is_some_and(|at| at >= since + limits.patience), "{over_limit:?}, slow since {since}");
    let mut critical = Example::new(0, limits);
    let closed = (1..=40).any(|seq| push(&mut critical, seq, Priority::Critical, 0) == Some(ShedResult::OverLimit));
    assert!(closed, "critical events are never dropped: the connection is closed instead");
}

#[test]
fn used_up_quota_drops_events_but_no_critical_ones() {
    let mut one = Example::new(0, OPEN);
    for (seq, priority) in [(1, Priority::High), (2, Priority::Critical), (3, Priority::High)] {
        one.push(0, seq, priority);
    }
    let used_up = |_: &mut Account, _: &QueuedEvent| false;
    let times = (Millis(0), || time_of_day(Millis(0)));
    one.outbox.compose(times, (&mut one.account, used_up), JSON, &OPEN, &mut one.frame);
    assert_eq!(one.frame.events.iter().map(|waiting| waiting.delivery.seq.0).collect::<Vec<_>>(), [2]);
    let [(1, notice)] = &one.frame.notices[..] else { panic!("{:?}", one.frame.notices) };
    assert_eq!((notice.code.as_str(), notice.dropped), ("quota", 2));
}

#[test]
fn critical_events_count_as_delayed_only_if_they_waited() {
    let mut critical = Example::new(0, OutboxLimits { critical: 2, ..OPEN });
    for seq in 1..=5 {
        critical.push(0, seq, Priority::Critical);
    }
    assert_eq!((critical.send(0), critical.frame.notices.len()), (vec![1, 2, 3, 4, 5], 0));
}

#[test]
fn reader_delayed_only_by_its_rate_is_not_slow() {
    let limits = OutboxLimits { bytes: 20_000, ..OPEN };
    let mut held = Example::new(30, limits);
    let push = |held: &mut Example, seq| {
        let event = event(seq, Priority::High, seq as u8, 400);
        held.outbox.push(Millis(0), &event, TARGET, JSON, &limits) == OutboxLoad::Heavy
    };
    // It reads nothing until too much waits, and then everything that is sent.
    let heavy = (1..=200).find(|seq| push(&mut held, *seq)).unwrap();
    held.outbox.shed_load(Millis(0), JSON, &limits, &mut Vec::new());
    assert_eq!(held.send(20).len(), 30.min(heavy as usize - 1));
    assert!(held.outbox.slow_since.is_none());
    let codes: Vec<&str> = held.frame.notices.iter().map(|(_, notice)| notice.code.as_str()).collect();
    assert!(codes.contains(&"recovered"), "{codes:?}");
}
