//! Alerts about routers: messages that wait, leases that are lost, too much reference data, another number of copies,
//! and copies that are gone.

use async_nats::jetstream;
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_core::wire;
use tickwire_node::lease::LeaseRecord;
use tickwire_node::names;
use tickwire_router_node::decisions::Checkpoint;
use tickwire_testkit::{NatsServer, eventually};
use tokio::time::{Duration, sleep};

use super::super::prometheus_server::Prometheus;
use super::super::rule_file::short_rules;
use crate::cluster::{Cluster, PARTITIONS};
use crate::cut::LineFaults;
use crate::feed;
use crate::foreign::tools::{is_full, report};
use crate::producer::ProducerMessage;

/// What these tests cause.
pub(super) const CAUSED: &[&str] = &[
    "TickwireReferenceFull",
    "TickwireRouterBehind",
    "TickwireStreamReplicas",
    "TickwireLeasesLost",
    "TickwireCopiesBehind",
];

/// The symbols with reference data for which a router has room.
const SYMBOLS: usize = 65_536;

/// How long a router may take to read all of them.
const READ_WITHIN: Duration = Duration::from_secs(180);

/// How many events wait for a router behind a slow line, and how many bytes the line carries in a second.
const EVENTS: usize = 60_000;
const SLOW: u32 = 500_000;

#[tokio::test]
async fn alerts_about_what_waits_for_a_router_fire() {
    if !is_full() {
        return;
    }
    let mut cluster = Cluster::start_behind_lines(1, 1, &[]).await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;
    let producer = cluster.producer().await;

    let sector = |number: usize| {
        let subject = format!("$KV.{}.R{number}", names::REFERENCE_BUCKET);
        ProducerMessage::raw(subject, r#"{"sector":"Tech"}"#)
    };
    producer.publish_all(&(0..SYMBOLS + 500).map(sector).collect::<Vec<_>>()).await;
    let router = &mut cluster.routers[0];
    eventually("the router has all reference data for which it has room", READ_WITHIN, async || {
        let read = router.metrics().await.get("tickwire_router_reference_entries");
        // Each look takes the router and the test some time.
        sleep(Duration::from_millis(200)).await;
        (read >= SYMBOLS as f64).then_some(())
    })
    .await;
    prometheus.until_fired(&["TickwireReferenceFull"]).await;

    // The answers of NATS arrive so slowly that events wait in the stream.
    let line = cluster.routers[0].line.as_ref().unwrap();
    line.set_faults(LineFaults { rate: Some(SLOW), ..LineFaults::default() });
    producer.publish_all(&feed::patterns(0..EVENTS)).await;
    prometheus.until_fired(&["TickwireRouterBehind"]).await;
    line.mend();
    prometheus.assert_rules_are_sound().await;
    report("alerts: routers", "alerts about what waits for a router fired");
}

#[tokio::test]
async fn alerts_about_copies_and_leases_fire() {
    if !is_full() {
        return;
    }
    let mut cluster = Cluster::start_on(NatsServer::start_cluster(3), 2, 1, &[]).await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;

    // Somebody wants three copies of the stream, of which the configuration says nothing.
    let jetstream = jetstream::new(cluster.client.clone());
    let mut config = jetstream.get_stream("EVENTS").await.unwrap().cached_info().config.clone();
    config.num_replicas = 3;
    jetstream.update_stream(config).await.unwrap();
    prometheus.until_fired(&["TickwireStreamReplicas"]).await;

    cluster.settled().await;
    steal_leases(&cluster).await;
    prometheus.until_fired(&["TickwireLeasesLost"]).await;
    cluster.settled().await;

    // It ends when the server is back.
    let all_there = "max(tickwire_storage_copies_behind) == 0 unless on() ALERTS{alertname='TickwireCopiesBehind'}";
    prometheus.until(all_there).await;
    cluster.nats[2].kill();
    prometheus.until("ALERTS{alertname='TickwireCopiesBehind', alertstate='firing'}").await;
    cluster.nats[2].restart();
    prometheus.until(all_there).await;
    cluster.settled().await;
    prometheus.assert_rules_are_sound().await;
    report("alerts: leases", "alerts about copies and leases fired");
}

/// Writes a router that is none as the owner of every partition, as one does that takes the leases of a router that
/// stands still. When the owner writes its lease again, it finds it taken.
async fn steal_leases(cluster: &Cluster) {
    let thief = NodeRef { id: NodeId::new("thief").unwrap(), nonce: Nonce(1) };
    let leases = jetstream::new(cluster.client.clone()).get_key_value(names::LEASES_BUCKET).await.unwrap();
    for partition in 0..PARTITIONS {
        let key = names::lease_key(partition);
        let lease: LeaseRecord<Checkpoint> = wire::decode(&leases.get(&key).await.unwrap().unwrap()).unwrap();
        let taken = LeaseRecord { owner: Some(thief.clone()), ..lease };
        leases.put(key, wire::encode(&taken).unwrap().into()).await.unwrap();
    }
}
