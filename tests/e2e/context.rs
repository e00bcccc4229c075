//! The context of events: what market events and reference data have stated is in later events, survives the router that
//! recorded it, and a replay never contradicts it.

use async_nats::jetstream;
use futures_util::TryStreamExt;
use serde::de::IgnoredAny;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};
use tickwire_core::context::{MAX_MARKETS, MarketRecord};
use tickwire_core::event::{EventContext, Kind, Regime, Timestamp, Volatility};
use tickwire_core::ids::{EpochId, Partition, Seq};
use tickwire_core::protocol::{Encoding, ReceivedEvent};
use tickwire_core::wire;
use tickwire_node::lease::LeaseRecord;
use tickwire_node::names;
use tickwire_testkit::eventually;

use crate::cluster::Cluster;
use crate::commands::run;
use crate::feed;
use crate::node::DEADLINE;
use crate::producer::{Producer, ProducerMessage};
use crate::socket::Socket;

fn market(regime: &str) -> ProducerMessage {
    ProducerMessage::json("market", "US", &json!({ "regime": regime, "volatility_regime": "high" }))
}

/// Loads reference data by the command, and returns what it printed.
fn load(cluster: &Cluster, file: &str, further: &[&str]) -> (Option<i32>, String, String) {
    let path = cluster.home().join("symbols.csv");
    fs::write(&path, file).unwrap();
    run(&[&["reference", "load", path.to_str().unwrap(), "--nats", &cluster.nats_url()][..], further].concat())
}

/// Publishes patterns until one of them has such a context: routers get what is new within some seconds.
async fn enriched(socket: &mut Socket, producer: &Producer, met: impl Fn(&EventContext) -> bool) -> ReceivedEvent {
    let end = Instant::now() + DEADLINE;
    loop {
        let count = socket.events.len();
        producer.publish(&feed::pattern("AAPL", count)).await;
        socket.until(count + 1).await;
        let event = &socket.events[count];
        if event.context.as_deref().is_some_and(&met) {
            return event.clone();
        }
        assert!(Instant::now() < end, "{event:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The name of the router that owns a partition.
async fn owner(cluster: &Cluster, partition: Partition) -> String {
    let bucket = jetstream::new(cluster.client.clone()).get_key_value(names::LEASES_BUCKET).await.unwrap();
    let lease = bucket.get(names::lease_key(u32::from(partition.0))).await.unwrap().unwrap();
    let record: LeaseRecord<IgnoredAny> = wire::decode(&lease).unwrap();
    record.owner.unwrap().id.to_string()
}

/// Writes records that no router can have written: of a later epoch, and beyond the end of the stream.
async fn forge_records(cluster: &mut Cluster, partition: Partition) {
    let bucket = jetstream::new(cluster.client.clone()).get_key_value(names::CONTEXT_BUCKET).await.unwrap();
    let key = |market| names::market_key(u32::from(partition.0), market);
    let real = bucket.get(key("US")).await.unwrap().unwrap();
    let mut beyond = MarketRecord::from_bytes(&real).unwrap();
    beyond.read_through(Seq(1 << 40), Timestamp(i64::MAX));
    for (market, forged) in [("EU", MarketRecord::new(EpochId::LAST)), ("US", beyond)] {
        bucket.put(key(market), forged.to_bytes().unwrap().into()).await.unwrap();
    }
    for router in &mut cluster.routers {
        eventually("the router refuses a record", DEADLINE, async || {
            let refused = router.metrics().await.get("tickwire_router_context_refused_total");
            (refused > 0.0).then_some(())
        })
        .await;
    }
    eventually("the owner writes its record again", DEADLINE, async || {
        let record = MarketRecord::from_bytes(&bucket.get(key("US")).await.unwrap().unwrap()).unwrap();
        (record.through() < Seq(1 << 40)).then_some(())
    })
    .await;
}

/// Whether two values of one field differ. An absent one differs from none.
fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

#[tokio::test]
async fn context_survives_its_router_and_is_never_contradicted_by_a_replay() {
    let mut cluster = Cluster::start_with(2, 1, &[("gateway.history", "10m")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let (code, output, errors) = load(&cluster, "symbol,sector\nAAPL,Technology\n", &[]);
    assert_eq!((code, output.as_str()), (Some(0), "1 loaded, 0 unchanged\n"), "{errors}");
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let filter = json!({ "kinds": ["pattern", "market"] });
    socket.subscribe("all", &filter).await;
    let producer = cluster.producer().await;

    producer.publish(&market("bull")).await;
    socket.until(1).await;
    assert_eq!(socket.events[0].kind, Kind::Market);
    let partition = socket.events[0].p;
    let is_bull = |context: &EventContext| {
        context.regime == Some(Regime::Bull)
            && context.volatility == Some(Volatility::High)
            && context.sector.as_ref().is_some_and(|sector| sector.as_str() == "Technology")
    };
    let event = enriched(&mut socket, &producer, is_bull).await;
    assert_eq!(event.context.unwrap().session, event.session);

    // It shuts out none of the real ones, neither here nor for the next owner.
    forge_records(&mut cluster, partition).await;
    let recorder = owner(&cluster, partition).await;
    let at = cluster.routers.iter().position(|router| router.id == recorder).unwrap();
    cluster.routers.remove(at).process.kill();
    cluster.settled().await;
    enriched(&mut socket, &producer, is_bull).await;
    // The next owner records on.
    producer.publish(&market("bear")).await;
    enriched(&mut socket, &producer, |context| context.regime == Some(Regime::Bear)).await;

    let log = cluster.log().await;
    socket.catch_up(&log.end()).await;
    let live: BTreeMap<_, _> = socket.events.iter().map(|event| (event.seq, event)).collect();
    let mut late = Socket::connect(gateway, "bob", Encoding::Json).await;
    late.request(json!({ "action": "subscribe", "name": "past", "filter": filter, "since": "5m" })).await;
    assert!(late.caught_up().await.resumed);
    late.catch_up(&log.end()).await;
    assert_eq!(late.events.len(), live.len());
    for again in &late.events {
        let first = live[&again.seq].context.as_deref().cloned().unwrap_or_default();
        let context = again.context.as_deref().cloned().unwrap_or_default();
        let is_contradicted = differ(context.session, first.session)
            || differ(context.regime, first.regime)
            || differ(context.volatility, first.volatility)
            || differ(context.relative_volume, first.relative_volume)
            || differ(context.sector, first.sector)
            || differ(context.sector_strength, first.sector_strength);
        assert!(!is_contradicted, "{again:?}, and first {:?}", live[&again.seq]);
    }
}

#[tokio::test]
async fn flood_of_markets_shuts_out_no_later_market_and_leaves_a_small_bucket() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    assert_eq!(load(&cluster, "symbol,sector,market\nAAPL,Technology,US\n", &[]).0, Some(0));
    let producer = cluster.producer().await;
    let stated = json!({ "regime": "bear" });
    let flood: Vec<_> =
        (0..200).map(|number| ProducerMessage::json("market", &format!("M{number}"), &stated)).collect();
    producer.publish_all(&flood).await;
    producer.publish(&market("bull")).await;
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("patterns", &json!({ "kinds": ["pattern"] })).await;
    enriched(&mut socket, &producer, |context| context.regime == Some(Regime::Bull)).await;

    let bucket = jetstream::new(cluster.client.clone()).get_key_value(names::CONTEXT_BUCKET).await.unwrap();
    eventually("only records that are used are in the bucket", DEADLINE, async || {
        let keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
        let count = keys.iter().filter(|key| key.starts_with("market.")).count();
        (count == MAX_MARKETS && keys.iter().any(|key| key.ends_with(".US"))).then_some(())
    })
    .await;
    eventually("all that had no room are counted", DEADLINE, async || {
        let left_out = cluster.routers[0].metrics().await.get("tickwire_router_context_markets_left_out_total");
        (left_out >= (201 - MAX_MARKETS) as f64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn reference_data_is_loaded_as_far_as_it_differs() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let file = "symbol,sector,sector_strength,sectr\nAAPL,Technology,0.75,x\nBRK.B,Financials,,x\n";
    let expected = "2 loaded, 0 unchanged\nignored columns: sectr\n";
    assert_eq!(load(&cluster, file, &[]).1, expected);
    assert_eq!(load(&cluster, file, &["--prune"]).1, "0 loaded, 2 unchanged, 0 removed\nignored columns: sectr\n");
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let producer = cluster.producer().await;
    enriched(&mut socket, &producer, |context| context.sector_strength == Some(0.75)).await;

    let (code, _, errors) = load(&cluster, "symbol,sector\nAAPL,\n", &[]);
    assert_eq!((code, errors.contains("line 2, column sector")), (Some(2), true), "{errors}");
    let other = "symbol,sector\nMSFT,Technology\n";
    assert_eq!(load(&cluster, other, &["--prune"]).1, "1 loaded, 0 unchanged, 2 removed\n");
    enriched(&mut socket, &producer, |context| context.sector.is_none()).await;
    eventually("one entry is counted", DEADLINE, async || {
        (cluster.routers[0].metrics().await.get("tickwire_router_reference_entries") == 1.0).then_some(())
    })
    .await;
}
