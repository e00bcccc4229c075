//! Nodes start, stop and come back in any order, with the settings that ship, while clients knock.

use futures_util::future::join_all;
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tickwire_core::protocol::Encoding;

use crate::cluster::Cluster;
use crate::feed;
use crate::node::TestNode;
use crate::socket::{Socket, query};

/// Within so long clients know that a gateway gets no coverage.
const TOLD: Duration = Duration::from_secs(10);

/// So long after the last missing part is there everyone is served.
const SERVED: Duration = Duration::from_secs(10);

/// How much processor time a process has used.
fn used(node: &TestNode) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.process.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Field 14 and 15 of the line, in hundredths of a second; the first after the name is field 3.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn codes(socket: &Socket) -> Vec<&str> {
    socket.notices.iter().map(|notice| notice.code.as_str()).collect()
}

/// Clients that knock at a gateway without coverage, and are told so.
async fn knock(gateway: SocketAddr, count: usize) -> Vec<Socket> {
    let knocks = (0..count).map(|number| async move {
        let begun = Instant::now();
        let mut socket = Socket::open(gateway, &query(&format!("user-{number}")), Encoding::ALL[number % 2]).await;
        socket.until_that(|socket| codes(socket) == ["upstream_lost"]).await;
        assert!(begun.elapsed() < TOLD, "told after {:?}", begun.elapsed());
        let reason = socket.notices[0].msg.as_deref().unwrap();
        assert!(reason.contains("is a router running"), "{reason}");
        socket
    });
    join_all(knocks).await
}

/// All of them are served in time: welcomed, subscribed, told that all is well, and given what is stored then.
async fn served(cluster: &Cluster, mut sockets: Vec<Socket>, since: Instant) -> Vec<Socket> {
    for socket in &mut sockets {
        socket.welcome().await;
        socket.subscribe("mine", &json!({ "symbols": ["AAPL"] })).await;
    }
    assert!(since.elapsed() < SERVED, "served after {:?}", since.elapsed());
    goes_on(cluster, sockets).await
}

async fn goes_on(cluster: &Cluster, mut sockets: Vec<Socket>) -> Vec<Socket> {
    let number = sockets[0].events.len();
    let seq = cluster.producer().await.publish(&feed::pattern("AAPL", number)).await;
    for socket in &mut sockets {
        socket.until_that(|socket| codes(socket).last() == Some(&"upstream_restored")).await;
        socket.until(number + 1).await;
        assert_eq!((socket.events[number].seq.0, socket.events.len(), socket.gaps.len()), (seq, number + 1, 0));
    }
    sockets
}

#[tokio::test]
async fn gateways_that_start_before_all_routers_serve_when_these_come_and_rest_until_then() {
    // The first view may name one of them before the other, which is then one that has joined, and is sent clients.
    let mut cluster = Cluster::as_shipped_but_for(&[("gateway.rebalance_rate", "0")]).await;
    cluster.add_gateway();
    cluster.add_gateway();
    let gateways = cluster.gateway_addresses().await;
    let begun = (Instant::now(), used(&cluster.gateways[0]));
    let [first, second] = [knock(gateways[0], 3).await, knock(gateways[1], 3).await];
    let (waited, used) = (begun.0.elapsed(), used(&cluster.gateways[0]) - begun.1);
    assert!(used < waited / 4, "{used:?} of {waited:?} used while there was nothing to do");

    let since = Instant::now();
    cluster.add_router();
    let first = served(&cluster, first, since).await;
    served(&cluster, second, since).await;

    // The router dies, and another comes.
    cluster.routers[0].process.kill();
    let died = Instant::now();
    let mut sockets = first;
    for socket in &mut sockets {
        socket.until_that(|socket| codes(socket).last() == Some(&"upstream_lost")).await;
        assert!(died.elapsed() < TOLD, "told after {:?}", died.elapsed());
    }
    let mut late = Socket::open(gateways[0], &query("late"), Encoding::Json).await;
    late.until_that(|socket| codes(socket).last() == Some(&"upstream_lost")).await;
    // Whoever asks for what others here have already is served at once, and told as well.
    let mut again = Socket::open(gateways[0], &query("user-0"), Encoding::Json).await;
    again.welcome().await;
    again.subscribe("mine", &json!({ "symbols": ["AAPL"] })).await;
    again.until_that(|socket| codes(socket) == ["upstream_lost"]).await;
    cluster.add_router();
    goes_on(&cluster, sockets).await;
    late.welcome().await;
    again.until_that(|socket| codes(socket) == ["upstream_lost", "upstream_restored"]).await;
    for gateway in &mut cluster.gateways {
        assert_eq!(gateway.metrics().await.get("tickwire_gateway_vain_turns_total"), 0.0);
    }
}
