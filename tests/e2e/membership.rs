//! Routers join and leave while events flow: partitions change owners, and clients notice nothing.

use serde_json::json;
use std::time::Duration;
use tickwire_core::protocol::Encoding;
use tickwire_testkit::eventually;

use crate::cluster::{Cluster, PARTITIONS};
use crate::feed;
use crate::node::DEADLINE;
use crate::oracle::{assert_covered, assert_exact, filter};
use crate::producer::Flow;
use crate::socket::Socket;

/// How many events flow before and after each change.
const SOME: usize = 200;

/// Starts a client for each encoding that wants all events, and a flow of events over all partitions.
async fn watched(cluster: &mut Cluster) -> (Vec<Socket>, Flow) {
    let mut sockets = Vec::new();
    for gateway in cluster.gateway_addresses().await {
        for encoding in Encoding::ALL {
            let mut socket = Socket::connect(gateway, "ann", encoding).await;
            socket.subscribe("all", &json!({})).await;
            sockets.push(socket);
        }
    }
    let producer = cluster.producer().await;
    let flow = producer.flow(Duration::from_millis(1), |number| feed::pattern(&format!("S{}", number % 97), number));
    flow.more(SOME).await;
    (sockets, flow)
}

/// Fails unless every client has got everything, once, in order, without a gap.
async fn assert_unnoticed(cluster: &Cluster, sockets: &mut [Socket], published: usize) {
    let log = cluster.log().await;
    assert_eq!(log.entries.len(), published);
    for socket in sockets {
        socket.catch_up(&log.end()).await;
        assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&json!({}))]));
    }
}

#[tokio::test]
async fn second_router_takes_its_share_without_loss_or_repeats() {
    let mut cluster = Cluster::start(1, 1).await;
    let (mut sockets, flow) = watched(&mut cluster).await;
    cluster.add_router();
    // Both own 13 to 19 partitions.
    cluster.settled().await;
    flow.more(SOME).await;
    let published = flow.stop().await;
    assert_unnoticed(&cluster, &mut sockets, published).await;
}

#[tokio::test]
async fn stopping_router_hands_over_its_partitions() {
    let mut cluster = Cluster::start(2, 1).await;
    let (mut sockets, flow) = watched(&mut cluster).await;
    let mut leaving = cluster.routers.remove(0);
    leaving.process.terminate();
    assert_eq!(leaving.process.wait(DEADLINE).await.code(), Some(0), "{}", leaving.process.stderr());
    // The other one owns all partitions.
    cluster.settled().await;
    flow.more(SOME).await;
    let published = flow.stop().await;
    assert_unnoticed(&cluster, &mut sockets, published).await;
}

#[tokio::test]
async fn killed_router_costs_no_event_without_a_gap() {
    let mut cluster = Cluster::start(2, 2).await;
    let (mut sockets, flow) = watched(&mut cluster).await;
    cluster.routers.remove(1).process.kill();
    eventually("the other router owns everything", DEADLINE, async || {
        (cluster.owned().await == [PARTITIONS]).then_some(())
    })
    .await;
    flow.more(SOME).await;
    let published = flow.stop().await;

    let log = cluster.log().await;
    assert_eq!(log.entries.len(), published);
    for socket in &mut sockets {
        socket.catch_up(&log.end()).await;
        let in_gaps = assert_covered("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&json!({}))]));
        assert_eq!(socket.events.len() + in_gaps, published);
    }
}

#[tokio::test]
async fn thawed_router_causes_no_repeats() {
    let mut cluster = Cluster::start(2, 1).await;
    let (mut sockets, flow) = watched(&mut cluster).await;
    let frozen = cluster.routers.remove(0);
    frozen.process.freeze();
    eventually("the other router owns everything", DEADLINE, async || {
        (cluster.owned().await == [PARTITIONS]).then_some(())
    })
    .await;
    flow.more(SOME).await;
    frozen.process.thaw();
    cluster.routers.insert(0, frozen);
    cluster.settled().await;
    flow.more(SOME).await;
    let published = flow.stop().await;
    assert_unnoticed(&cluster, &mut sockets, published).await;
}
