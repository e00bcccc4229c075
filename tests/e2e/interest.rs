//! A gateway receives the events that its own sessions want, and no others.

use serde_json::json;
use tickwire_core::protocol::Encoding;
use tickwire_testkit::eventually;

use crate::cluster::{Cluster, PATIENT};
use crate::feed;
use crate::node::DEADLINE;
use crate::socket::Socket;

const RECEIVED: &str = "tickwire_gateway_received_events_total";
const REVISION: &str = "tickwire_gateway_interest_revision";

/// The number of events of each of the two symbols.
const SOME: [usize; 2] = [70, 110];

#[tokio::test]
async fn gateways_with_disjoint_symbols_receive_none_of_each_others_events() {
    let mut cluster = Cluster::start_with(2, 2, &PATIENT).await;
    let gateways = cluster.gateway_addresses().await;
    let mut one = Socket::connect(gateways[0], "ann", Encoding::Json).await;
    let mut two = Socket::connect(gateways[1], "bob", Encoding::Json).await;
    one.subscribe("mine", &json!({ "symbols": ["X"] })).await;
    two.subscribe("mine", &json!({ "symbols": ["Y"] })).await;
    let filter = json!({ "symbols": ["X"] });
    two.subscribe("former", &filter).await;

    let producer = cluster.producer().await;
    producer.publish(&feed::pattern("X", 0)).await;
    two.until(1).await;
    let grown = cluster.gateways[1].metrics().await.get(REVISION);
    two.unsubscribe("former").await;
    eventually("the interest in X is removed", DEADLINE, async || {
        (cluster.gateways[1].metrics().await.get(REVISION) > grown).then_some(())
    })
    .await;
    // A confirmation of later interest proves that routers know the earlier interest.
    two.subscribe("later", &json!({ "symbols": ["Z"] })).await;
    one.catch_up(&cluster.log().await.end()).await;

    let before = received(&mut cluster).await;
    for (symbol, count) in ["X", "Y"].into_iter().zip(SOME) {
        let events: Vec<_> = (0..count).map(|number| feed::pattern(symbol, number)).collect();
        producer.publish_all(&events).await;
    }
    let end = cluster.log().await.end();
    one.catch_up(&end).await;
    two.catch_up(&end).await;
    let after = received(&mut cluster).await;
    assert_eq!([after[0] - before[0], after[1] - before[1]], SOME.map(|count| count as f64));
    assert_eq!((one.events.len(), two.events.len()), (1 + SOME[0], 1 + SOME[1]));
}

async fn received(cluster: &mut Cluster) -> [f64; 2] {
    let mut received = [0.0; 2];
    for (gateway, count) in cluster.gateways.iter_mut().zip(&mut received) {
        *count = gateway.metrics().await.get(RECEIVED);
    }
    received
}
