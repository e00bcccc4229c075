//! A stopping gateway asks its clients to connect elsewhere, and they do.

use serde_json::json;
use tickwire_client::Message;
use tickwire_core::protocol::codes::CloseCode;
use tickwire_core::protocol::{Encoding, ServerMessage};

use crate::cluster::Cluster;
use crate::feed;
use crate::listener::Listener;
use crate::node::DEADLINE;
use crate::socket::{Incoming, Socket};

#[tokio::test]
async fn stopping_gateway_sends_goaway_and_a_close_code() {
    let mut cluster = Cluster::start(1, 2).await;
    let gateways = cluster.gateway_addresses().await;
    let mut sockets = Vec::new();
    for encoding in Encoding::ALL {
        let mut socket = Socket::connect(gateways[0], "ann", encoding).await;
        socket.subscribe("all", &json!({})).await;
        sockets.push(socket);
    }
    let mut listener = Listener::connect(&gateways, "bob", Encoding::Json).await;
    listener.subscribe("all", &json!({})).await;
    let producer = cluster.producer().await;
    producer.publish(&feed::pattern("AAPL", 1)).await;
    listener.until("the first event", |message| matches!(message, Message::Event(_))).await;
    // Each has the event before the stop, or its shard would send `goaway` first.
    for socket in &mut sockets {
        socket.until(1).await;
    }

    let mut leaving = cluster.gateways.remove(0);
    leaving.process.terminate();
    for socket in &mut sockets {
        let Incoming::Message(ServerMessage::Goaway(goaway)) = socket.next().await else { panic!("no goaway") };
        assert_eq!(goaway.reason, "drain");
        let draining = CloseCode::Draining;
        assert_eq!(socket.closed().await, (draining.code(), draining.text().to_owned()));
        assert_eq!((socket.events.len(), socket.gaps.len()), (1, 0));
    }
    assert_eq!(leaving.process.wait(DEADLINE).await.code(), Some(0), "{}", leaving.process.stderr());

    // A program with the client library resumes at the other gateway.
    listener.until("it is restored", |message| *message == Message::Restored).await;
    producer.publish(&feed::pattern("AAPL", 2)).await;
    listener.until("the second event", |message| matches!(message, Message::Event(_))).await;
    let seen: Vec<_> = listener.events.iter().map(|event| event.data["number"].as_u64()).collect();
    assert_eq!(seen, [Some(1), Some(2)]);
    assert!(!listener.others.contains(&Message::Interrupted), "{:?}", listener.others);
    cluster.settled().await;
}

#[tokio::test]
async fn draining_gateway_serves_sessions_until_their_turn() {
    let mut cluster =
        Cluster::start_with(1, 1, &[("gateway.drain_window", "10s"), ("node.shutdown_grace", "20s")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut sockets = Vec::new();
    for number in 0..10 {
        let mut socket = Socket::connect(gateway, &format!("user-{number}"), Encoding::Json).await;
        socket.subscribe("all", &json!({})).await;
        sockets.push(socket);
    }
    cluster.gateways[0].process.terminate();
    // The first session ends while most others are still connected, and a new event reaches those.
    let first = futures_util::future::select_all(sockets.iter_mut().map(|socket| Box::pin(socket.next()))).await.0;
    assert!(matches!(first, Incoming::Message(ServerMessage::Goaway(_))), "{first:?}");
    cluster.producer().await.publish(&feed::pattern("AAPL", 1)).await;
    let mut reached = 0;
    for socket in &mut sockets {
        while !matches!(socket.next().await, Incoming::Closed(1012, _)) {}
        reached += socket.events.len();
        assert!(socket.gaps.is_empty());
    }
    assert!((1..10).contains(&reached), "{reached}");
    let mut leaving = cluster.gateways.remove(0);
    assert_eq!(leaving.process.wait(DEADLINE).await.code(), Some(0), "{}", leaving.process.stderr());
}
