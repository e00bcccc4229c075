//! What a shard does for subscriptions that ask for alerts.

use serde_json::{Value, json};
use tickwire_core::event::Event;
use tickwire_core::ids::Confidence;
use tickwire_testkit::blank_event;

use super::fixture::ShardFixture;
use crate::messages::FromEdge;

async fn subscribe(fixture: &mut ShardFixture, number: u64, mut fields: Value) {
    fields["action"] = json!("subscribe");
    fixture.send_frame(number, &fields);
    fixture.settle().await;
    fixture.take(FromEdge::Confirmed(number));
    fixture.read_until(number, "\"subscribed\"");
}

/// What a client receives up to the answer to this action.
async fn answered(fixture: &mut ShardFixture, number: u64, action: &str, answer: &str) -> String {
    fixture.send_frame(number, &json!({ "action": action }));
    fixture.settle().await;
    fixture.read_until(number, &format!("\"T\":\"{answer}\""))
}

/// An event of low priority with this confidence.
fn confident(id: &str, confidence: f64) -> Event {
    Event { id: id.into(), confidence: Confidence::new(confidence), ..blank_event() }
}

/// How many events and alerts there are.
fn counts(received: &str) -> [usize; 2] {
    ["event", "alert"].map(|object_type| received.matches(&format!("\"T\":\"{object_type}\"")).count())
}

#[tokio::test]
async fn event_is_one_alert_with_the_names_of_all_subscriptions_that_it_matches() {
    let mut fixture = ShardFixture::new();
    let [alerted, plain] = [fixture.welcome().await, fixture.welcome().await];
    let sure = json!({ "min_confidence": 0.9 });
    for subscription in [
        json!({ "name": "sure", "filter": sure, "window_ms": 0, "alert": true }),
        json!({ "name": "all", "window_ms": 0 }),
        json!({ "name": "other", "filter": { "symbols": ["OTHER"] }, "window_ms": 0, "alert": true }),
    ] {
        subscribe(&mut fixture, alerted, subscription).await;
    }
    subscribe(&mut fixture, plain, json!({ "name": "all", "window_ms": 0 })).await;
    fixture.deliver(0, vec![confident("sure", 0.95), confident("unsure", 0.5)]);
    let received = answered(&mut fixture, alerted, "ping", "pong").await;
    assert_eq!(counts(&received), [1, 1], "{received}");
    assert_eq!(received.matches(r#""subs":["all","sure"]"#).count(), 1, "{received}");
    assert_eq!(received.matches(r#""priority":"critical""#).count(), 1, "{received}");
    let received = answered(&mut fixture, plain, "ping", "pong").await;
    assert_eq!(counts(&received), [2, 0], "{received}");
    assert!(!received.contains("subs") && !received.contains("critical"), "{received}");
}

#[tokio::test]
async fn subscription_that_is_replaced_asks_for_alerts_or_not() {
    let mut fixture = ShardFixture::new();
    let number = fixture.welcome().await;
    for (alert, expected) in [(true, [0, 1]), (false, [1, 0]), (true, [0, 1])] {
        subscribe(&mut fixture, number, json!({ "name": "mine", "window_ms": 0, "alert": alert })).await;
        fixture.deliver(0, vec![confident("e", 0.5)]);
        let received = answered(&mut fixture, number, "list", "subscriptions").await;
        assert_eq!(counts(&received), expected, "{received}");
        assert_eq!(received.contains(r#""window_ms":0,"alert":true"#), alert, "{received}");
    }
}
