//! What nobody can give is told: a hole in what routers claim becomes a gap in what clients are told.

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use tickwire_core::frames::Encoding;
use tickwire_core::ids::Seq;
use tickwire_core::section::{Batch, Section};
use tickwire_core::wire;

use crate::cluster::Cluster;
use crate::feed;
use crate::oracle::{Entry, assert_covered, filter};
use crate::socket::Socket;

/// How far the hole reaches beyond what was claimed, in sequences.
const HOLE: u64 = 150;

#[tokio::test]
async fn a_hole_in_the_claims_is_told_to_whoever_subscribed() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "symbols": ["AAPL"] });
    let mut subscribed = Socket::connect(gateway, "ann", Encoding::Json).await;
    let mut idle = Socket::connect(gateway, "bob", Encoding::MsgPack).await;
    subscribed.subscribe("mine", &wanted).await;
    let producer = cluster.producer().await;
    producer.publish(&feed::pattern("AAPL", 0)).await;
    subscribed.until(1).await;
    let partition = subscribed.events[0].p;

    // A claim that leaves out what comes before it, as if a router had said that and it was lost.
    let mut tap = cluster.client.subscribe("gw.>").await.unwrap();
    let (subject, mut batch, last) = loop {
        let message = tap.next().await.unwrap();
        let batch: Batch<Bytes> = wire::decode(&message.payload).unwrap();
        if let Some(section) = batch.sections.iter().find(|section| section.partition == partition) {
            let section = section.clone();
            break (message.subject, batch, section);
        }
    };
    let claimed =
        Section { prev: Seq(last.upto.0 + HOLE), upto: Seq(last.upto.0 + HOLE + 1), events: Vec::new(), ..last };
    batch.sections = vec![claimed.clone()];
    cluster.client.publish(subject, wire::encode(&batch).unwrap().into()).await.unwrap();
    cluster.client.flush().await.unwrap();

    // What fills the hole before its grace is over would close it.
    subscribed.until_that(|socket| !socket.gaps.is_empty()).await;

    // Events of the hole and events behind it. Where the claim was false, at its one sequence, nothing is expected.
    let events: Vec<_> = (1..=3 * HOLE).map(|number| feed::pattern("AAPL", usize::try_from(number).unwrap())).collect();
    producer.publish_all(&events).await;
    let log = cluster.log().await;
    subscribed.catch_up(&log.end()).await;
    let matching = log.matching("ann", &[filter(&wanted)]);
    let expected: Vec<&Entry> = matching.into_iter().filter(|entry| entry.seq != claimed.upto).collect();
    let told = assert_covered("ann", &subscribed.events, &subscribed.gaps, &expected);
    assert_eq!(subscribed.events.len() + told, expected.len());
    assert!(told > 0 && subscribed.events.len() > 1, "{told} told, {} received", subscribed.events.len());
    let [gap] = &subscribed.gaps[..] else { panic!("not one gap: {:?}", subscribed.gaps) };
    assert_eq!((gap.p, gap.to, gap.reason.as_str()), (partition, claimed.prev, "lost"));

    idle.list().await;
    assert_eq!((idle.events.len(), idle.gaps.len()), (0, 0));
    let metrics = cluster.gateways[0].metrics().await;
    assert_eq!(metrics.get("tickwire_gateway_gaps_total"), 1.0);
}
