//! Faults of a cluster, and operations on it.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::time::Duration;
use tickwire_testkit::eventually;
use tokio::time::sleep;

use super::reader::Gateways;
use crate::cluster::Cluster;
use crate::node::{DEADLINE, TestNode};

/// How long a router is frozen: others take its partitions meanwhile.
const FROZEN: Duration = Duration::from_secs(10);

/// How long a nats-server or a line is down.
const AWAY: Duration = Duration::from_secs(3);

/// An outage of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineOutage {
    /// Cut for a while.
    Cut,
    /// Stalled for a while.
    Stall,
    /// Broken after some bytes.
    Break,
}

impl LineOutage {
    pub(crate) const ALL: [Self; 3] = [Self::Cut, Self::Stall, Self::Break];

    fn any(rng: &mut StdRng) -> Self {
        Self::ALL.choose(rng).copied().unwrap()
    }

    async fn inject(self, to: Option<&TestNode>) {
        let line = to.and_then(|node| node.line.as_ref()).expect("every node has a line");
        match self {
            Self::Cut => line.cut(),
            Self::Stall => line.stall(),
            Self::Break => line.break_after(10_000),
        }
        sleep(AWAY).await;
        line.mend();
    }
}

/// A fault. Afterwards the number of nodes is the same, except for `AddGateway` and `RemoveGateway`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LedgerFault {
    /// A gateway is killed and replaced.
    KillGateway,
    /// A router is killed and replaced.
    KillRouter,
    /// A gateway and a router are killed at the same time.
    KillBoth,
    /// The router that is the coordinator is killed.
    KillCoordinator,
    /// A gateway is killed and started again with the same name.
    RestartGateway,
    /// A router is frozen for ten seconds and then continues.
    FreezeRouter,
    /// Each gateway is stopped by SIGTERM and replaced, one after the other.
    RollGateways,
    /// A gateway is added.
    AddGateway,
    /// A gateway is stopped by SIGTERM and not replaced.
    RemoveGateway,
    /// The nats-server that leads the stream, or the only one, is killed and restarted after a while.
    KillNats,
    /// The line of a router to NATS has a fault for a while.
    LineOfRouter(LineOutage),
    /// The line of a gateway to NATS has a fault for a while.
    LineOfGateway(LineOutage),
}

impl LedgerFault {
    /// A random fault for a cluster behind lines, which has two or three gateways before and after.
    pub(crate) fn any(cluster: &Cluster, rng: &mut StdRng) -> Self {
        let grows = cluster.gateways.len() < 3;
        let all = [
            Self::KillGateway,
            Self::KillRouter,
            Self::KillBoth,
            Self::KillCoordinator,
            Self::RestartGateway,
            Self::FreezeRouter,
            Self::RollGateways,
            if grows { Self::AddGateway } else { Self::RemoveGateway },
            Self::KillNats,
            Self::LineOfRouter(LineOutage::any(rng)),
            Self::LineOfGateway(LineOutage::any(rng)),
        ];
        all.choose(rng).copied().unwrap()
    }

    /// Injects the fault, and returns when the cluster is complete again.
    pub(crate) async fn inject(self, cluster: &mut Cluster, gateways: &Gateways, rng: &mut StdRng) {
        match self {
            Self::KillGateway => {
                kill_gateway(cluster, rng);
                cluster.add_gateway();
            }
            Self::KillRouter => {
                kill_router(cluster, rng);
                cluster.add_router();
            }
            Self::KillBoth => {
                kill_gateway(cluster, rng);
                kill_router(cluster, rng);
                cluster.add_gateway();
                cluster.add_router();
            }
            Self::KillCoordinator => {
                let at = coordinator(cluster).await;
                cluster.routers.remove(at).process.kill();
                cluster.add_router();
            }
            Self::RestartGateway => {
                let at = rng.random_range(0..cluster.gateways.len());
                let id = cluster.gateways[at].id.clone();
                cluster.gateways.remove(at).process.kill();
                let again = cluster.node_again("gateway", &id);
                cluster.gateways.push(again);
            }
            Self::FreezeRouter => {
                let at = rng.random_range(0..cluster.routers.len());
                cluster.routers[at].process.freeze();
                sleep(FROZEN).await;
                cluster.routers[at].process.thaw();
            }
            Self::RollGateways => {
                for _ in 0..cluster.gateways.len() {
                    cluster.add_gateway().gateway().await;
                    publish_addresses(cluster, gateways).await;
                    stop_oldest_gateway(cluster, gateways).await;
                }
            }
            Self::AddGateway => drop(cluster.add_gateway().gateway().await),
            Self::RemoveGateway => stop_oldest_gateway(cluster, gateways).await,
            Self::KillNats => {
                let at = stream_leader(cluster).await;
                cluster.nats[at].kill();
                sleep(AWAY).await;
                cluster.nats[at].restart();
            }
            Self::LineOfRouter(trouble) => trouble.inject(cluster.routers.choose(rng)).await,
            Self::LineOfGateway(trouble) => trouble.inject(cluster.gateways.choose(rng)).await,
        }
        publish_addresses(cluster, gateways).await;
        cluster.settled().await;
    }
}

/// Gives the clients the addresses of the gateways.
async fn publish_addresses(cluster: &mut Cluster, gateways: &Gateways) {
    let known = cluster.gateway_addresses().await;
    *gateways.lock().unwrap() = known;
}

fn kill_gateway(cluster: &mut Cluster, rng: &mut StdRng) {
    let at = rng.random_range(0..cluster.gateways.len());
    cluster.gateways.remove(at).process.kill();
}

fn kill_router(cluster: &mut Cluster, rng: &mut StdRng) {
    let at = rng.random_range(0..cluster.routers.len());
    cluster.routers.remove(at).process.kill();
}

/// Stops the oldest gateway by SIGTERM, and waits for its end.
async fn stop_oldest_gateway(cluster: &mut Cluster, gateways: &Gateways) {
    let mut leaving = cluster.gateways.remove(0);
    let address = leaving.gateway().await;
    gateways.lock().unwrap().retain(|known| *known != address);
    leaving.process.terminate();
    assert_eq!(leaving.process.wait(DEADLINE).await.code(), Some(0), "{}", leaving.process.stderr());
}

/// The nats-server that leads the stream of events.
async fn stream_leader(cluster: &Cluster) -> usize {
    if cluster.nats.len() == 1 {
        return 0;
    }
    let jetstream = async_nats::jetstream::new(cluster.client.clone());
    eventually("the stream has a leader", DEADLINE, async || {
        let stream = jetstream.get_stream("EVENTS").await.ok()?;
        stream.cached_info().cluster.as_ref()?.leader.as_ref()?.strip_prefix("n-")?.parse().ok()
    })
    .await
}

/// The router that is the coordinator.
async fn coordinator(cluster: &mut Cluster) -> usize {
    eventually("there is a coordinator", DEADLINE, async || {
        for (at, router) in cluster.routers.iter_mut().enumerate() {
            if router.metrics().await.get("tickwire_coordinator") == 1.0 {
                return Some(at);
            }
        }
        None
    })
    .await
}
