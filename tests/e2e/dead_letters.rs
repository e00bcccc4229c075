//! Unreadable messages become dead letters with a reason, and all other events are delivered.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tickwire_core::event::decode::Reason;
use tickwire_core::protocol::Encoding;
use tickwire_node::names;
use tickwire_testkit::eventually;

use crate::cluster::Cluster;
use crate::feed;
use crate::node::DEADLINE;
use crate::oracle::{assert_exact, filter, stored};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// At least one message for every reason that a client library can cause.
fn unreadable() -> Vec<(Reason, ProducerMessage)> {
    let pattern = |event: Value| ProducerMessage::json("pattern", "AAPL", &event);
    let market = |event: Value| ProducerMessage::json("market", "US", &event);
    let health = |event: Value| ProducerMessage::json("health", "db", &event);
    let valid = r#"{"pattern":"Doji"}"#;
    vec![
        (Reason::BadSubject, ProducerMessage::raw("events.a.b.c", valid)),
        (Reason::BadSubject, ProducerMessage::raw("events.pattern", valid)),
        (Reason::BadSubject, ProducerMessage::raw("events.pattern.BRK.B", valid)),
        (Reason::UnknownKind, ProducerMessage::raw("events.patern.AAPL", valid)),
        (Reason::UnknownKind, ProducerMessage::raw("events.news.AAPL", valid)),
        (Reason::BadKey, ProducerMessage::raw("events.pattern.^GSPC", valid)),
        (Reason::BadKey, ProducerMessage::raw("events.pattern.=2e", valid)),
        (Reason::BadKey, ProducerMessage::raw(format!("events.alert.{}", "u".repeat(129)), "{}")),
        (Reason::TooLarge, pattern(json!({ "pattern": "Doji", "note": "x".repeat(262_144) }))),
        (Reason::BadJson, ProducerMessage::raw("events.pattern.AAPL", "{\"pattern\":")),
        (Reason::BadJson, ProducerMessage::raw("events.pattern.AAPL", "[]")),
        (Reason::BadJson, ProducerMessage::raw("events.pattern.AAPL", "")),
        (Reason::BadJson, ProducerMessage::raw("events.pattern.AAPL", vec![0xff, 0x00])),
        (Reason::BadMsgPack, ProducerMessage::raw("events.pattern.AAPL", valid).content_type("application/msgpack")),
        (Reason::SymbolMismatch, pattern(json!({ "pattern": "Doji", "symbol": "NVDA" }))),
        (Reason::BadSymbol, market(json!({ "symbol": "S".repeat(33) }))),
        (Reason::MissingPattern, pattern(json!({ "confidence": 0.5 }))),
        (Reason::MissingPattern, pattern(json!({ "pattern": "" }))),
        (Reason::BadPattern, market(json!({ "pattern": 7 }))),
        (Reason::BadTier, pattern(json!({ "pattern": "Doji", "tier": "weekly" }))),
        (Reason::BadConfidence, pattern(json!({ "pattern": "Doji", "confidence": 1.01 }))),
        (Reason::BadConfidence, pattern(json!({ "pattern": "Doji", "confidence": "NaN" }))),
        (Reason::BadTimestamp, pattern(json!({ "pattern": "Doji", "timestamp": "yesterday" }))),
        (Reason::BadPriority, pattern(json!({ "pattern": "Doji", "priority": "urgent" }))),
        (Reason::BadTags, pattern(json!({ "pattern": "Doji", "tags": "one" }))),
        (Reason::BadRooms, pattern(json!({ "pattern": "Doji", "rooms": "one" }))),
        (Reason::BadRegime, market(json!({ "regime": "sideways" }))),
        (Reason::BadMarket, market(json!({ "risk_on_score": 2 }))),
        (Reason::NatsAnswer, health(json!({ "stream": "EVENTS", "seq": 7 }))),
        (Reason::BadStatus, health(json!({ "status": "fine" }))),
        (Reason::BadHealth, health(json!({ "error_counts": { "timeouts": "many" } }))),
    ]
}

#[tokio::test]
async fn unreadable_messages_become_dead_letters_and_others_are_delivered() {
    let unreadable = unreadable();
    let covered: BTreeSet<_> = unreadable.iter().map(|(reason, _)| reason.as_str()).collect();
    // No client library sends bad headers (`strange_messages` does), and no known message is `unreadable`.
    let others = [Reason::BadHeaders, Reason::Unreadable];
    let all = Reason::ALL.iter().filter(|reason| !others.contains(reason));
    assert_eq!(covered, all.map(|reason| reason.as_str()).collect());

    let mut cluster = Cluster::start(2, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "kinds": ["pattern", "market", "health"] });
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &wanted).await;

    let producer = cluster.producer().await;
    let mut sent = BTreeMap::new();
    for (number, (reason, message)) in unreadable.iter().enumerate() {
        // Each message has its own id, or the stream would take equal ones for duplicates.
        let seq = producer.publish(&message.clone().id(format!("bad-{number}"))).await;
        sent.insert(seq, (*reason, message));
        producer.publish(&feed::pattern("AAPL", number)).await;
        producer.publish(&ProducerMessage::json("health", "db", &json!({ "status": "healthy" }))).await;
    }

    let dead_letters = eventually("every dead letter is stored", DEADLINE, async || {
        let dead_letters = stored(&cluster.client, names::DEAD_LETTERS).await;
        (dead_letters.len() >= unreadable.len()).then_some(dead_letters)
    })
    .await;
    assert_eq!(dead_letters.len(), unreadable.len());
    let mut seqs = BTreeSet::new();
    for dead_letter in &dead_letters {
        let headers = dead_letter.headers.as_ref().unwrap();
        let header = |name: &str| headers.get(name).unwrap_or_else(|| panic!("no {name} in {headers:?}")).as_str();
        let seq: u64 = header("Tickwire-Sequence").parse().unwrap();
        let (reason, message) = sent[&seq];
        assert_eq!(names::parse_dead_letter(&dead_letter.subject), Some(reason.as_str()), "{message:?}");
        assert_eq!(header("Tickwire-Reason"), reason.as_str());
        assert!(!header("Tickwire-Detail").is_empty());
        assert_eq!(dead_letter.payload, message.payload());
        assert!(seqs.insert(seq), "{seq} became two dead letters");
    }

    let log = cluster.log().await;
    assert_eq!(log.entries.len(), 2 * unreadable.len());
    socket.catch_up(&log.end()).await;
    assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&wanted)]));
    assert_eq!(socket.events.len(), 2 * unreadable.len());
}
