//! A slow link is not a dead one.

use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tickwire_testkit::eventually;
use tokio::time::interval;

use crate::cluster::Cluster;
use crate::node::DEADLINE;
use crate::producer::Outgoing;
use crate::socket::{Socket, query};

/// Bytes of one event.
const EVENT: usize = 20_000;

/// How many events are stored before the client comes: far more than the kernels hold.
const EVENTS: usize = 400;

/// A cluster whose stream holds far more than a client that comes now is sent at once.
async fn with_a_past(settings: &[(&str, &str)]) -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::start_with(1, 1, settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let note = "x".repeat(EVENT);
    let event = |n: usize| json!({ "pattern": format!("P{n}"), "note": note, "id": n.to_string() });
    let events: Vec<_> = (0..EVENTS).map(|n| Outgoing::json("pattern", "AAPL", &event(n))).collect();
    cluster.producer().await.publish_all(&events).await;
    // All of it is the past when the client comes.
    let mut other = Socket::connect(gateway, "bob", Encoding::Json).await;
    other.catch_up(&cluster.log().await.end()).await;
    // It answers no pings from here on.
    drop(other);
    (cluster, gateway)
}

/// A client on a narrow link that wants all of the past.
async fn narrow(gateway: SocketAddr) -> Socket {
    let mut socket = Socket::open_narrow(gateway, &query("ann"), Encoding::Json).await;
    socket.welcome().await;
    let since = json!({ "action": "subscribe", "name": "all", "filter": {}, "since": "1h" });
    assert!(matches!(socket.request(since).await, ServerMessage::Subscribed(_)));
    socket
}

/// A client that takes longer than three heartbeats to catch up reads on all the time, and is heard meanwhile.
#[tokio::test]
async fn a_client_that_reads_steadily_catches_up_however_long_it_takes() {
    let settings = [("gateway.heartbeat_interval", "300ms"), ("gateway.history", "1h")];
    let (mut cluster, gateway) = with_a_past(&settings).await;
    let mut socket = narrow(gateway).await;
    // Some 400 KB a second, for five seconds: five times as long as a client may be silent.
    let mut link = interval(Duration::from_millis(50));
    for read in 1..=EVENTS / 4 {
        link.tick().await;
        socket.until(read).await;
    }
    // What it asks is answered before all that it missed has come.
    assert!(matches!(socket.request(json!({ "action": "ping" })).await, ServerMessage::Pong(_)));
    assert!(socket.events.len() < EVENTS, "{} events before the answer", socket.events.len());
    assert!(socket.caught_up().await.resumed);
    assert_eq!((socket.events.len(), socket.notices.len(), socket.gaps.len()), (EVENTS, 0, 0));
    assert_eq!(cluster.gateways[0].metrics().await.get("tickwire_gateway_closes_total"), 0.0);
}

/// A client that reads nothing for a while is heard all the same: what it says is done before it has taken what waits.
#[tokio::test]
async fn a_client_that_does_not_read_is_heard() {
    let (mut cluster, gateway) = with_a_past(&[("gateway.history", "1h")]).await;
    let mut socket = narrow(gateway).await;
    let (mut given, mut looks) = (0.0, 0);
    eventually("the past waits for the client", DEADLINE, async || {
        let now = cluster.gateways[0].metrics().await.get("tickwire_gateway_past_events_total");
        looks = if now == given { looks + 1 } else { 0 };
        given = now;
        (now > 0.0 && looks >= 20).then_some(())
    })
    .await;
    let gateway = &mut cluster.gateways[0];
    let mut subscriptions = async || gateway.metrics().await.get("tickwire_gateway_index_subscriptions");
    eventually("it is subscribed", DEADLINE, async || (subscriptions().await == 1.0).then_some(())).await;
    socket.send(&json!({ "action": "unsubscribe", "name": "all" })).await;
    eventually("it was heard", DEADLINE, async || (subscriptions().await == 0.0).then_some(())).await;
}
