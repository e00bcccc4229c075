//! What a shard does with alerts that come again.

use std::sync::Arc;

use serde_json::{Value, json};
use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::{Audience, Event, Kind};
use tickwire_core::ids::{EpochId, Partition, Seq, UserId};
use tickwire_core::protocol::position::Position;
use tickwire_testkit::blank_event;
use tokio::sync::mpsc::{self, Receiver};

use super::fixture::ShardFixture;
use crate::delivery::Delivery;
use crate::messages::{BackfillChunk, FromEdge, SharedCoverageEvents};
use crate::reminders::{ReadFailure, ReminderAnswer, ReminderRequest, UnackedAlerts};

const COHORT: u64 = 5;

/// An alert to the user of all clients, with this id.
fn alert(id: u64) -> Event {
    let audience = Audience::User(UserId::new("ann").unwrap());
    Event { kind: Kind::Alert, key: "ann".into(), audience, id: id.to_string().into(), ..blank_event() }
}

/// An alert of partition 0, whose id is its sequence.
fn stored(seq: u64) -> Arc<Delivery> {
    Arc::new(Delivery::new(alert(seq), Partition(0), Seq(seq)))
}

/// A shard with a welcomed client, and what the shard asks the reader for.
async fn fixture() -> (ShardFixture, u64, Receiver<ReminderRequest>) {
    let mut fixture = ShardFixture::new();
    let (reminders, requests) = mpsc::channel(1);
    fixture.shard.settings.reminders = reminders;
    let number = fixture.welcome().await;
    (fixture, number, requests)
}

async fn subscribe(fixture: &mut ShardFixture, number: u64, name: &str, fields: &Value) {
    let mut frame = json!({ "action": "subscribe", "name": name, "window_ms": 0 });
    frame.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    fixture.send_frame(number, &frame);
    fixture.settle().await;
    fixture.take(FromEdge::Confirmed(number));
    fixture.read_until(number, "\"subscribed\"");
}

/// The session that the next request is for; `None` if there is none.
fn asked(requests: &mut Receiver<ReminderRequest>) -> Option<u64> {
    requests.try_recv().ok().map(|request| {
        assert_eq!(request.user.as_str(), "ann");
        request.session.number
    })
}

/// The reader answers with these alerts of epoch 1.
fn answer(fixture: &mut ShardFixture, session: u64, seqs: &[u64], cut: usize) {
    let alerts = seqs.iter().map(|seq| stored(*seq)).collect();
    let result = Ok(Arc::new(UnackedAlerts { epoch_id: EpochId(1), alerts, cut }));
    fixture.shard.take_reminders(fixture.now, ReminderAnswer { session, result });
}

/// The types, ids and marks of all events and alerts that a client receives up to the answer to a ping.
async fn received(fixture: &mut ShardFixture, number: u64) -> Vec<(String, String, bool)> {
    fixture.send_frame(number, &json!({ "action": "ping" }));
    fixture.settle().await;
    let text = fixture.read_until(number, "\"pong\"");
    let objects = text.split("{\"T\":").skip(1).filter(|object| object.contains("\"kind\":\"alert\""));
    let of = |object: &str| {
        let field = |begin: &str| object.split(begin).nth(1).unwrap().split('"').next().unwrap().to_owned();
        (object.split('"').nth(1).unwrap().to_owned(), field("\"id\":\""), object.contains("\"again\":true"))
    };
    objects.map(of).collect()
}

fn event(id: u64, again: bool) -> (String, String, bool) {
    ("event".to_owned(), id.to_string(), again)
}

#[tokio::test]
async fn unacknowledged_alerts_come_again_once_and_move_no_position() {
    let (mut fixture, number, mut requests) = fixture().await;
    subscribe(&mut fixture, number, "patterns", &json!({})).await;
    assert_eq!(asked(&mut requests), None, "it does not want alerts");
    subscribe(&mut fixture, number, "mine", &json!({ "filter": { "kinds": ["alert"] } })).await;
    assert_eq!(asked(&mut requests), Some(number));
    fixture.deliver(0, vec![alert(11)]);
    let position = fixture.shard.position(number);
    answer(&mut fixture, number, &[7, 9, 11], 0);
    assert_eq!(received(&mut fixture, number).await, [event(11, false), event(7, true), event(9, true)]);
    assert_eq!(fixture.shard.position(number), position);

    // Another subscription wants the same: nothing comes twice. What was missed before comes, as an alert.
    let alerts = json!({ "filter": { "kinds": ["alert"] }, "alert": true });
    subscribe(&mut fixture, number, "again", &alerts).await;
    assert_eq!(asked(&mut requests), Some(number));
    answer(&mut fixture, number, &[6, 7, 9, 11, 12], 0);
    assert_eq!(received(&mut fixture, number).await, [("alert".to_owned(), "6".to_owned(), true)]);
    assert_eq!((fixture.shard.position(number), asked(&mut requests)), (position, None));
}

#[tokio::test]
async fn alerts_of_a_resumed_range_do_not_come_again() {
    let (mut fixture, number, mut requests) = fixture().await;
    let from = Position { epoch_id: EpochId(1), seqs: vec![Seq(8), Seq(10), Seq(10)] };
    let subscriptions = json!({ "mine": { "filter": { "kinds": ["alert"] }, "window_ms": 0 } });
    let resume = json!({ "action": "resume", "position": from.to_string(), "subscriptions": subscriptions });
    fixture.send_frame(number, &resume);
    fixture.settle().await;
    fixture.take(FromEdge::Confirmed(number));
    assert_eq!(asked(&mut requests), None, "the backfill comes first");
    fixture.take(FromEdge::CohortFormed(COHORT, vec![number]));
    let (partition, from, through) = (Partition(0), Seq(8), Seq(10));
    let events = vec![(Seq(10), stored(10))];
    let events = SharedCoverageEvents::new(vec![CoverageEvent::Apply { partition, from, through, events }]);
    fixture.take(FromEdge::Chunk(Arc::new(BackfillChunk { cohort: COHORT, events })));
    fixture.take(FromEdge::CohortEnded(COHORT));
    fixture.settle().await;
    assert_eq!(asked(&mut requests), Some(number));
    answer(&mut fixture, number, &[7, 8, 9, 10], 0);
    assert_eq!(received(&mut fixture, number).await, [event(10, false), event(7, true), event(8, true)]);
}

#[tokio::test]
async fn client_is_notified_of_alerts_that_do_not_come_again() {
    let (mut fixture, number, mut requests) = fixture().await;
    let few = json!({ "filter": { "kinds": ["alert"] }, "max_events_per_hour": 1 });
    subscribe(&mut fixture, number, "few", &few).await;
    assert_eq!(asked(&mut requests), Some(number));
    let failed = ReminderAnswer { session: number, result: Err(ReadFailure::Unavailable) };
    fixture.shard.take_reminders(fixture.now, failed);
    fixture.read_until(number, "\"again_failed\"");

    subscribe(&mut fixture, number, "few", &few).await;
    assert_eq!(asked(&mut requests), Some(number));
    answer(&mut fixture, number, &[7, 8], 3);
    let received = fixture.read_until(number, "\"again\":true");
    assert!(
        received.contains("\"code\":\"again_limit\",\"msg\":\"4 unacknowledged alerts do not come again: 3 beyond")
    );
    assert!(received.contains(", 1 beyond quotas\""), "{received}");

    // An answer of another epoch has sequences that mean other events.
    subscribe(&mut fixture, number, "few", &few).await;
    assert_eq!(asked(&mut requests), Some(number));
    let unacked = UnackedAlerts { epoch_id: EpochId(2), alerts: vec![stored(7)], cut: 0 };
    fixture.shard.take_reminders(fixture.now, ReminderAnswer { session: number, result: Ok(Arc::new(unacked)) });
    fixture.read_until(number, "\"again_failed\"");
}
