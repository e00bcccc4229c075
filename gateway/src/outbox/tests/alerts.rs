//! Events that a subscription wants as alerts.

use super::*;

const ALERT: Target = Target { alert: true, ..TARGET };

fn confident(confidence: f64) -> Handled {
    Handled { confidence: Some(confidence), ..Handled::default() }
}

impl Example {
    /// Adds an event of low priority for these subscriptions, in this order.
    fn push_confident(&mut self, now: u64, seq: u64, confidence: f64, targets: &[Target]) {
        let event = handled_event(seq, Priority::Low, seq as u8, 1, confident(confidence));
        for target in targets {
            self.outbox.push(Millis(now), &event, *target, JSON, &self.limits);
        }
    }

    /// Which of the last frame's events are alerts.
    fn alerts(&self) -> Vec<bool> {
        self.frame.events.iter().map(|waiting| waiting.alert).collect()
    }
}

#[test]
fn event_of_several_subscriptions_is_an_alert_once_in_any_order() {
    for targets in [[TARGET, ALERT], [ALERT, TARGET], [ALERT, ALERT]] {
        let mut one = Example::new(0, OPEN);
        one.push_confident(0, 1, 0.85, &targets);
        assert_eq!((one.outbox.len(), one.send(0), one.alerts()), (1, vec![1], vec![true]), "{targets:?}");
        assert_eq!((one.outbox.bytes(), one.outbox.lanes.urgent()), (0, 0));
    }
}

#[test]
fn alert_waits_in_the_lane_of_its_raised_priority() {
    let mut one = Example::new(0, OPEN);
    one.push(0, 1, Priority::Medium);
    one.push_confident(0, 2, 0.85, &[TARGET]);
    one.push_confident(0, 3, 0.85, &[TARGET, ALERT]);
    one.push_confident(0, 4, 0.7, &[ALERT]);
    assert_eq!((one.send(0), one.alerts()), (vec![3, 1, 2, 4], vec![true, false, false, true]));
}

#[test]
fn critical_alert_waits_for_no_window_and_counts_for_the_budget() {
    let mut one = Example::new(0, OutboxLimits { critical: 1, ..OPEN });
    one.push(0, 1, Priority::Low);
    assert_eq!(one.send(0), [1]);
    one.push_confident(10, 2, 0.9, &[TARGET]);
    assert_eq!(one.due(), Some(100), "it is critical only as an alert");
    one.push_confident(20, 3, 0.9, &[TARGET, ALERT]);
    assert_eq!((one.due(), one.send(20)), (Some(20), vec![3, 2]));
    one.push_confident(30, 4, 0.9, &[ALERT]);
    assert_eq!(one.due(), Some(120), "beyond the budget it waits for its window");
}

#[test]
fn smallest_window_counts_whichever_subscription_asks_for_alerts() {
    let quick = Target { window_ms: WINDOW / 2, ..TARGET };
    for targets in [[quick, ALERT], [ALERT, quick]] {
        let mut one = Example::new(0, OPEN);
        one.push(0, 1, Priority::Low);
        one.send(0);
        one.push_confident(10, 2, 0.5, &targets);
        assert_eq!((one.due(), one.send(50), one.alerts()), (Some(50), vec![2], vec![true]), "{targets:?}");
    }
}

#[test]
fn alerts_are_not_conflated() {
    let mut user = Example::new(1, OPEN);
    for seq in 1..=4 {
        let event = handled_event(seq, Priority::Low, 1, 1, Handled::default());
        let target = if seq == 3 { ALERT } else { TARGET };
        user.outbox.push(Millis(0), &event, target, JSON, &OPEN);
    }
    assert_eq!(user.send(0), [1]);
    // The fourth replaces the second, and the alert is dropped only because too much waits for the rate.
    let [(1, notice)] = &user.frame.notices[..] else { panic!("{:?}", user.frame.notices) };
    assert_eq!((notice.code.as_str(), notice.conflated, notice.dropped), ("throttled", 1, 1));
}

#[test]
fn alert_has_its_own_bytes_with_the_raised_priority() {
    let event = handled_event(7, Priority::Low, 1, 1, confident(0.95));
    for encoding in Encoding::ALL {
        let waiting = |alert| QueuedEvent {
            delivery: Arc::clone(&event),
            since: Millis(0),
            subscription: 1,
            conflated: 0,
            alert,
            exempt: false,
        };
        let [plain, alert] = [waiting(false), waiting(true)];
        assert_eq!(plain.object(encoding), event.object(encoding));
        assert_eq!(alert.object(encoding).as_ptr(), event.alert_object(encoding).as_ptr(), "encoded once");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(text(plain.object(encoding)).contains("low") && text(alert.object(encoding)).contains("critical"));
    }
}
