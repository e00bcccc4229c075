//! A new subscription gets earlier events with `since`.

use async_nats::jetstream;
use serde_json::json;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tickwire_core::ids::Seq;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Gap};
use tickwire_testkit::eventually;

use crate::cluster::Cluster;
use crate::feed;
use crate::node::DEADLINE;
use crate::oracle::{assert_covered, assert_exact, filter};
use crate::socket::Socket;

#[tokio::test]
async fn since_delivers_events_from_before_the_subscription() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.history", "10m")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "symbols": ["AAPL", "SPY"] });
    let producer = cluster.producer().await;
    let events = feed::patterns(0..200);
    producer.publish_all(&events[..100]).await;
    let middle = cluster.log().await.entries.last().unwrap().event.stored;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.catch_up(&cluster.log().await.end()).await;
    let position = socket.position.clone();
    producer.publish_all(&events[100..]).await;
    let log = cluster.log().await;
    let all = log.matching("ann", &[filter(&wanted)]);
    let later: Vec<_> = all.iter().copied().filter(|entry| entry.event.stored > middle).collect();
    assert_eq!((all.len(), later.len()), (50, 25));
    let after = tickwire_core::event::Timestamp(middle.0 + 1).to_string();
    let cases = [("5m".to_owned(), &all, true), (after, &later, true), (position, &later, true)];
    // No event is older than `gateway.history`.
    for (since, expected, resumed) in cases.into_iter().chain([("1h".to_owned(), &all, true)]) {
        let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
        let frame = json!({ "action": "subscribe", "name": "mine", "filter": wanted, "since": since });
        socket.request(frame).await;
        assert_eq!(socket.caught_up().await.resumed, resumed, "{since}");
        assert_eq!(socket.gaps, [], "{since}");
        // Events that the gateway had not reached at the confirmation arrive after the backfill.
        socket.catch_up(&log.end()).await;
        assert_exact(&since, &socket.events, &[], expected);
        producer.publish(&feed::pattern("YHOO", 1)).await;
    }
}

/// A `since` waits while NATS cannot be asked, and then gets all events.
#[tokio::test]
async fn since_waits_for_nats_and_then_delivers_everything() {
    let mut cluster = Cluster::start_with_defaults(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let query = cluster.query("ann");
    let producer = cluster.producer().await;
    let events = feed::patterns(0..60);
    let mut watcher = Socket::open(gateway, &query, Encoding::Json).await;
    watcher.welcome().await;
    watcher.subscribe("all", &json!({})).await;
    producer.publish_all(&events).await;
    let log = cluster.log().await;
    watcher.catch_up(&log.end()).await;
    let unanswered = "tickwire_gateway_unanswered_time_searches_total";
    let frame = json!({ "action": "subscribe", "name": "past", "filter": {}, "since": "5m" });
    for is_killed in [false, true] {
        let mut socket = Socket::open(gateway, &query, Encoding::Json).await;
        socket.welcome().await;
        let before = cluster.gateways[0].metrics().await.get(unanswered);
        match is_killed {
            true => cluster.nats[0].kill(),
            false => cluster.nats[0].freeze(),
        }
        socket.request(frame.clone()).await;
        match is_killed {
            // The gateway does not even ask NATS then.
            true => socket.until_that(|socket| !socket.notices.is_empty()).await,
            false => {
                let gateway = &mut cluster.gateways[0];
                let is_unanswered = async || (gateway.metrics().await.get(unanswered) > before).then_some(());
                eventually("a search is not answered", DEADLINE, is_unanswered).await;
            }
        }
        assert_eq!((&socket.gaps[..], socket.events.len()), (&[][..], 0), "killed: {is_killed}");
        match is_killed {
            true => cluster.nats[0].restart(),
            false => cluster.nats[0].thaw(),
        }
        assert!(socket.caught_up().await.resumed, "killed: {is_killed}");
        socket.catch_up(&log.end()).await;
        assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&json!({}))]));
    }
}

/// A `since` that NATS does not answer for `gateway.give_up_after` becomes a gap `lost`.
#[tokio::test]
async fn since_becomes_a_lost_gap_after_give_up_after() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.give_up_after", "1s")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    cluster.producer().await.publish(&feed::pattern("AAPL", 1)).await;
    socket.catch_up(&cluster.log().await.end()).await;
    // No server can answer any more.
    jetstream::new(cluster.client.clone()).delete_stream("EVENTS").await.unwrap();
    let begun = Instant::now();
    socket.request(json!({ "action": "subscribe", "name": "past", "filter": {}, "since": "5m" })).await;
    let position = Position::from_str(&socket.position).unwrap();
    assert!(!socket.caught_up().await.resumed);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let reached = position.seqs.iter().filter(|seq| **seq > Seq(0)).count();
    assert_eq!((socket.gaps.len(), reached > 0), (reached, true), "{position}");
    assert!(socket.gaps.iter().all(|gap| gap.reason == "lost" && gap.from == Seq(0)), "{:?}", socket.gaps);
}

/// Messages that are missing right behind the time of `since` become gaps, and do not count as older.
#[tokio::test]
async fn missing_messages_right_after_since_become_gaps() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let producer = cluster.producer().await;
    let events = feed::patterns(0..60);
    producer.publish_all(&events[..30]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    producer.publish_all(&events[30..]).await;
    let log = cluster.log().await;
    // For this gateway all of it is backfill.
    Socket::connect(gateway, "watcher", Encoding::Json).await.catch_up(&log.end()).await;
    let lacking: Vec<_> = log.entries[30..33].iter().map(|entry| entry.seq).collect();
    let since = log.entries[30].event.stored;
    assert!(log.entries[29].event.stored < since, "so that the others are older");
    let stream = jetstream::new(cluster.client.clone()).get_stream("EVENTS").await.unwrap();
    for seq in &lacking {
        assert!(stream.delete_message(seq.0).await.unwrap());
    }
    // Routers check again what they have read when NATS has restarted. It is stopped and not killed: after a kill the
    // deleted messages might exist again.
    cluster.nats[0].terminate();
    cluster.nats[0].restart();
    let frame = json!({ "action": "subscribe", "name": "past", "filter": {}, "since": since.to_string() });
    let mut socket = eventually("the router has looked again", DEADLINE, async || {
        let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
        socket.request(frame.clone()).await;
        (!socket.caught_up().await.resumed).then_some(socket)
    })
    .await;
    socket.catch_up(&log.end()).await;
    let all = log.matching("ann", &[filter(&json!({}))]);
    let later: Vec<_> = all.into_iter().filter(|entry| entry.event.stored >= since).collect();
    assert_eq!(assert_covered("ann", &socket.events, &socket.gaps, &later), lacking.len());
    let is_exact = |gap: &Gap| gap.reason == "damaged" && lacking.contains(&gap.to) && gap.from.0 + 1 >= lacking[0].0;
    assert!(socket.gaps.iter().all(is_exact), "{:?}, and {lacking:?} is missing", socket.gaps);
}
