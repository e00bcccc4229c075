//! A client on a slow link is not closed as dead.

use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tickwire_testkit::eventually;
use tokio::time::interval;

use crate::cluster::Cluster;
use crate::node::DEADLINE;
use crate::producer::ProducerMessage;
use crate::socket::{Socket, query};

/// The size of an event in bytes.
const EVENT: usize = 20_000;

/// How many events are stored before the client connects: far more than the kernels buffer.
const EVENTS: usize = 400;

/// A cluster whose stream has far more events than the kernels buffer.
async fn with_stored_events(settings: &[(&str, &str)]) -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::start_with(1, 1, settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let note = "x".repeat(EVENT);
    let event = |n: usize| json!({ "pattern": format!("P{n}"), "note": note, "id": n.to_string() });
    let events: Vec<_> = (0..EVENTS).map(|n| ProducerMessage::json("pattern", "AAPL", &event(n))).collect();
    cluster.producer().await.publish_all(&events).await;
    // All of it is backfill when the client connects.
    let mut other = Socket::connect(gateway, "bob", Encoding::Json).await;
    other.catch_up(&cluster.log().await.end()).await;
    // This socket answers no pings from here on.
    drop(other);
    (cluster, gateway)
}

/// A client on a narrow link that asks for all stored events.
async fn narrow_client(gateway: SocketAddr) -> Socket {
    let mut socket = Socket::open_narrow(gateway, &query("ann"), Encoding::Json).await;
    socket.welcome().await;
    let since = json!({ "action": "subscribe", "name": "all", "filter": {}, "since": "1h" });
    assert!(matches!(socket.request(since).await, ServerMessage::Subscribed(_)));
    socket
}

/// A client whose backfill takes longer than three heartbeats reads all the time, and its frames are handled meanwhile.
#[tokio::test]
async fn slow_but_steady_reader_is_not_closed_during_backfill() {
    let settings = [("gateway.heartbeat_interval", "1s"), ("gateway.history", "1h")];
    let (mut cluster, gateway) = with_stored_events(&settings).await;
    let mut socket = narrow_client(gateway).await;
    // About 200 KB a second for ten seconds: three times as long as a client may be silent.
    let mut link = interval(Duration::from_millis(100));
    for read in 1..=EVENTS / 4 {
        link.tick().await;
        socket.until(read).await;
    }
    // Its request is answered before the backfill is complete.
    assert!(matches!(socket.request(json!({ "action": "ping" })).await, ServerMessage::Pong(_)));
    assert!(socket.events.len() < EVENTS, "{} events before the answer", socket.events.len());
    assert!(socket.caught_up().await.resumed);
    assert_eq!((socket.events.len(), socket.event_notices().len(), socket.gaps.len()), (EVENTS, 0, 0));
    assert_eq!(cluster.gateways[0].metrics().await.get("tickwire_gateway_closes_total"), 0.0);
}

/// A client that reads nothing for a while can still send: its frames are handled before it reads the waiting bytes.
#[tokio::test]
async fn frames_of_a_client_that_does_not_read_are_handled() {
    let (mut cluster, gateway) = with_stored_events(&[("gateway.history", "1h")]).await;
    let mut socket = narrow_client(gateway).await;
    let (mut given, mut looks) = (0.0, 0);
    eventually("the backfill waits for the client", DEADLINE, async || {
        let now = cluster.gateways[0].metrics().await.get("tickwire_gateway_backfill_events_total");
        looks = if now == given { looks + 1 } else { 0 };
        given = now;
        (now > 0.0 && looks >= 20).then_some(())
    })
    .await;
    let gateway = &mut cluster.gateways[0];
    let mut subscriptions = async || gateway.metrics().await.get("tickwire_gateway_index_subscriptions");
    eventually("it is subscribed", DEADLINE, async || (subscriptions().await == 1.0).then_some(())).await;
    socket.send(&json!({ "action": "unsubscribe", "name": "all" })).await;
    eventually("its frame was handled", DEADLINE, async || (subscriptions().await == 0.0).then_some(())).await;
}
