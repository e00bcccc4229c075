//! Endless new users: sixty a second, each with new symbols, names and a new pattern, and three hundred events a second
//! on new symbols. Half of the users are cut abruptly, and a third of all return. Each gets exactly its events, and no
//! node uses more memory at the end than early on.
//!
//! `make soak` runs this for ten minutes, or for `TICKWIRE_SOAK_SECONDS`. The configuration is the default, except for
//! `auth.mode = "dev"` and no rebalance. The load is about fifty connections a second, far below the default
//! `gateway.admission_rate`, so none is refused.

use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::tools::{is_full, report};
use crate::cluster::Cluster;
use crate::diagnosis::diagnose;
use crate::node::TestNode;
use crate::producer::{Producer, ProducerMessage};
use crate::socket::Socket;

/// How many users connect in a second.
const PER_SECOND: u32 = 60;

/// How many symbols each wants, like a usual watch list, and for how many of them there is an event.
const SYMBOLS: usize = 25;
const EVENTS: usize = 5;

/// How many events arrive before some users are cut.
const BEFORE: usize = 2;

/// How long a user exists, cut or not.
const STAY: Duration = Duration::from_secs(4);

/// How long the usage of a node is measured. The median counts.
const LOOK: Duration = Duration::from_secs(5);

/// The allowed growth until the end.
const GROWTH: f64 = 1.1;

/// The duration of the test, and the time of the first measurement: after two minutes, or at half time in the short
/// forms. By then the first users have left, their interest has been removed (`gateway.shrink_delay`, 5 s), and a fully
/// loaded node was seen to reach its full memory after twenty seconds.
fn schedule() -> (Duration, Duration) {
    let asked = std::env::var("TICKWIRE_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let lasting = Duration::from_secs(asked.unwrap_or(if is_full() { 90 } else { 45 }));
    (lasting, Duration::from_secs(120).min(lasting / 2))
}

/// How a user ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UserEnd {
    /// It stays connected, and closes.
    Stays,
    /// It is cut, and resumes at the other gateway.
    ComesBack,
    /// It is cut, and never returns.
    Vanishes,
}

/// Half are cut, and a third of all return.
fn end_of_user(number: u32) -> UserEnd {
    match number % 6 {
        0 | 1 => UserEnd::ComesBack,
        2 => UserEnd::Vanishes,
        _ => UserEnd::Stays,
    }
}

/// Runs one user.
async fn run_user(number: u32, gateways: [SocketAddr; 2], producer: Producer, until: Instant) -> usize {
    let (user, name) = (format!("newcomer {number}"), format!("what {number} wants"));
    let symbols: Vec<String> = (0..SYMBOLS).map(|at| format!("SYMBOL-{at}-OF-{number}")).collect();
    let filter = json!({ "symbols": symbols, "patterns": [format!("Pattern{number}")] });
    let event = |symbol: &String| {
        ProducerMessage::json("pattern", symbol, &json!({ "pattern": format!("Pattern{number}"), "confidence": 0.5 }))
    };
    let events: Vec<ProducerMessage> = symbols[..EVENTS].iter().map(event).collect();
    let (first, rest) = events.split_at(BEFORE);
    let at = number as usize / 6 % 2;
    let encoding = Encoding::ALL[number as usize / 12 % 2];
    let mut socket = Socket::connect(gateways[at], &user, encoding).await;
    socket.subscribe(&name, &filter).await;
    producer.publish_all(first).await;
    socket.until(BEFORE).await;
    let mut before = Vec::new();
    if end_of_user(number) != UserEnd::Stays {
        let frame = socket.resume_frame(&json!({ &name: { "filter": filter } }));
        before = socket.abort();
        producer.publish_all(rest).await;
        if end_of_user(number) == UserEnd::Vanishes {
            return before.len();
        }
        socket = Socket::connect(gateways[1 - at], &user, encoding).await;
        assert!(matches!(socket.request(frame).await, ServerMessage::Subscribed(_)), "user {number} is back");
        assert!(socket.caught_up().await.resumed, "user {number}");
    } else {
        producer.publish_all(rest).await;
    }
    socket.until(EVENTS - before.len()).await;
    sleep_until(until).await;
    before.append(&mut socket.events);
    let had: BTreeSet<&str> =
        before.iter().filter_map(|event| event.symbol.as_ref().map(|symbol| symbol.as_str())).collect();
    let wanted: BTreeSet<&str> = symbols[..EVENTS].iter().map(String::as_str).collect();
    assert!(had == wanted && before.len() == EVENTS, "user {number} has each once: {before:?}");
    // On a busy machine users may get notices of an outage, but none of a dropped event.
    let dropped: u64 = socket.notices.iter().map(|notice| notice.dropped + notice.conflated).sum();
    assert_eq!((socket.gaps.len(), dropped), (0, 0), "user {number}: {:?}", socket.notices);
    socket.send_message(Message::Close(None)).await;
    EVENTS
}

/// The usage of a node: memory in KB, and file descriptors.
#[derive(Debug, Clone, Copy)]
struct NodeUsage {
    kb: u64,
    descriptors: usize,
}

/// The median of the measurements of each node.
fn median(looks: &[Vec<NodeUsage>]) -> Vec<NodeUsage> {
    let of = |node: usize| {
        let mut kb: Vec<u64> = looks.iter().map(|look| look[node].kb).collect();
        let mut descriptors: Vec<usize> = looks.iter().map(|look| look[node].descriptors).collect();
        kb.sort_unstable();
        descriptors.sort_unstable();
        NodeUsage { kb: kb[kb.len() / 2], descriptors: descriptors[descriptors.len() / 2] }
    };
    (0..looks[0].len()).map(of).collect()
}

fn look(cluster: &Cluster) -> Vec<NodeUsage> {
    let held = |node: &TestNode| NodeUsage { kb: node.process.resident_kb(), descriptors: node.process.descriptors() };
    cluster.routers.iter().chain(&cluster.gateways).map(held).collect()
}

/// Returns how many events a user received. Fails if those were not exactly its own.
async fn exact(cluster: &mut Cluster, user: Result<usize, JoinError>) -> usize {
    match user {
        Ok(received) => received,
        Err(error) => panic!("{error}: {}", diagnose(cluster).await),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_with_thousands_of_new_users() {
    let mut cluster = Cluster::as_shipped().await;
    for _ in 0..2 {
        cluster.add_router();
        // The other gateway would send some sessions to a gateway that has just joined. A bare socket does not follow.
        let gateway = cluster.node_with("gateway", &[("gateway.rebalance_rate", "0")]);
        cluster.gateways.push(gateway);
    }
    cluster.settled().await;
    let gateways: [SocketAddr; 2] = cluster.gateway_addresses().await.try_into().unwrap();
    let producer = cluster.producer().await;
    let (lasting, settled_by) = schedule();
    let begun = Instant::now();
    let mut due = interval_at(begun, Duration::from_secs(1) / PER_SECOND);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut users, mut received, mut number) = (JoinSet::new(), 0, 0);
    let (mut early, mut late) = (Vec::new(), Vec::new());
    while begun.elapsed() < lasting {
        let until = due.tick().await + STAY;
        users.spawn(run_user(number, gateways, producer.clone(), until));
        number += 1;
        while let Some(user) = users.try_join_next() {
            received += exact(&mut cluster, user).await;
        }
        if number.is_multiple_of(PER_SECOND / 4) {
            let elapsed = begun.elapsed();
            if elapsed > settled_by.saturating_sub(LOOK) && elapsed <= settled_by {
                early.push(look(&cluster));
            } else if elapsed > lasting.saturating_sub(LOOK) {
                late.push(look(&cluster));
            }
            if number.is_multiple_of(PER_SECOND * 5) {
                eprintln!("{elapsed:.0?}: {:?}", look(&cluster));
            }
        }
    }
    let (early, late) = (median(&early), median(&late));
    while let Some(user) = users.join_next().await {
        received += exact(&mut cluster, user).await;
    }
    let mut most: f64 = 0.0;
    for (node, (early, late)) in cluster.routers.iter().chain(&cluster.gateways).zip(early.iter().zip(&late)) {
        let (memory, open) = (late.kb as f64 / early.kb as f64, late.descriptors as f64 / early.descriptors as f64);
        eprintln!("{}: {early:?} after {settled_by:.0?}, {late:?} after {lasting:.0?}", node.id);
        assert!(memory <= GROWTH && open <= GROWTH, "{}: {early:?}, then {late:?}", node.id);
        most = most.max(memory).max(open);
    }
    let mut refused = 0.0;
    for gateway in &mut cluster.gateways {
        refused += gateway.metrics().await.get("tickwire_gateway_refused_upgrades_total");
    }
    assert_eq!(refused, 0.0, "the rate that ships admits them");
    let found = format!("{number} users, {received} deliveries exact, nodes hold {most:.2} times what they held early");
    report("newcomers", &found);
}
