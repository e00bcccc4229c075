//! Alerts about what NATS no longer takes: the permissions of the nodes change while they run, so that some requests are
//! refused and all else works; the password in their file becomes a wrong one; and its largest message shrinks.

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tickwire_core::protocol::Encoding;
use tickwire_testkit::{NatsServer, eventually};
use tokio::time::Duration;

use super::super::prometheus_server::{Prometheus, targets};
use super::super::rule_file::short_rules;
use crate::cluster::Cluster;
use crate::cut::Line;
use crate::feed;
use crate::foreign::tools::{is_full, report};
use crate::node::DEADLINE;
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// What these tests cause.
pub(super) const CAUSED: &[&str] = &[
    "TickwireSecretReloads",
    "TickwireDeadLettersLost",
    "TickwireContextWritesLost",
    "TickwireTimeSearches",
    "TickwireReminderReadings",
    "TickwireGapsOpen",
    "TickwireConfirmationsSlow",
    "TickwireContextOld",
    "TickwireBatchesLost",
];

/// What the nodes may no longer publish.
const DENIED: [&str; 6] = [
    // Dead letters, and market records.
    "dead.>",
    "$KV.TICKWIRE_CONTEXT.>",
    // Single messages of the stream: for the sequence of a time, and for the last alert of a user.
    "$JS.API.STREAM.MSG.GET.EVENTS",
    // Whether there is new reference data.
    "$JS.API.STREAM.INFO.KV_TICKWIRE_REFERENCE",
    // Requests for replays.
    "tw.replay",
    "tw.replay.>",
];

/// The largest message of NATS in bytes, at first and later, and the size of an event between them.
const BEFORE: usize = 1024 * 1024;
const LATER: usize = 64 * 1024;
const LARGE: usize = 150_000;

/// A user of the nodes, whose password is in a file. The test has a user of its own.
struct NodeUser(TempDir);

impl NodeUser {
    fn new() -> Self {
        let user = Self(TempDir::with_prefix("tickwire-refusals-").unwrap());
        user.deny(&[]);
        user.write_password("right");
        user
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("nats.conf")
    }

    fn password_file(&self) -> PathBuf {
        self.0.path().join("password")
    }

    /// Replaces the password in the file at one moment.
    fn write_password(&self, password: &str) {
        let new = self.0.path().join("password.new");
        fs::write(&new, password).unwrap();
        fs::rename(new, self.password_file()).unwrap();
    }

    /// Lets the server deny the nodes these subjects from its next reload on.
    fn deny(&self, subjects: &[&str]) {
        let permissions = match subjects {
            [] => String::new(),
            _ => format!(", permissions: {{ publish: {{ deny: {subjects:?} }} }}"),
        };
        let node = format!("{{ user: node, password: \"right\"{permissions} }}");
        let text =
            format!("no_auth_user: test\nauthorization {{ users: [ {node}, {{ user: test, password: test }} ] }}\n");
        fs::write(self.config(), text).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn alerts_about_refused_requests_fire() {
    if !is_full() {
        return;
    }
    let user = NodeUser::new();
    let (config, file) = (user.config(), user.password_file());
    let nats = NatsServer::start_with(&["-js", "-c", text(&config)]);
    let settings = [("nats.user", "node"), ("nats.password_file", text(&file))];
    let mut cluster = Cluster::start_on(vec![nats], 1, 0, &settings).await;
    // The line of the gateway can be cut. A confirmation waits for a partition of which nothing arrives.
    let line = Line::to(&cluster.nats_url());
    let url = line.url();
    let gateway = cluster.node_with("gateway", &[("nats.url", &url), ("gateway.confirm_timeout", "3s")]);
    cluster.gateways.push(gateway);
    cluster.settled().await;
    let address = cluster.gateways[0].gateway().await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;
    assert_eq!(targets(&mut cluster).await.len(), 2);
    let mut ann = Socket::connect(address, "ann", Encoding::Json).await;
    ann.subscribe("patterns", &json!({ "kinds": ["pattern"] })).await;

    // The server does not accept the password in the file, and the nodes keep their connections.
    user.write_password("wrong");
    prometheus.until_fired(&["TickwireSecretReloads"]).await;
    user.write_password("right");
    cluster.settled().await;

    // A node that is denied a permission soon after its start would end.
    prometheus.until("min(time() - tickwire_process_start_time_seconds{job='tickwire'}) > 15").await;
    user.deny(&DENIED);
    cluster.nats[0].reload();
    // Connections that did not log in have ended by the reload: these are new.
    let denied = async || {
        let log = cluster.nats[0].log();
        log.contains("Publish Violation").then_some(())
    };
    eventually("the server denies what it should", DEADLINE, denied).await;
    let producer = cluster.producer().await;
    let market = ProducerMessage::json("market", "US", &json!({ "regime": "bull" }));
    producer.publish(&market).await;
    producer.publish(&ProducerMessage::raw("events.pattern.AAPL", "not JSON")).await;
    let mut bob = Socket::connect(address, "bob", Encoding::Json).await;
    let since = json!({ "action": "subscribe", "name": "past", "filter": { "kinds": ["pattern"] }, "since": "5m" });
    bob.send(&since).await;
    let mut carl = Socket::connect(address, "carl", Encoding::Json).await;
    carl.send(&json!({ "action": "subscribe", "name": "alerts", "filter": { "kinds": ["alert"] } })).await;
    prometheus
        .until_fired(&[
            "TickwireContextWritesLost",
            "TickwireTimeSearches",
            "TickwireReminderReadings",
            "TickwireDeadLettersLost",
        ])
        .await;

    // What was published while the gateway was away is missing, and nobody gets its request for a replay.
    let flow = producer
        .flow(Duration::from_millis(20), |number| feed::pattern(feed::SYMBOLS[number % feed::SYMBOLS.len()], number));
    line.cut();
    flow.more(50).await;
    line.mend();
    prometheus.until_fired(&["TickwireGapsOpen"]).await;
    // While the router is frozen, it does not say that its events are those of the new interest.
    let mut dora = Socket::connect(address, "dora", Encoding::Json).await;
    cluster.routers[0].process.freeze();
    dora.subscribe("health", &json!({ "kinds": ["health"] })).await;
    cluster.routers[0].process.thaw();
    prometheus.until_fired(&["TickwireConfirmationsSlow"]).await;
    flow.stop().await;
    prometheus.until_fired(&["TickwireContextOld"]).await;
    prometheus.assert_rules_are_sound().await;
    report("alerts: refusals", "alerts about refused requests fired");
}

#[tokio::test]
async fn alert_about_batches_that_nats_does_not_take_fires() {
    if !is_full() {
        return;
    }
    let home = TempDir::with_prefix("tickwire-refusals-").unwrap();
    let config = home.path().join("nats.conf");
    let takes = |bytes: usize| fs::write(&config, format!("max_payload: {bytes}\n")).unwrap();
    takes(BEFORE);
    let nats = NatsServer::start_with(&["-js", "-c", text(&config)]);
    let mut cluster = Cluster::start_on(vec![nats], 0, 1, &[]).await;
    let line = Line::to(&cluster.nats_url());
    let router = cluster.node_with("router", &[("nats.url", &line.url())]);
    cluster.routers.push(router);
    cluster.settled().await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;
    let address = cluster.gateways[0].gateway().await;
    let mut ann = Socket::connect(address, "ann", Encoding::Json).await;
    ann.subscribe("all", &json!({})).await;

    // When the router reads the events, NATS takes no batch with one of them any more.
    line.cut();
    let large = json!({ "pattern": "Doji", "note": "x".repeat(LARGE) });
    let event = |symbol: &str| ProducerMessage::json("pattern", symbol, &large);
    cluster.producer().await.publish_all(&feed::SYMBOLS.map(event)).await;
    takes(LATER);
    cluster.nats[0].restart();
    line.mend();
    prometheus.until_fired(&["TickwireBatchesLost"]).await;
    prometheus.assert_rules_are_sound().await;
    report("alerts: batches", "the alert about batches that NATS does not take fired");
}
