//! A nats-server and routers on it, in this process, with short intervals for tests.

use std::collections::BTreeMap;
use std::time::Duration;
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_node::admin::ReadinessReport;
use tickwire_node::config::{Config, LoadOptions};
use tickwire_node::lease::{LeaseRecord, Leases};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::provision::provision;
use tickwire_node::shutdown::{Outcome, Shutdown};
use tickwire_testkit::{NatsServer, eventually};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

/// Long enough for any expected event.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The configuration of a node with this name, with short intervals.
pub(crate) fn config(server: &NatsServer, name: &str) -> Config {
    config_at(&server.url(), name)
}

/// The same, but on a busy machine no node is taken for dead, and no router loses a lease, so that nothing is sent
/// again.
pub(crate) fn patient(server: &NatsServer, name: &str) -> Config {
    let mut config = config(server, name);
    config.membership.timeout = Duration::from_secs(60);
    config.membership.lease_ttl = Duration::from_secs(60);
    config
}

fn config_at(url: &str, name: &str) -> Config {
    let sets = [
        ("nats.url", url),
        ("node.id", name),
        ("admin.listen", "127.0.0.1:0"),
        ("membership.beat_interval", "100ms"),
        ("membership.timeout", "1s"),
        ("membership.lease_ttl", "1s"),
        ("membership.tick_interval", "200ms"),
        ("router.checkpoint_interval", "100ms"),
    ];
    let sets = sets.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap()
}

/// A connection of the test itself; the streams and buckets exist.
pub(crate) async fn connect(server: &NatsServer) -> Nats {
    connect_to(&server.url()).await
}

pub(crate) async fn connect_to(url: &str) -> Nats {
    let config = config_at(url, "test");
    let nats = Nats::connect(&config.nats, "router", "test").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    nats
}

/// The state that a router writes into a lease: the checkpoint, the epoch, and the last message's sequence and time.
pub(crate) type State = (u64, u64, Option<(u64, i64)>);

/// The owners of all partitions, by name, as in the leases.
pub(crate) async fn owners(nats: &Nats) -> BTreeMap<u32, String> {
    let me = NodeRef { id: NodeId::new("test").unwrap(), nonce: Nonce(0) };
    let leases = Leases::open(nats, names::LEASES_BUCKET, me, SOON).await.unwrap();
    let mut owners = BTreeMap::new();
    for partition in 0..32 {
        let read = leases.read::<State>(&names::lease_key(partition)).await.unwrap();
        if let Some(LeaseRecord { owner: Some(owner), .. }) = read.record {
            owners.insert(partition, owner.id.to_string());
        }
    }
    owners
}

/// A running router.
pub(crate) struct TestRouter {
    shutdown: Shutdown,
    /// Stops the router when a test fails, so that the test does not wait for it.
    _end: [DropGuard; 2],
    readiness: tickwire_node::admin::Readiness,
    end: JoinHandle<Outcome>,
}

impl TestRouter {
    pub(crate) async fn start(server: &NatsServer, name: &str) -> Self {
        Self::start_as(&config(server, name)).await
    }

    pub(crate) async fn start_as(config: &Config) -> Self {
        let shutdown = Shutdown::new();
        let node = tickwire_router_node::start(config, &shutdown).await.unwrap();
        let (readiness, own, runtime) = (node.readiness.clone(), shutdown.clone(), Handle::current());
        let end = tokio::task::spawn_blocking(move || runtime.block_on(node.run(&own)));
        let _end = [shutdown.drain().clone().drop_guard(), shutdown.force().clone().drop_guard()];
        Self { shutdown, _end, readiness, end }
    }

    pub(crate) fn report(&self) -> ReadinessReport {
        self.readiness.report(false)
    }

    pub(crate) async fn ready(&self) {
        eventually("the router is ready", SOON, async || self.report().ready.then_some(())).await;
    }

    /// Drains it.
    pub(crate) async fn stop(self) {
        self.shutdown.drain().cancel();
        assert_eq!(self.end.await.unwrap(), Outcome::Drained);
    }

    /// Stops it without handing anything over.
    pub(crate) async fn abandon(self) {
        self.shutdown.force().cancel();
        self.shutdown.drain().cancel();
        self.end.await.unwrap();
    }
}
