//! Alerts that fire for real: each condition is caused in a cluster that a Prometheus scrapes, with the rules of
//! `deploy/prometheus/alerts.yml` but for their times, which are short ([`short_rules`]).
//!
//! The lists below together are all alerts. promtool tests the condition of each of them with its real
//! times. `gateways`, `routers` and `refusals` have further tests of the full form.

mod gateways;
mod refusals;
mod routers;

use async_nats::jetstream::{self, stream::DiscardPolicy};
use serde_json::json;
use std::collections::BTreeSet;
use tickwire_core::context::MarketRecord;
use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, NodeId, NodeRef, Nonce, Revision, Seq};
use tickwire_core::interest::InterestBeat;
use tickwire_core::protocol::Encoding;
use tickwire_core::wire;
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep};

use super::super::tools::{debian_library, is_full, report};
use super::prometheus_server::{Prometheus, targets};
use super::rule_file::{names_of_alerts, short_rules};
use crate::cluster::Cluster;
use crate::feed;
use crate::node::DEADLINE;
use crate::producer::ProducerMessage;
use crate::socket::{Socket, query, try_connect};

/// The alerts that `make test` causes: by strange messages and values,
const BY_STRANGERS: &[&str] = &[
    "TickwireDeadLetters",
    "TickwireRulesSkipped",
    "TickwireNewerSubscriptions",
    "TickwireUnreadableValues",
    "TickwireLeasesOverwritten",
    "TickwireEpochsRefused",
    "TickwireTooManyMarkets",
    "TickwireContextRefused",
];

/// by many clients,
const BY_CLIENTS: &[&str] = &["TickwireGatewayFilling", "TickwireGatewayFull"];

/// by a crowd for which there is no room,
const BY_A_CROWD: &[&str] = &["TickwireUpgradesRefused", "TickwireReconnectWave", "TickwireConnectionFlood"];

/// and by the death of the only router.
const BY_DEATH: &[&str] = &[
    "TickwireNodeDown",
    "TickwirePartitionOwners",
    "TickwireCoordinator",
    "TickwireSilentPartitions",
    "TickwireNotReady",
];
/// What fires when nothing is scraped.
const WITHOUT_NODES: &[&str] = &["TickwireNoData"];

/// Those that the full form causes as well, beside those of the modules below.
const CAUSED_IN_FULL: &[&str] = &[
    "TickwireManyDrops",
    "TickwireNatsDisconnected",
    "TickwireViewsDiffer",
    "TickwireRulesDiffer",
    "TickwireStorageTrouble",
    "TickwireStreamRestored",
    "TickwireStreamLoss",
    "TickwireSkippedRanges",
    "TickwireUnfilledGaps",
    "TickwireMessagesMissing",
    "TickwireRouterLag",
    "TickwireClockOff",
    "TickwireDuplicateName",
    "TickwireRestarts",
];

/// Those that no test causes, and why.
const NOT_CAUSED: &[(&str, &str)] = &[("TickwireFault", "it needs a fault in tickwire")];

#[test]
fn every_alert_is_caused_or_has_a_reason_why_not() {
    let not_caused: Vec<&str> = NOT_CAUSED.iter().map(|(alert, _)| *alert).collect();
    let short = [BY_STRANGERS, BY_CLIENTS, BY_A_CROWD, BY_DEATH, WITHOUT_NODES].concat();
    let full = [CAUSED_IN_FULL, gateways::CAUSED, refusals::CAUSED, routers::CAUSED].concat();
    let listed = [short, full, not_caused].concat();
    let distinct: BTreeSet<String> = listed.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), listed.len(), "an alert is listed twice");
    assert_eq!(distinct, names_of_alerts().into_iter().collect());
}

/// Few sessions and connections, so that a test can use them up.
const FEW: [(&str, &str); 2] = [("gateway.max_sessions", "20"), ("gateway.max_connections", "8")];

#[tokio::test]
async fn alerts_fire_when_their_conditions_are_caused() {
    let mut cluster = Cluster::start_with(1, 1, &FEW).await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;
    // As long as conditions have to hold, and longer.
    prometheus.until("count(count_over_time(up{job='tickwire'}[1m]) > 10)").await;
    assert_eq!(prometheus.fired().await, BTreeSet::new(), "no alert fires in normal operation");

    write_strange_values(&cluster).await;
    let junk = ProducerMessage::raw("events.pattern.AAPL", "not JSON");
    cluster.producer().await.publish(&junk).await;
    let market = |number| ProducerMessage::json("market", &format!("M{number}"), &json!({ "regime": "bull" }));
    cluster.producer().await.publish_all(&(0..80).map(market).collect::<Vec<_>>()).await;
    prometheus.until_fired(BY_STRANGERS).await;

    // 17 of 20 sessions, then all, then a crowd for which there is no room.
    let gateway = cluster.gateways[0].gateway().await;
    let mut sockets = Vec::new();
    for number in 0..17 {
        sockets.push(Socket::connect(gateway, &format!("user-{number}"), Encoding::Json).await);
    }
    prometheus.until_fired(&["TickwireGatewayFilling"]).await;
    for number in 17..20 {
        sockets.push(Socket::connect(gateway, &format!("user-{number}"), Encoding::Json).await);
    }
    prometheus.until_fired(&["TickwireGatewayFull"]).await;
    let mut idle = Vec::new();
    while !prometheus.fired().await.is_superset(&all(BY_A_CROWD)) {
        for _ in 0..20 {
            assert!(try_connect(gateway, &query("one-more"), Encoding::Json).await.is_none());
            idle.push(TcpStream::connect(gateway).await.unwrap());
        }
        assert!(idle.len() < 3_000, "not all fired: {BY_A_CROWD:?}");
        // The crowd lasts for some scrapes and evaluations.
        sleep(Duration::from_millis(200)).await;
    }
    drop((sockets, idle));

    cluster.routers[0].process.kill();
    prometheus.until_fired(BY_DEATH).await;
    prometheus.scrape(&[]);
    prometheus.until_fired(WITHOUT_NODES).await;
    prometheus.assert_rules_are_sound().await;
    let fired = prometheus.fired().await;
    report("alerts", &format!("{} alerts fired", fired.len()));
}

/// Writes what no node writes: to the buckets, and in the name of a gateway.
async fn write_strange_values(cluster: &Cluster) {
    let jetstream = jetstream::new(cluster.client.clone());
    let rules = jetstream.get_key_value(names::RULES_BUCKET).await.unwrap();
    rules.put("bad", json!({ "rule": { "id": "bad", "ttl_ms": 0 } }).to_string().into()).await.unwrap();
    let saved = jetstream.get_key_value(names::SUBSCRIPTIONS_BUCKET).await.unwrap();
    saved.put("ann", r#"{"version":2,"subscriptions":{}}"#.into()).await.unwrap();
    saved.put("bob", "not JSON".into()).await.unwrap();
    let leases = jetstream.get_key_value(names::LEASES_BUCKET).await.unwrap();
    leases.put(names::lease_key(0), "{}".into()).await.unwrap();
    let context = jetstream.get_key_value(names::CONTEXT_BUCKET).await.unwrap();
    let mut forged = MarketRecord::new(EpochId::LAST);
    forged.read_through(Seq(1), Timestamp(0));
    context.put(names::market_key(0, "US"), forged.to_bytes().unwrap().into()).await.unwrap();
    let reached = Some(GatewayCoverage { epoch_id: EpochId::LAST, through: Seq(1), last: None });
    let gateway = NodeRef { id: NodeId::new("gateway-x").unwrap(), nonce: Nonce(7) };
    let beat = InterestBeat { gateway, revision: Revision(0), reached };
    cluster.client.publish(names::interest_beat("gateway-x"), wire::encode(&beat).unwrap().into()).await.unwrap();
    cluster.client.flush().await.unwrap();
}

fn all(alerts: &[&str]) -> BTreeSet<String> {
    alerts.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn alerts_about_nats_and_the_stream_fire() {
    if !is_full() {
        return;
    }
    let mut cluster = Cluster::start_behind_lines(2, 2, &[]).await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;
    let jetstream = jetstream::new(cluster.client.clone());

    // A gateway without NATS has an old view, and a router an old revision of the rules.
    for node in [&cluster.gateways[1], &cluster.routers[1]] {
        node.line.as_ref().unwrap().cut();
    }
    cluster.add_gateway();
    let rules = jetstream.get_key_value(names::RULES_BUCKET).await.unwrap();
    rules.put("mine", json!({ "rule": { "id": "mine", "add_tags": ["ruled"] } }).to_string().into()).await.unwrap();
    prometheus.until_fired(&["TickwireNatsDisconnected", "TickwireViewsDiffer", "TickwireRulesDiffer"]).await;
    for node in [&cluster.gateways[1], &cluster.routers[1]] {
        node.line.as_ref().unwrap().mend();
    }
    cluster.settled().await;

    // Events wait while NATS hangs.
    let gateway = cluster.gateways[0].gateway().await;
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let producer = cluster.producer().await;
    let flow = producer.flow(Duration::from_millis(20), |number| feed::pattern("AAPL", number));
    flow.more(50).await;
    for router in &cluster.routers {
        router.process.freeze();
    }
    sleep(Duration::from_secs(1)).await;
    for router in &cluster.routers {
        router.process.thaw();
    }
    prometheus.until_fired(&["TickwireRouterLag"]).await;
    flow.stop().await;

    // Without routers, the stream loses a message, and discards others.
    cluster.settled().await;
    for router in &mut cluster.routers {
        router.process.kill();
    }
    cluster.routers.clear();
    producer.publish_all(&feed::patterns(1_000..1_050)).await;
    let mut stream = jetstream.get_stream("EVENTS").await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    cluster.discard(Seq(last - 30)).await;
    assert!(stream.delete_message(last - 10).await.unwrap());
    cluster.add_router();
    cluster.add_router();
    cluster.settled().await;
    prometheus.scrape(&targets(&mut cluster).await);
    prometheus.until_fired(&["TickwireUnfilledGaps", "TickwireSkippedRanges", "TickwireMessagesMissing"]).await;

    // The stream is full, then deleted.
    let mut config = stream.info().await.unwrap().config.clone();
    let usual = config.clone();
    (config.discard, config.max_messages) = (DiscardPolicy::New, 1_000);
    jetstream.update_stream(config).await.unwrap();
    prometheus.until_fired(&["TickwireStorageTrouble"]).await;
    jetstream.update_stream(usual).await.unwrap();
    jetstream.delete_stream("EVENTS").await.unwrap();
    prometheus.until_fired(&["TickwireStreamRestored"]).await;

    // NATS forgets what it has acknowledged.
    cluster.settled().await;
    producer.publish_all(&feed::patterns(2_000..2_050)).await;
    let saved = cluster.nats[0].kill_and_save();
    cluster.nats[0].restart();
    cluster.settled().await;
    producer.publish_all(&feed::patterns(3_000..3_050)).await;
    cluster.nats[0].kill_and_restore(&saved);
    cluster.nats[0].restart();
    prometheus.until_fired(&["TickwireStreamLoss"]).await;
    prometheus.assert_rules_are_sound().await;
    report("alerts: NATS", "alerts about NATS and the stream fired");
}

#[tokio::test]
async fn alerts_about_single_nodes_fire() {
    if !is_full() {
        return;
    }
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.rate", "5")]).await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;
    let mut nodes = targets(&mut cluster).await;

    // A user gets more than the rate allows.
    let gateway = cluster.gateways[0].gateway().await;
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let flow = cluster.producer().await.flow(Duration::from_millis(10), |number| {
        let event = json!({ "pattern": format!("P{number}"), "confidence": 0.5 });
        ProducerMessage::json("pattern", "AAPL", &event)
    });
    socket.until_that(|socket| !socket.notices.is_empty()).await;
    prometheus.until_fired(&["TickwireManyDrops"]).await;
    flow.stop().await;

    // A clock that is ten minutes ahead.
    let library = debian_library("faketime/libfaketimeMT.so.1");
    let mut ahead = cluster.node_in(&library, "+10m", "gateway");
    nodes.push((ahead.id.clone(), ahead.address("admin").await));
    prometheus.scrape(&nodes);
    prometheus.until_fired(&["TickwireClockOff"]).await;
    drop(ahead);
    nodes.pop();

    // A node that is started again and again, and at last twice.
    for _ in 0..3 {
        let mut again = cluster.node_again("router", "again");
        let admin = again.address("admin").await;
        let mut with = nodes.clone();
        with.push(("again".to_owned(), admin));
        prometheus.scrape(&with);
        // Not the value of the node before it.
        sleep(Duration::from_secs(2)).await;
        let scraped = async || {
            let found = prometheus.query("tickwire_process_start_time_seconds{instance='again'}").await;
            sleep(Duration::from_millis(200)).await;
            (!found.is_empty()).then_some(())
        };
        eventually("the node is scraped", DEADLINE, scraped).await;
    }
    let mut first = cluster.node_again("router", "again");
    let mut with = nodes.clone();
    with.push(("again".to_owned(), first.address("admin").await));
    prometheus.scrape(&with);
    prometheus.until_fired(&["TickwireRestarts"]).await;
    let _second = cluster.node_again("router", "again");
    prometheus.until_fired(&["TickwireDuplicateName"]).await;
    prometheus.assert_rules_are_sound().await;
    report("alerts: nodes", "alerts about single nodes fired");
}
