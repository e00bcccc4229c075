//! Large filters of one client neither delay the events of others nor fill the memory of nodes.

use serde_json::{Value, json};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tickwire_testkit::eventually;

use crate::cluster::Cluster;
use crate::feed;
use crate::node::{DEADLINE, TestNode};
use crate::socket::Socket;

/// The default values of the settings that test clusters change.
/// The timeout of confirmations is not among them: on a busy machine, one that is late would cause a gap.
const DEFAULTS: [(&str, &str); 4] = [
    ("gateway.critical_rate", "20"),
    ("gateway.rate", "100"),
    ("gateway.shrink_delay", "5s"),
    ("gateway.window", "100ms"),
];

/// The largest size of a gateway's interest, with some room for its bounds.
const INTEREST_BYTES: f64 = 800.0 * 1024.0;

/// A filter with its own kinds, symbols and patterns, as many as given.
fn greedy(number: usize, kinds: usize, symbols: usize, patterns: usize) -> Value {
    let kinds = &["pattern", "market", "health", "alert", "backtest"][..kinds];
    let symbols: Vec<_> = (0..symbols).map(|symbol| format!("Z{number}-{symbol}")).collect();
    let patterns: Vec<_> = (0..patterns).map(|pattern| format!("{number}-{pattern:p<58}")).collect();
    json!({ "kinds": kinds, "symbols": symbols, "patterns": patterns })
}

/// The memory of a node, in MB.
fn resident(node: &TestNode) -> u64 {
    node.process.resident_kb() / 1024
}

#[tokio::test]
async fn large_filter_costs_others_no_event_and_nodes_little_memory() {
    let mut cluster = Cluster::start_with(1, 1, &DEFAULTS).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut good = Socket::connect(gateway, "ann", Encoding::Json).await;
    good.subscribe("all", &json!({})).await;
    let producer = cluster.producer().await;
    producer.publish(&feed::pattern("GOOD", 0)).await;
    good.until(1).await;
    let before = [resident(&cluster.gateways[0]), resident(&cluster.routers[0])];

    let mut first = Socket::connect(gateway, "eve", Encoding::Json).await;
    first.subscribe("much", &greedy(0, 1, 500, 60)).await;
    producer.publish(&feed::pattern("GOOD", 1)).await;
    good.until(2).await;
    let mut second = Socket::connect(gateway, "mallory", Encoding::Json).await;
    second.subscribe("much", &greedy(1, 5, 500, 200)).await;
    producer.publish(&feed::pattern("GOOD", 2)).await;
    producer.publish(&feed::pattern("Z0-7", 0)).await;
    good.until(4).await;
    let after = [resident(&cluster.gateways[0]), resident(&cluster.routers[0])];
    assert!(after[0] < before[0] + 30 && after[1] < before[1] + 30, "{before:?} -> {after:?} MB");
    eventually("the gateway is ready", DEADLINE, async || (cluster.gateways[0].readyz().await.0 == 200).then_some(()))
        .await;
    assert_eq!((good.gaps.len(), good.event_notices().len()), (0, 0));
}

#[tokio::test]
async fn interest_of_fifty_greedy_sessions_is_bounded_and_shrinks_again() {
    let mut cluster = Cluster::start_with(1, 1, &DEFAULTS).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut good = Socket::connect(gateway, "ann", Encoding::Json).await;
    good.subscribe("mine", &json!({ "symbols": ["GOOD"] })).await;
    let before = resident(&cluster.gateways[0]);
    let mut greedy_ones = Vec::new();
    for number in 0..50 {
        let mut socket = Socket::connect(gateway, &format!("eve-{number}"), Encoding::Json).await;
        socket.subscribe("much", &greedy(number, 5, 500, 200)).await;
        greedy_ones.push(socket);
    }
    let taken = cluster.gateways[0].metrics().await.get("tickwire_gateway_interest_bytes");
    assert!(taken < INTEREST_BYTES, "{taken} bytes of interest");
    let producer = cluster.producer().await;
    for number in 0..3 {
        producer.publish(&feed::pattern("GOOD", number)).await;
    }
    good.until(3).await;
    let after = resident(&cluster.gateways[0]);
    // Each filter takes about 60 KB twice: for the session and in the index.
    assert!(after < before + 60, "{before} -> {after} MB");

    drop(greedy_ones);
    eventually("the interest is small again", DEADLINE, async || {
        (cluster.gateways[0].metrics().await.get("tickwire_gateway_interest_bytes") < 200.0).then_some(())
    })
    .await;
    producer.publish(&feed::pattern("GOOD", 3)).await;
    good.until(4).await;
    assert_eq!((good.gaps.len(), good.event_notices().len()), (0, 0));
}

#[tokio::test]
async fn filters_of_a_session_have_a_byte_budget() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let subscribe = |name: &str, filter: &Value| json!({ "action": "subscribe", "name": name, "filter": filter });
    let rooms = |count: usize| json!({ "rooms": (0..count).map(|room| format!("{room:r>64}")).collect::<Vec<_>>() });
    // A normal filter fits, and can be replaced by one of the same size.
    for _ in 0..3 {
        socket.subscribe("honest", &greedy(0, 1, 500, 60)).await;
    }
    socket.subscribe("rooms", &rooms(900)).await;
    let error = socket.refused(subscribe("more", &rooms(900))).await;
    assert_eq!((error.code, error.msg.contains("98304")), (ErrorCode::FilterBudget.code(), true), "{error:?}");
    socket.unsubscribe("rooms").await;
    socket.subscribe("more", &rooms(900)).await;
    let subscriptions = json!({ "a": { "filter": rooms(900) }, "b": { "filter": rooms(800) } });
    let mut other = Socket::connect(gateway, "ann", Encoding::Json).await;
    let resume = json!({ "action": "resume", "position": socket.position, "subscriptions": subscriptions });
    assert_eq!(other.refused(resume).await.code, ErrorCode::FilterBudget.code());
    let granted = other.request(subscribe("rooms", &rooms(900))).await;
    assert!(matches!(granted, ServerMessage::Subscribed(_)), "the session continues: {granted:?}");
}
