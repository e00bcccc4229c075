//! Faults of a NATS cluster: three servers keep three copies of everything. One or all of them die, stop, hang, are cut
//! off or lose their leadership, while routers and gateways die too. The ledger checks that no event is lost.
//!
//! The faults are random, from a seed that is printed. `TICKWIRE_CHAOS_SEED` sets it. The short form has few of them.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use std::time::Duration;
use tickwire_testkit::{NatsServer, Pulse, eventually};
use tokio::time::sleep;

use super::tools::{is_full, report};
use crate::cluster::Cluster;
use crate::cut::{Line, LineFaults};
use crate::ledger::book::{Crowd, DEFAULTS_CROWD, Ledger, seed};
use crate::node::DEADLINE;

/// How long after the end of a fault every node may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// The number of servers.
const SERVERS: usize = 3;

/// Three servers and their clients share the machine with the nodes.
const CROWD: Crowd = Crowd { readers: 60, slow: 0, listeners: 4, ..DEFAULTS_CROWD };

/// A fault of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerFault {
    /// One is killed (SIGKILL), and restarted after a while.
    Killed,
    /// One is stopped (SIGTERM), and restarted after a while.
    Stopped,
    /// One is frozen for a while (SIGSTOP, SIGCONT).
    Frozen,
    /// The leaders of every stream and bucket step down.
    SteppedDown,
    /// One is cut off from the others, and keeps its clients.
    CutOff,
    /// The same, but no route ends: no bytes pass.
    Stalled,
    /// Messages between servers take 300 ms.
    SlowRoutes,
    /// All are killed at once, and restarted after a while.
    AllKilled,
}

/// The node that dies at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeDeath {
    None,
    Router,
    Gateway,
}

impl ServerFault {
    const ALL: [Self; 8] = [
        Self::Killed,
        Self::Stopped,
        Self::Frozen,
        Self::SteppedDown,
        Self::CutOff,
        Self::Stalled,
        Self::SlowRoutes,
        Self::AllKilled,
    ];

    /// Injects the fault, and ends it.
    async fn inject(self, cluster: &mut Cluster, routes: &Routes, rng: &mut StdRng) {
        let at = rng.random_range(0..SERVERS);
        let most = if is_full() { 6_000 } else { 3_000 };
        let lasting = Duration::from_millis(rng.random_range(2_000..=most));
        match self {
            Self::Killed => {
                cluster.nats[at].kill();
                sleep(lasting).await;
                cluster.nats[at].restart();
            }
            Self::Stopped => {
                cluster.nats[at].terminate();
                sleep(lasting).await;
                cluster.nats[at].restart();
            }
            Self::Frozen => {
                cluster.nats[at].freeze();
                sleep(lasting).await;
                cluster.nats[at].thaw();
            }
            Self::SteppedDown => step_down(cluster).await,
            Self::CutOff => {
                routes.set_faults(Some(at), LineFaults { refuses: true, ..LineFaults::default() }, lasting).await
            }
            Self::Stalled => {
                routes.set_faults(Some(at), LineFaults { is_stalled: true, ..LineFaults::default() }, lasting).await
            }
            Self::SlowRoutes => {
                let delay = Some((Duration::from_millis(300), Duration::ZERO));
                routes.set_faults(None, LineFaults { delay, ..LineFaults::default() }, lasting).await;
            }
            Self::AllKilled => {
                cluster.nats.iter_mut().for_each(NatsServer::kill);
                sleep(lasting).await;
                cluster.nats.iter_mut().for_each(NatsServer::restart);
            }
        }
    }
}

/// The lines between servers: from which, to which.
struct Routes(Vec<(usize, usize, Line)>);

impl Routes {
    /// Sets faults on the routes of one server, or of all, for this time.
    async fn set_faults(&self, of: Option<usize>, faults: LineFaults, lasting: Duration) {
        let is_affected = |from: usize, to: usize| of.is_none_or(|of| of == from || of == to);
        let affected = || self.0.iter().filter(|(from, to, _)| is_affected(*from, *to)).map(|(.., line)| line);
        affected().for_each(|line| line.set_faults(faults));
        sleep(lasting).await;
        affected().for_each(Line::mend);
    }
}

/// Makes the leader of every stream and bucket step down.
async fn step_down(cluster: &Cluster) {
    let jetstream = async_nats::jetstream::new(cluster.client.clone());
    let leader = async |name: &str| {
        let stream = jetstream.get_stream(name).await.ok()?;
        stream.cached_info().cluster.as_ref()?.leader.clone()
    };
    let names = [
        "EVENTS",
        "DEADLETTERS",
        "KV_TICKWIRE_VIEW",
        "KV_TICKWIRE_LEASES",
        "KV_TICKWIRE_RULES",
        "KV_TICKWIRE_CONTEXT",
        "KV_TICKWIRE_REFERENCE",
        "KV_TICKWIRE_SUBSCRIPTIONS",
        "KV_TICKWIRE_ACKS",
    ];
    for name in names {
        let before = eventually(&format!("{name} has a leader"), DEADLINE, async || leader(name).await).await;
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{name}");
        let answer = cluster.client.request(subject, "".into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["success"], true, "{name}, led by {before}: {answer}");
    }
}

/// The faults, each with the node that dies at the same time.
fn fault_plan(rng: &mut StdRng) -> Vec<(ServerFault, NodeDeath)> {
    let death = [NodeDeath::None, NodeDeath::Router, NodeDeath::Gateway];
    let mut fault_plan = ServerFault::ALL.to_vec();
    fault_plan.shuffle(rng);
    if is_full() {
        // Each once alone, and once more together with a death.
        let alone = fault_plan.iter().map(|fault| (*fault, NodeDeath::None));
        let together = fault_plan.iter().enumerate().map(|(at, fault)| (*fault, death[1 + at % 2]));
        return alone.chain(together).collect();
    }
    fault_plan.truncate(2);
    fault_plan.into_iter().map(|fault| (fault, *death.choose(rng).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_a_faulty_nats_cluster_and_nodes_recover() {
    let seed = seed(5);
    let mut routes = Vec::new();
    let servers = NatsServer::start_cluster_by(SERVERS, |from, to, address| {
        let line = Line::to_address(address);
        let near = line.address;
        routes.push((from, to, line));
        near
    });
    let routes = Routes(routes);
    let cluster = Cluster::start_shipped_on(servers, 2, 2).await;
    let mut ledger = Ledger::start_with("NATS cluster", seed, cluster, CROWD).await;
    let mut longest = Duration::ZERO;
    let fault_plan = fault_plan(&mut ledger.rng);
    for (fault, death) in &fault_plan {
        let Ledger { cluster, rng, .. } = &mut ledger;
        match death {
            NodeDeath::None => {}
            NodeDeath::Router => {
                let at = rng.random_range(0..cluster.routers.len());
                cluster.routers.remove(at).process.kill();
            }
            NodeDeath::Gateway => {
                let at = rng.random_range(0..cluster.gateways.len());
                cluster.gateways.remove(at).process.kill();
            }
        }
        fault.inject(cluster, &routes, rng).await;
        match death {
            NodeDeath::None => {}
            NodeDeath::Router => drop(cluster.add_router()),
            NodeDeath::Gateway => drop(cluster.add_gateway()),
        }
        let pulse = Pulse::start();
        let took = cluster.ready_within(DEADLINE).await;
        assert!(took <= READY + pulse.allowance(), "{fault:?} with {death:?}: ready after {took:.1?}");
        let known = cluster.gateway_addresses().await;
        *ledger.gateways.lock().unwrap() = known;
        eprintln!("{fault:?} with {death:?}: ready after {took:.1?}");
        longest = longest.max(took);
        ledger.publisher.more(40).await;
    }
    let tally = ledger.close().await;
    let (count, received) = (fault_plan.len(), tally.received);
    report("NATS cluster", &format!("{received} deliveries exact, {count} faults, ready after {longest:.1?}"));
}
