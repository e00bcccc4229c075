//! What a shard does with the handling of events: broadcasts, times to live, and the order of sessions.

use std::sync::Arc;

use serde_json::{Value, json};
use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::{Audience, Event, Handling, Strategy};
use tickwire_core::ids::{EpochId, Partition, Room, Seq, UserId};
use tickwire_core::protocol::position::Position;
use tickwire_testkit::blank_event;

use super::fixture::{PARTITIONS, ShardFixture};
use crate::delivery::Delivery;
use crate::messages::{BackfillChunk, FromEdge, SharedCoverageEvents};

const HOUR_MS: u64 = 3_600_000;

async fn subscribe(fixture: &mut ShardFixture, number: u64, name: &str, filter: &Value, window_ms: u16) {
    let subscribe = json!({ "action": "subscribe", "name": name, "filter": filter, "window_ms": window_ms });
    fixture.send_frame(number, &subscribe);
    fixture.settle().await;
    fixture.take(FromEdge::Confirmed(number));
    fixture.read_until(number, "\"subscribed\"");
}

/// All that a client has received so far.
async fn received(fixture: &mut ShardFixture, number: u64) -> String {
    fixture.send_frame(number, &json!({ "action": "ping" }));
    fixture.settle().await;
    fixture.read_until(number, "\"pong\"")
}

fn broadcast(id: &str, audience: Audience, rooms: &[&str]) -> Event {
    let rooms = rooms.iter().map(|room| Room::new(room).unwrap()).collect();
    let handling = Handling { strategy: Strategy::Broadcast, rooms, ttl_ms: None };
    Event { id: id.into(), audience, handling: Some(Box::new(handling)), ..blank_event() }
}

/// An event that was stored `ago`, in milliseconds, and is of use for an hour.
fn stored(fixture: &ShardFixture, id: &str, ago: u64) -> Event {
    let mut stored = fixture.shard.settings.clocks.time_of_day();
    stored.0 -= ago as i64;
    let handling = Handling { ttl_ms: Some(HOUR_MS), ..Handling::default() };
    Event { id: id.into(), stored, handling: Some(Box::new(handling)), ..blank_event() }
}

fn ids(received: &str, ids: &[&str]) -> Vec<usize> {
    ids.iter().map(|id| received.matches(&format!("\"id\":\"{id}\"")).count()).collect()
}

#[tokio::test]
async fn broadcast_reaches_each_session_with_a_subscription_once_on_the_smallest_window() {
    let mut fixture = ShardFixture::new();
    let [listens, silent] = [fixture.welcome().await, fixture.welcome().await];
    subscribe(&mut fixture, listens, "slow", &json!({ "min_confidence": 0.9 }), 1_000).await;
    subscribe(&mut fixture, listens, "fast", &json!({ "min_confidence": 0.95 }), 0).await;
    let bob = Audience::User(UserId::new("bob").unwrap());
    let events = [("first", Audience::Public), ("second", Audience::Public), ("for bob", bob)];
    for (id, audience) in events {
        fixture.deliver(0, vec![broadcast(id, audience, &[])]);
    }
    let names = ["first", "second", "for bob"];
    assert_eq!(ids(&received(&mut fixture, listens).await, &names), [1, 1, 0], "no window holds the second back");
    assert_eq!(ids(&received(&mut fixture, silent).await, &names), [0, 0, 0]);
}

#[tokio::test]
async fn broadcast_to_a_room_reaches_the_sessions_that_name_it() {
    let mut fixture = ShardFixture::new();
    let [inside, outside] = [fixture.welcome().await, fixture.welcome().await];
    subscribe(&mut fixture, inside, "desk", &json!({ "rooms": ["desk"], "symbols": ["TSLA"] }), 0).await;
    subscribe(&mut fixture, outside, "all", &json!({}), 0).await;
    fixture.deliver(0, vec![broadcast("to the desk", Audience::Public, &["desk", "vip"])]);
    fixture.deliver(0, vec![broadcast("to others", Audience::Public, &["vip"])]);
    let names = ["to the desk", "to others"];
    assert_eq!(ids(&received(&mut fixture, inside).await, &names), [1, 0]);
    assert_eq!(ids(&received(&mut fixture, outside).await, &names), [0, 0]);
}

#[tokio::test]
async fn event_whose_time_to_live_is_over_becomes_a_notice() {
    let mut fixture = ShardFixture::new();
    let number = fixture.welcome().await;
    subscribe(&mut fixture, number, "all", &json!({}), 0).await;
    let events = vec![stored(&fixture, "good", 0), stored(&fixture, "late", HOUR_MS + 1), stored(&fixture, "new", 0)];
    fixture.deliver(0, events);
    let received = received(&mut fixture, number).await;
    assert_eq!(ids(&received, &["good", "late", "new"]), [1, 0, 1]);
    let ranges = r#""dropped":1,"ranges":[{"p":0,"first":12,"last":12}]"#;
    let notice = format!(r#"{{"T":"notice","code":"expired","subscription":"all",{ranges}}}"#);
    assert!(received.contains(&notice), "{received}");
    assert_eq!(fixture.shard.sessions.get(number).unwrap().record.missed().expired, 1);
}

/// The client was away for longer than the event was of use.
#[tokio::test]
async fn event_that_expires_before_a_resume_becomes_a_notice() {
    let mut fixture = ShardFixture::new();
    let number = fixture.welcome().await;
    fixture.events(0, 2);
    let position = Position { seqs: vec![Seq(10); usize::from(PARTITIONS)], epoch_id: EpochId(1) };
    let subscriptions = json!({ "mine": { "filter": {} } });
    let resume = json!({ "action": "resume", "position": position.to_string(), "subscriptions": subscriptions });
    fixture.send_frame(number, &resume);
    fixture.settle().await;
    fixture.take(FromEdge::Confirmed(number));
    fixture.take(FromEdge::CohortFormed(1, vec![number]));
    let (partition, from, through) = (Partition(0), Seq(10), Seq(12));
    let events = [stored(&fixture, "late", HOUR_MS + 1), stored(&fixture, "good", 0)];
    let events = (11..).map(Seq).zip(events);
    let events = events.map(|(seq, event)| (seq, Arc::new(Delivery::new(event, partition, seq)))).collect();
    let events = SharedCoverageEvents::new(vec![CoverageEvent::Apply { partition, from, through, events }]);
    fixture.take(FromEdge::Chunk(Arc::new(BackfillChunk { cohort: 1, events })));
    fixture.take(FromEdge::CohortEnded(1));
    fixture.settle().await;
    let received = fixture.read_until(number, "\"caught_up\"");
    assert_eq!(ids(&received, &["late", "good"]), [0, 1]);
    let ranges = r#""dropped":1,"ranges":[{"p":0,"first":11,"last":11}]"#;
    let notice = format!(r#"{{"T":"notice","code":"expired","subscription":"mine",{ranges}}}"#);
    assert!(received.contains(&notice) && received.contains(r#""resumed":true"#), "{received}");
}

#[tokio::test]
async fn sessions_of_more_weight_are_flushed_first() {
    let mut fixture = ShardFixture::new();
    let mut numbers = [fixture.welcome().await, fixture.welcome().await, fixture.welcome().await];
    let [usual, light, heavy] = numbers;
    for (number, weight) in [(light, 0), (heavy, 9)] {
        fixture.shard.sessions.get_mut(number).unwrap().weight = weight;
        fixture.shard.weighted += 1;
    }
    fixture.shard.sort_by_weight(&mut numbers);
    assert_eq!(numbers, [heavy, usual, light]);
}
