//! Alerts about routers: messages that wait, leases that are lost, too much reference data, and another number of
//! copies.

use async_nats::jetstream;
use tickwire_node::names;
use tickwire_testkit::{NatsServer, eventually};
use tokio::time::{Duration, sleep};

use super::super::prometheus_server::Prometheus;
use super::super::rule_file::short_rules;
use crate::cluster::Cluster;
use crate::cut::LineFaults;
use crate::feed;
use crate::foreign::tools::{is_full, report};
use crate::producer::ProducerMessage;

/// What these tests cause.
pub(super) const CAUSED: &[&str] =
    &["TickwireReferenceFull", "TickwireRouterBehind", "TickwireStreamReplicas", "TickwireLeasesLost"];

/// The symbols with reference data for which a router has room.
const SYMBOLS: usize = 65_536;

/// How long a router may take to read all of them.
const READ_WITHIN: Duration = Duration::from_secs(180);

/// How many events wait for a router behind a slow line, and how many bytes the line carries in a second.
const EVENTS: usize = 60_000;
const SLOW: u32 = 500_000;

/// How long a frozen router is silent: longer than its leases and its membership last.
const FROZEN: Duration = Duration::from_secs(4);

/// How often a router is frozen at most. It may learn first that it is no member any more, and gives its leases back then,
/// which counts as none lost.
const FREEZES: usize = 30;

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

    // A router that is frozen for longer than its leases last finds them taken.
    let mut freezes = 0;
    while !prometheus.fired().await.contains("TickwireLeasesLost") {
        assert!(freezes < FREEZES, "not fired: TickwireLeasesLost");
        cluster.routers[1].process.freeze();
        sleep(FROZEN).await;
        cluster.routers[1].process.thaw();
        cluster.settled().await;
        // For some scrapes and evaluations.
        sleep(Duration::from_secs(2)).await;
        freezes += 1;
    }
    prometheus.assert_rules_are_sound().await;
    report("alerts: leases", &format!("alerts about copies and leases fired, after {freezes} freezes"));
}
