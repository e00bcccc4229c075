//! Events whose handling lets them go first, or gives them a time to live.

use tickwire_core::protocol::SeqRange;

use super::*;

const FIRST: Handled = Handled { goes_first: true, confidence: None, ttl_ms: None, stored: 0 };

fn good_for(ttl_ms: u64) -> Handled {
    Handled { ttl_ms: Some(ttl_ms), ..Handled::default() }
}

impl Example {
    fn push_handled(&mut self, now: u64, seq: u64, priority: Priority, handled: Handled) {
        let event = handled_event(seq, priority, seq as u8, 1, handled);
        self.outbox.push(Millis(now), &event, TARGET, JSON, &self.limits);
    }

    /// The notices of the last frame, without their ranges.
    fn notices(&self) -> Vec<(&str, u64, u64, u64)> {
        let notices = self.frame.notices.iter().map(|(_, notice)| notice);
        notices.map(|notice| (notice.code.as_str(), notice.dropped, notice.conflated, notice.delayed)).collect()
    }
}

#[test]
fn event_that_goes_first_waits_for_no_window_and_leaves_before_critical_ones() {
    let mut one = Example::new(0, OPEN);
    one.push(0, 1, Priority::Low);
    assert_eq!(one.send(0), [1]);
    one.push(10, 2, Priority::Low);
    one.push(10, 3, Priority::High);
    assert_eq!(one.due(), Some(100));
    one.push_handled(10, 4, Priority::Low, FIRST);
    assert_eq!(one.due(), Some(10));
    one.push(10, 5, Priority::Critical);
    one.push_handled(10, 6, Priority::Medium, FIRST);
    assert_eq!((one.send(10), one.frame.early), (vec![4, 6, 5, 3, 2], false));
}

#[test]
fn event_that_goes_first_is_early_if_older_events_still_wait() {
    let mut many = Example::new(0, OPEN);
    for seq in 1..=60 {
        many.push(0, seq, Priority::Critical);
    }
    many.push_handled(0, 61, Priority::Low, FIRST);
    assert_eq!((many.send(0)[..3].to_vec(), many.frame.early), (vec![61, 1, 2], true));
}

#[test]
fn events_that_go_first_share_the_budget_of_critical_ones() {
    let mut urgent = Example::new(0, OutboxLimits { critical: 2, ..OPEN });
    urgent.push_handled(0, 1, Priority::Low, FIRST);
    assert_eq!(urgent.send(0), [1]);
    urgent.push(10, 2, Priority::Critical);
    assert_eq!((urgent.due(), urgent.send(10)), (Some(10), vec![2]));
    urgent.push_handled(20, 3, Priority::Low, FIRST);
    assert_eq!(urgent.due(), Some(110), "beyond the budget it waits for its window");
    assert_eq!(urgent.send(110), [3]);
    assert_eq!(urgent.notices(), [("critical_budget", 0, 0, 1)]);
}

#[test]
fn events_that_go_first_are_neither_conflated_nor_dropped() {
    let mut user = Example::new(3, OutboxLimits { critical: 0, ..OPEN });
    for seq in 1..=9 {
        let event = handled_event(seq, Priority::Low, 1, 1, FIRST);
        user.outbox.push(Millis(0), &event, TARGET, JSON, &OPEN);
    }
    assert_eq!((user.send(0), user.frame.notices.len(), user.outbox.len()), (vec![1, 2, 3], 0, 6));
    assert_eq!(user.send(1_100), [4, 5, 6]);
    assert_eq!(user.send(10_000), [7, 8, 9], "even after five seconds");
}

#[test]
fn events_whose_time_to_live_is_over_are_dropped_with_an_exact_notice() {
    let mut one = Example::new(0, OPEN);
    one.push(0, 1, Priority::Low);
    assert_eq!(one.send(0), [1]);
    for seq in 2..=5 {
        one.push_handled(10, seq, Priority::Low, good_for(50));
    }
    one.push_handled(10, 6, Priority::Critical, good_for(99));
    one.push_handled(10, 7, Priority::Low, good_for(100));
    let applied = Position { epoch_id: EpochId(7), seqs: vec![Seq(7), Seq(7)] };
    assert_eq!(one.outbox.hold_back(&applied).seqs, [Seq(1), Seq(2)]);
    assert_eq!(one.send(100), [7], "an event may be sent at the last moment of its time");
    assert_eq!(one.notices(), [("expired", 5, 0, 0)]);
    let range = |p, first, last| SeqRange { p: Partition(p), first: Seq(first), last: Seq(last) };
    assert_eq!(one.frame.notices[0].1.ranges, [range(0, 2, 6), range(1, 3, 5)]);
    assert_eq!(one.frame.dropped, [(NoticeCode::Expired, EventOutcome::Dropped); 5]);
    assert_eq!((one.outbox.hold_back(&applied), one.due()), (applied, None));
}

#[test]
fn frame_may_have_only_the_notice_of_expired_events() {
    let mut one = Example::new(0, OPEN);
    one.push_handled(500, 1, Priority::Low, good_for(499));
    assert_eq!((one.due(), one.send(500)), (Some(500), vec![]));
    assert!(!one.frame.is_empty() && !one.outbox.has_output());
    one.push(501, 2, Priority::Low);
    assert_eq!(one.due(), Some(501), "nothing was sent, so no window has begun");
}

#[test]
fn expired_events_use_neither_rate_nor_quota() {
    let mut user = Example::new(2, OPEN);
    for seq in 1..=5 {
        user.push_handled(10, seq, Priority::Low, good_for(5));
    }
    user.push(10, 6, Priority::Low);
    user.push(10, 7, Priority::Low);
    let mut asked = Vec::new();
    let quota = |_: &mut Account, waiting: &QueuedEvent| {
        asked.push(waiting.delivery.seq.0);
        true
    };
    let times = (Millis(10), || time_of_day(Millis(10)));
    user.outbox.compose(times, (&mut user.account, quota), JSON, &OPEN, &mut user.frame);
    assert_eq!((asked, user.frame.events.len()), (vec![6, 7], 2));
}

#[test]
fn event_that_replaced_older_ones_and_expires_leaves_each_of_them_counted_once() {
    let mut user = Example::new(1, OPEN);
    user.push(0, 1, Priority::Low);
    assert_eq!(user.send(0), [1]);
    for seq in 2..=4 {
        let event = handled_event(seq, Priority::Low, 1, 1, good_for(500));
        user.outbox.push(Millis(10), &event, TARGET, JSON, &OPEN);
    }
    assert!(user.send(100).is_empty());
    assert_eq!(user.notices(), [("throttled", 0, 2, 0)]);
    assert!(user.send(1_100).is_empty());
    assert_eq!(user.notices(), [("expired", 1, 0, 0)]);
}
