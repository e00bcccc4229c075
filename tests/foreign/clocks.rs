//! Wrong clocks: no node has the right time of day. A router is a day behind and another an hour ahead, a gateway a day
//! ahead and another ten minutes behind, by Debian's `faketime`. The ledger checks delivery while nodes of both roles
//! die and are replaced by others with equally wrong clocks. Then the test checks what does need a clock: tokens and
//! `since`.

use serde_json::json;
use std::time::Duration;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::codes::CloseCode;
use tickwire_core::protocol::{Encoding, ServerMessage, Subscriptions};
use tickwire_testkit::Pulse;

use super::tools::{debian_library, report};
use crate::cluster::Cluster;
use crate::feed::SYMBOLS;
use crate::ledger::book::{Crowd, DEFAULTS_CROWD, Ledger, seed};
use crate::node::DEADLINE;
use crate::oracle::{at, filter};
use crate::socket::{Incoming, Socket};

/// How long after a death every node may take to be ready.
const READY: Duration = Duration::from_secs(15);

const CROWD: Crowd = Crowd { readers: 40, slow: 0, listeners: 4, ..DEFAULTS_CROWD };

const ROUTERS: [&str; 2] = ["-1d", "+1h"];
const GATEWAYS: [&str; 2] = ["+1d", "-10m"];

const HOUR: Duration = Duration::from_secs(3_600);

/// Starts a node whose clock is wrong by `offset`.
fn add(cluster: &mut Cluster, role: &str, offset: &str) {
    let library = debian_library("faketime/libfaketimeMT.so.1");
    let node = cluster.node_in(&library, offset, role);
    let nodes = if role == "router" { &mut cluster.routers } else { &mut cluster.gateways };
    nodes.push(node);
}

/// Kills the first node of a role, and adds a new one as the last. Returns how long the cluster takes to be ready.
async fn replace(ledger: &mut Ledger, role: &str, offset: &str) -> Duration {
    let Ledger { cluster, gateways, publisher, .. } = ledger;
    let nodes = if role == "router" { &mut cluster.routers } else { &mut cluster.gateways };
    nodes.remove(0).process.kill();
    add(cluster, role, offset);
    let pulse = Pulse::start();
    let took = cluster.ready_within(DEADLINE).await;
    assert!(took <= READY + pulse.allowance(), "ready after {took:.1?}");
    eprintln!("a {role} at {offset} is replaced: ready after {took:.1?}");
    *gateways.lock().unwrap() = cluster.gateway_addresses().await;
    publisher.more(40).await;
    took
}

/// Connects to a gateway with a token that is valid for this time, and asks for the last hour. Returns the events that
/// the client gets and those that the stream has, or the close code.
async fn last_hour(cluster: &mut Cluster, gateway: usize, valid_for: Duration) -> Result<[Vec<Seq>; 2], u16> {
    let address = cluster.gateways[gateway].gateway().await;
    let mut socket = Socket::open(address, &Cluster::query_for("ann", valid_for), Encoding::Json).await;
    match socket.next().await {
        Incoming::Message(ServerMessage::Welcome(_)) => {}
        Incoming::Message(ServerMessage::Error(_)) => return Err(socket.closed().await.0),
        other => panic!("{other:?} arrives first"),
    }
    let wanted = json!({ "symbols": [SYMBOLS[0]] });
    let since = json!({ "action": "subscribe", "name": "all", "filter": wanted, "since": "1h" });
    let ServerMessage::Subscribed(Subscriptions { position, .. }) = socket.request(since).await else {
        panic!("not subscribed")
    };
    assert!(socket.caught_up().await.resumed);
    let position = position.to_string();
    let is_past = |p: Partition, seq: Seq| seq <= at(&position, p);
    let mut given: Vec<Seq> =
        socket.events.iter().filter(|event| is_past(event.p, event.seq)).map(|event| event.seq).collect();
    given.sort_unstable();
    let log = cluster.log().await;
    let due = log.matching("ann", &[filter(&wanted)]);
    let due = due.into_iter().filter(|entry| is_past(entry.partition, entry.seq)).map(|entry| entry.seq).collect();
    Ok([given, due])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_clocks_lose_no_event_and_affect_only_tokens_and_since() {
    let mut cluster = Cluster::shipped().await;
    for (router, gateway) in ROUTERS.into_iter().zip(GATEWAYS) {
        add(&mut cluster, "router", router);
        add(&mut cluster, "gateway", gateway);
    }
    cluster.settled().await;
    let mut ledger = Ledger::start_with("clocks", seed(6), cluster, CROWD).await;
    let mut longest = Duration::ZERO;
    let all = [("router", ROUTERS), ("gateway", GATEWAYS)];
    let all = all.into_iter().flat_map(|(role, offsets)| offsets.map(|offset| (role, offset)));
    for (role, offset) in all {
        longest = longest.max(replace(&mut ledger, role, offset).await);
    }
    let Ledger { cluster, .. } = &mut ledger;
    // For a gateway that is a day ahead, a token of an hour has expired, and the last hour has no events.
    assert_eq!(last_hour(cluster, 0, HOUR).await, Err(CloseCode::TokenExpired.code()));
    let [given, due] = last_hour(cluster, 0, 48 * HOUR).await.unwrap();
    assert!(given.is_empty() && !due.is_empty(), "{given:?} of {due:?}");
    let [given, due] = last_hour(cluster, 1, HOUR).await.unwrap();
    assert!(given == due && !due.is_empty(), "{given:?} of {due:?}");

    let tally = ledger.close().await;
    let received = tally.received;
    report("wrong clocks", &format!("{received} deliveries exact, 4 nodes replaced, ready after {longest:.1?}"));
}
