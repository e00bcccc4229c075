//! A message that no consumer delivers: it was stored when NATS allowed larger messages. Reading fails at it three
//! times. Then the router reads it in another way and makes it a dead letter, and replays skip it as well.

use serde_json::json;
use std::fs;
use tempfile::TempDir;
use tickwire_core::protocol::Encoding;
use tickwire_node::names;
use tickwire_testkit::{NatsServer, eventually};

use crate::cluster::Cluster;
use crate::node::DEADLINE;
use crate::oracle::stored;
use crate::producer::ProducerMessage;
use crate::socket::Socket;

const BEFORE: usize = 8 * 1024 * 1024;
const NOW: usize = 1024 * 1024;

/// Larger than any pull request of a router with the present limit of NATS.
const LARGE: usize = 5 * 1024 * 1024;

fn event(number: usize) -> ProducerMessage {
    ProducerMessage::json("pattern", "AAPL", &json!({ "pattern": "Doji", "id": number.to_string() }))
}

fn ids(socket: &Socket) -> Vec<String> {
    socket.events.iter().map(|event| event.id.to_string()).collect()
}

#[tokio::test]
async fn undeliverable_message_becomes_a_dead_letter_and_reading_continues() {
    let home = TempDir::with_prefix("tickwire-nats-config-").unwrap();
    let config = home.path().join("nats.conf");
    let takes = |bytes: usize| fs::write(&config, format!("max_payload: {bytes}\n")).unwrap();
    takes(BEFORE);
    let server = NatsServer::start_with(&["-js", "-c", config.to_str().unwrap()]);
    let settings = [("stream.max_message", "8388608")];
    let mut cluster = Cluster::start_on(vec![server], 1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let filter = json!({ "symbols": ["AAPL"] });
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("mine", &filter).await;
    let mut away = Socket::connect(gateway, "bob", Encoding::Json).await;
    away.subscribe("mine", &filter).await;
    let producer = cluster.producer().await;
    producer.publish(&event(0)).await;
    socket.until(1).await;
    away.until(1).await;

    cluster.routers[0].process.kill();
    producer.publish(&event(1)).await;
    let large = format!(r#"{{"pattern":"Doji","id":"large","note":"{}"}}"#, "x".repeat(LARGE));
    producer.publish(&ProducerMessage::raw("events.pattern.AAPL", large.clone())).await;
    producer.publish(&event(2)).await;
    takes(NOW);
    cluster.nats[0].restart();
    cluster.routers.clear();
    cluster.add_router();
    cluster.settled().await;
    socket.until(3).await;
    let producer = cluster.producer().await;
    producer.publish(&event(3)).await;
    socket.until(4).await;
    let expected = ["0", "1", "2", "3"];
    assert_eq!(ids(&socket), expected);

    let dead_letters = eventually("the dead letter", DEADLINE, async || {
        let dead_letters = stored(&cluster.client, names::DEAD_LETTERS).await;
        (!dead_letters.is_empty()).then_some(dead_letters)
    })
    .await;
    assert_eq!(dead_letters.len(), 1);
    let headers = dead_letters[0].headers.as_ref().unwrap();
    let header = |name: &str| headers.get(name).map(|value| value.as_str());
    assert_eq!(header("Tickwire-Reason"), Some("too_large"));
    assert_eq!(header("Tickwire-Truncated-From"), Some(large.len().to_string().as_str()));
    assert!(large.as_bytes().starts_with(&dead_letters[0].payload) && dead_letters[0].payload.len() > NOW / 2);
    let metrics = cluster.routers[0].metrics().await;
    let reads = metrics.get("tickwire_router_leader_reads_total");
    let failures = metrics.get("tickwire_router_intake_restarts_total");
    // On a busy machine consumers may also fail at another message, but none is read so before the third failure.
    assert!((1.0..=failures - 2.0).contains(&reads), "{reads} reads after {failures} failures");

    away.resume(gateway, "bob", &json!({ "mine": { "filter": filter } })).await;
    assert!(away.caught_up().await.resumed, "{:?}", away.gaps);
    let mut looking_back = Socket::connect(gateway, "carl", Encoding::Json).await;
    looking_back.request(json!({ "action": "subscribe", "name": "mine", "filter": filter, "since": "1h" })).await;
    assert!(looking_back.caught_up().await.resumed, "{:?}", looking_back.gaps);
    for socket in [&socket, &away, &looking_back] {
        assert_eq!((ids(socket), &socket.gaps[..]), (expected.map(str::to_owned).to_vec(), &[][..]));
    }
}
