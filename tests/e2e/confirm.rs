//! The promise of a confirmation: after the answer the new filters hold, and no matching event is missed.

use futures_util::future::join_all;
use serde_json::json;
use std::time::Duration;
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{Encoding, ReceivedEvent};

use crate::cluster::Cluster;
use crate::feed;
use crate::oracle::{OracleEntry, assert_exact, at, filter};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

const CONNECTIONS: usize = 20;
const ROUNDS: usize = 50;

/// A thousand times: a subscription that changes the interest of the gateway, and an event right after its
/// confirmation.
#[tokio::test]
async fn event_right_after_a_confirmation_is_delivered() {
    let mut cluster = Cluster::start(2, 2).await;
    let gateways = cluster.gateway_addresses().await;
    let producer = cluster.producer().await;
    let races = (0..CONNECTIONS).map(|connection| {
        let (producer, gateway) = (producer.clone(), gateways[connection % 2]);
        async move {
            let encoding = Encoding::ALL[connection / 2 % 2];
            let mut socket = Socket::connect(gateway, &format!("user-{connection}"), encoding).await;
            for round in 0..ROUNDS {
                let new = format!("{connection}-{round}");
                // Each subscription needs new interest: another symbol, pattern, or kind of a symbol.
                let (filter, event) = match round % 3 {
                    0 => (
                        json!({ "symbols": [new] }),
                        ProducerMessage::json("pattern", &new, &json!({ "pattern": "Doji" })),
                    ),
                    1 => (
                        json!({ "patterns": [new] }),
                        ProducerMessage::json("pattern", "SPY", &json!({ "pattern": new })),
                    ),
                    _ => (
                        json!({ "kinds": ["health"], "symbols": [new] }),
                        ProducerMessage::json("health", "feed", &json!({ "symbol": new })),
                    ),
                };
                let name = format!("rotating-{}", round % 4);
                let list = socket.subscribe(&name, &filter).await;
                assert_eq!(list.subscriptions.len(), (round + 1).min(4));
                let seq = producer.publish(&event).await;
                socket.until(round + 1).await;
                assert_eq!(socket.events[round].seq.0, seq, "round {round} of connection {connection}");
            }
            assert_eq!((socket.events.len(), socket.gaps.len()), (ROUNDS, 0));
        }
    });
    join_all(races).await;
}

#[tokio::test]
async fn replacing_a_filter_splits_events_at_the_confirmed_position() {
    let mut cluster = Cluster::start(2, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let symbols = ["OLD", "BOTH", "NEW"];
    let (old, new) = (json!({ "symbols": ["OLD", "BOTH"] }), json!({ "symbols": ["BOTH", "NEW"] }));
    let mut positions = vec![socket.subscribe("mine", &old).await.position];

    let producer = cluster.producer().await;
    let flow = producer.flow(Duration::from_millis(2), move |number| feed::pattern(symbols[number % 3], number));
    for turn in 1..=6 {
        flow.more(30).await;
        let filter = if turn % 2 == 1 { &new } else { &old };
        let list = socket.subscribe("mine", filter).await;
        assert_eq!(list.subscriptions.len(), 1);
        positions.push(list.position);
    }
    flow.more(30).await;
    let published = flow.stop().await;

    let log = cluster.log().await;
    assert_eq!(log.entries.len(), published);
    socket.catch_up(&log.end()).await;
    // For each event the filter applies whose confirmation has the last position before it.
    let filters = [filter(&old), filter(&new)];
    let holds = |entry: &&OracleEntry| {
        let confirmed = positions.iter().filter(|position| at(position, entry.partition) < entry.seq).count();
        let number = confirmed.checked_sub(1).expect("nothing is published before the first");
        filters[number % 2].matches(&entry.event)
    };
    let expected: Vec<&OracleEntry> = log.entries.iter().filter(holds).collect();
    assert_exact("ann", &socket.events, &socket.gaps, &expected);
    let of = |symbol: &str| {
        let is_it = |event: &&ReceivedEvent| event.symbol.as_ref().is_some_and(|s| s.as_str() == symbol);
        socket.events.iter().filter(is_it).count()
    };
    assert_eq!(of("BOTH"), log.matching("ann", &[filter(&json!({ "symbols": ["BOTH"] }))]).len());
    assert!(of("OLD") > 20 && of("NEW") > 20, "{} and {}", of("OLD"), of("NEW"));
}

#[tokio::test]
async fn no_event_follows_the_answer_to_unsubscribe() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::MsgPack).await;
    let wanted = json!({ "symbols": ["AAPL"] });
    socket.subscribe("one", &wanted).await;
    socket.subscribe("two", &json!({ "symbols": ["NVDA"] })).await;
    socket.subscribe("three", &json!({ "symbols": ["NVDA"], "tiers": ["daily"] })).await;

    let producer = cluster.producer().await;
    let flow = producer.flow(Duration::from_millis(1), |number| feed::pattern("AAPL", number));
    socket.until(50).await;
    let left = socket.unsubscribe("one").await;
    let (before, position) = (socket.events.len(), left.position.clone());
    flow.more(50).await;
    flow.stop().await;
    let log = cluster.log().await;
    socket.catch_up(&log.end()).await;
    let expected: Vec<&OracleEntry> =
        log.entries.iter().filter(|entry| entry.seq <= at(&position, entry.partition)).collect();
    assert_exact("ann", &socket.events, &socket.gaps, &expected);
    assert!((50..log.entries.len()).contains(&before), "{before} of {}", log.entries.len());
    assert_eq!(left.subscriptions.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["three", "two"]);

    let error = socket.refused(json!({ "action": "unsubscribe", "name": "one" })).await;
    assert_eq!(error.code, ErrorCode::UnknownSubscription.code());
    assert!(socket.unsubscribe("*").await.subscriptions.is_empty());
    producer.publish(&feed::pattern("NVDA", 0)).await;
    socket.catch_up(&cluster.log().await.end()).await;
    assert_eq!(socket.events.len(), before);
    assert!(socket.list().await.subscriptions.is_empty());
}
