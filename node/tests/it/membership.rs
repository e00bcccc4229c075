//! Membership over a real nats-server: joining, draining, goodbyes, silence, and a new coordinator.

use crate::write;
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_core::placement::{Member, Role, View};
use tickwire_core::wire;
use tickwire_node::config::{Config, LoadOptions};
use tickwire_node::lease::{HeldLease, LeaseError, Leases};
use tickwire_node::membership::Beat;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::provision::provision;
use tickwire_node::shutdown::{Outcome, Shutdown};
use tickwire_node::start::Node;
use tickwire_testkit::{Flood, NatsServer, eventually};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(60);

fn config(server: &NatsServer, name: &str) -> Config {
    config_with(server, name, "400ms")
}

/// The configuration of a node that takes others for dead after this time.
fn config_with(server: &NatsServer, name: &str, timeout: &str) -> Config {
    let url = server.url();
    let sets = [
        ("nats.url", url.as_str()),
        ("nats.connect_timeout", "30s"),
        ("node.id", name),
        ("admin.listen", "127.0.0.1:0"),
        ("membership.beat_interval", "50ms"),
        ("membership.timeout", timeout),
        ("membership.lease_ttl", "1s"),
    ];
    let sets = sets.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap()
}

fn node(name: &str, nonce: u64) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(nonce) }
}

struct Running {
    shutdown: Shutdown,
    view: watch::Receiver<Arc<View>>,
    end: JoinHandle<Outcome>,
}

async fn start(server: &NatsServer, name: &str, role: Role) -> Running {
    start_as(&config(server, name), role).await
}

async fn start_as(config: &Config, role: Role) -> Running {
    let shutdown = Shutdown::new();
    let node = Node::start(config, role, &shutdown).await.unwrap();
    let (view, own, runtime) = (node.membership.view(), shutdown.clone(), Handle::current());
    let end = tokio::task::spawn_blocking(move || runtime.block_on(node.run(&own)));
    Running { shutdown, view, end }
}

/// Stops the node when a test fails, because a running node would keep the test's runtime waiting forever.
impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.drain().cancel();
        self.shutdown.force().cancel();
    }
}

impl Running {
    async fn stop(mut self) -> Outcome {
        self.shutdown.drain().cancel();
        (&mut self.end).await.unwrap()
    }

    async fn expect_view(&self, expected: &[(&str, bool)]) {
        let mut last = Vec::new();
        eventually(&format!("the view {expected:?}"), SOON, async || {
            let view = self.view.borrow().clone();
            last = view.members.iter().map(|member| (member.node.id.to_string(), member.draining)).collect();
            let same = last.len() == expected.len()
                && last.iter().zip(expected).all(|((id, draining), other)| (id.as_str(), *draining) == *other);
            same.then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn nodes_join_drain_leave_and_time_out() {
    let server = NatsServer::start();
    let first = start(&server, "r1", Role::Router).await;
    first.expect_view(&[("r1", false)]).await;
    let second = start(&server, "r2", Role::Router).await;
    let gateway = start(&server, "g1", Role::Gateway).await;
    for node in [&first, &second, &gateway] {
        node.expect_view(&[("g1", false), ("r1", false), ("r2", false)]).await;
    }

    // A node that still has a task of its own while it drains.
    let hold = tokio_util::sync::CancellationToken::new();
    let held = hold.clone();
    gateway.shutdown.spawn_infallible("last work", async move { held.cancelled().await });
    gateway.shutdown.drain().cancel();
    first.expect_view(&[("g1", true), ("r1", false), ("r2", false)]).await;
    hold.cancel();
    first.expect_view(&[("r1", false), ("r2", false)]).await;
    assert_eq!(gateway.stop().await, Outcome::Drained);

    // The coordinator leaves, and the other router takes over.
    assert_eq!(first.stop().await, Outcome::Drained);
    second.expect_view(&[("r2", false)]).await;

    // A node that ends without a goodbye times out.
    let nats = Nats::connect(&config(&server, "g3").nats, "gateway", "g3").await.unwrap();
    let member = Member { node: node("g3", 1), role: Role::Gateway, weight: 1, draining: false };
    let beat = wire::encode(&Beat { member, goodbye: false }).unwrap();
    // It would be a member for a moment only, which the test could miss. So it sends beats until it has been seen.
    eventually("it is a member", SOON, async || {
        nats.client.publish(names::beat("gateway", "g3"), beat.clone().into()).await.unwrap();
        let view = second.view.borrow().clone();
        view.members.iter().any(|member| member.node.id.as_str() == "g3").then_some(())
    })
    .await;
    second.expect_view(&[("r2", false)]).await;
    assert_eq!(second.stop().await, Outcome::Drained);
}

#[tokio::test]
async fn vanished_coordinator_is_replaced_when_its_lease_is_stale() {
    let server = NatsServer::start();
    let nats = Nats::connect(&config(&server, "ghost").nats, "router", "ghost").await.unwrap();
    provision(&nats, &config(&server, "ghost").stream).await.unwrap();
    let me = node("ghost", 1);
    let leases = Leases::open(&nats, names::VIEW_BUCKET, me.clone(), SOON).await.unwrap();
    let revision = leases.write(names::COORDINATOR_KEY, 0, true, &()).await.unwrap();
    let mut ghost = HeldLease::new(names::COORDINATOR_KEY, me, revision);
    let router = start(&server, "r1", Role::Router).await;
    router.expect_view(&[("r1", false)]).await;
    let renewed = write(&leases, names::COORDINATOR_KEY, &mut ghost, (true, ())).await;
    assert!(matches!(renewed, Err(LeaseError::Refused { .. })));
    router.stop().await;
}

#[tokio::test]
async fn membership_survives_the_loss_of_nats() {
    // Nodes connect again one after the other. The timeout leaves time for that on a busy machine.
    const TIMEOUT: Duration = Duration::from_secs(4);
    let mut server = NatsServer::start();
    let patient = |server: &NatsServer, name: &str| config_with(server, name, "4s");
    let first = start_as(&patient(&server, "r1"), Role::Router).await;
    let second = start_as(&patient(&server, "g1"), Role::Gateway).await;
    for node in [&first, &second] {
        node.expect_view(&[("g1", false), ("r1", false)]).await;
    }
    let version = second.view.borrow().version;
    server.kill();
    // Longer than the timeout: no member is removed while no beats can arrive.
    let mut changed = first.view.clone();
    changed.mark_unchanged();
    assert!(tokio::time::timeout(TIMEOUT + Duration::from_secs(1), changed.changed()).await.is_err());
    server.restart();
    let third = start_as(&patient(&server, "g2"), Role::Gateway).await;
    third.expect_view(&[("g1", false), ("g2", false), ("r1", false)]).await;
    assert_eq!(third.view.borrow().version, version + 1);
    for node in [first, second, third] {
        node.stop().await;
    }
}

/// The servers of a cluster learn one after the other of a new bucket.
#[tokio::test]
async fn unknown_bucket_is_waited_for() {
    let server = NatsServer::start();
    let config = config(&server, "r1");
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    let mut opening = Box::pin(Leases::open(&nats, names::LEASES_BUCKET, node("r1", 1), SOON));
    let meanwhile = tokio::time::timeout(Duration::from_millis(300), &mut opening).await;
    assert!(meanwhile.is_err(), "there is no bucket: {meanwhile:?}");
    provision(&nats, &config.stream).await.unwrap();
    opening.await.unwrap();
}

#[tokio::test]
async fn unanswered_write_is_checked_before_the_next() {
    let server = NatsServer::start();
    let config = config(&server, "r1");
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let leases = Leases::open(&nats, names::LEASES_BUCKET, node("r1", 1), SOON).await.unwrap();
    let other = Leases::open(&nats, names::LEASES_BUCKET, node("r1", 2), SOON).await.unwrap();
    let mut mine = HeldLease::new("p.1", node("r1", 1), leases.write("p.1", 0, true, &1u64).await.unwrap());
    // Given up before the answer arrives, but the write takes effect.
    assert!(write(&leases, "p.1", &mut mine, (true, 2u64)).now_or_never().is_none());
    eventually("the unanswered write", SOON, async || {
        let record = leases.read::<u64>("p.1").await.unwrap().record?;
        (record.owner == Some(node("r1", 1)) && record.state == 2).then_some(())
    })
    .await;
    write(&leases, "p.1", &mut mine, (true, 3u64)).await.unwrap();
    let seen = other.read::<u64>("p.1").await.unwrap();
    let revision = other.write("p.1", seen.revision, true, &4u64).await.unwrap();
    let mut theirs = HeldLease::new("p.1", node("r1", 2), revision);
    assert!(write(&leases, "p.1", &mut mine, (true, 5u64)).now_or_never().is_none());
    let renewed = write(&leases, "p.1", &mut mine, (true, 6u64)).await;
    assert!(matches!(renewed, Err(LeaseError::Refused { .. })));
    write(&other, "p.1", &mut theirs, (false, 7u64)).await.unwrap();
    let freed = leases.read::<u64>("p.1").await.unwrap().record.unwrap();
    assert_eq!((freed.owner, freed.state), (None, 7));
}

/// A flood of beats does not keep the coordinator from its rounds: it renews its lease, and writes the view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinator_keeps_its_lease_during_a_flood_of_beats() {
    let server = NatsServer::start();
    let first = start(&server, "r1", Role::Router).await;
    first.expect_view(&[("r1", false)]).await;
    let nats = Nats::connect(&config(&server, "test").nats, "router", "test").await.unwrap();
    let leases = Leases::open(&nats, names::VIEW_BUCKET, node("test", 1), SOON).await.unwrap();
    let revision = async || leases.read::<()>(names::COORDINATOR_KEY).await.unwrap().revision;
    // Each beat is a change, for which the coordinator writes another view.
    let beat = |draining: bool| {
        let member = Member { node: node("r9", 1), role: Role::Router, weight: 1, draining };
        wire::encode(&Beat { member, goodbye: false }).unwrap()
    };
    let flood = Flood::start(&server.url(), &names::beat("router", "r9"), &[beat(false), beat(true)], 5_000);
    eventually("the flood has begun", SOON, async || (flood.sent() > 10_000).then_some(())).await;
    let before = revision().await;
    eventually("the lease is renewed again and again", SOON, async || (revision().await >= before + 10).then_some(()))
        .await;
    drop(flood);
    assert_eq!(first.stop().await, Outcome::Drained);
}
