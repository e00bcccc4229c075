//! A NATS cluster on bad days: three servers keep three copies of everything, and one after the other dies, stops, hangs, is
//! cut from the others, leads no more, or all do, while routers and gateways die beside it. The ledger judges.
//!
//! The days are drawn from a seed, which is printed. `TICKWIRE_CHAOS_SEED` sets it. The short form has few of them.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use std::time::Duration;
use tickwire_testkit::{NatsServer, eventually};
use tokio::time::sleep;

use super::tools::{is_full, report};
use crate::cluster::Cluster;
use crate::cut::{Line, Weather};
use crate::ledger::book::{Crowd, Ledger, SHIPPED, seed};
use crate::node::DEADLINE;

/// How long after the end of a bad day every node may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// How many servers there are.
const SERVERS: usize = 3;

/// Three servers and their clients share the machine with the nodes.
const CROWD: Crowd = Crowd { readers: 60, slow: 0, listeners: 4, ..SHIPPED };

/// What can happen to the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Day {
    /// One is killed (SIGKILL), and comes back after a while.
    Killed,
    /// One is told to stop (SIGTERM), and comes back after a while.
    Stopped,
    /// One stands still for a while (SIGSTOP, SIGCONT).
    Frozen,
    /// The leaders of every stream and bucket step down.
    SteppedDown,
    /// One is cut from the others, and its clients stay.
    CutOff,
    /// The same, but no route ends: nothing comes through.
    Unheard,
    /// What servers tell each other takes 300 ms.
    SlowRoutes,
    /// All are killed at once, and come back after a while.
    AllKilled,
}

/// Who dies beside that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nobody,
    Router,
    Gateway,
}

impl Day {
    const ALL: [Self; 8] = [
        Self::Killed,
        Self::Stopped,
        Self::Frozen,
        Self::SteppedDown,
        Self::CutOff,
        Self::Unheard,
        Self::SlowRoutes,
        Self::AllKilled,
    ];

    /// Lets it come and pass.
    async fn pass(self, cluster: &mut Cluster, routes: &Routes, rng: &mut StdRng) {
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
            Self::CutOff => routes.suffer(Some(at), Weather { refuses: true, ..Weather::default() }, lasting).await,
            Self::Unheard => routes.suffer(Some(at), Weather { is_stalled: true, ..Weather::default() }, lasting).await,
            Self::SlowRoutes => {
                let delay = Some((Duration::from_millis(300), Duration::ZERO));
                routes.suffer(None, Weather { delay, ..Weather::default() }, lasting).await;
            }
            Self::AllKilled => {
                cluster.nats.iter_mut().for_each(NatsServer::kill);
                sleep(lasting).await;
                cluster.nats.iter_mut().for_each(NatsServer::restart);
            }
        }
    }
}

/// The lines by which servers reach each other: from which, to which.
struct Routes(Vec<(usize, usize, Line)>);

impl Routes {
    /// Lets the routes from and to one server, or all, suffer for so long.
    async fn suffer(&self, of: Option<usize>, weather: Weather, lasting: Duration) {
        let is_meant = |from: usize, to: usize| of.is_none_or(|of| of == from || of == to);
        let meant = || self.0.iter().filter(|(from, to, _)| is_meant(*from, *to)).map(|(.., line)| line);
        meant().for_each(|line| line.suffer(weather));
        sleep(lasting).await;
        meant().for_each(Line::mend);
    }
}

/// Has the leader of every stream and bucket step down.
async fn step_down(cluster: &Cluster) {
    let jetstream = async_nats::jetstream::new(cluster.client.clone());
    let leader = async |name: &str| {
        let stream = jetstream.get_stream(name).await.ok()?;
        stream.cached_info().cluster.as_ref()?.leader.clone()
    };
    let names = ["EVENTS", "DEADLETTERS", "KV_TICKWIRE_VIEW", "KV_TICKWIRE_LEASES"];
    for name in names {
        let before = eventually(&format!("{name} has a leader"), DEADLINE, async || leader(name).await).await;
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{name}");
        let answer = cluster.client.request(subject, "".into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["success"], true, "{name}, led by {before}: {answer}");
    }
}

/// Which days come, and who dies beside.
fn days(rng: &mut StdRng) -> Vec<(Day, Beside)> {
    let beside = [Beside::Nobody, Beside::Router, Beside::Gateway];
    let mut days = Day::ALL.to_vec();
    days.shuffle(rng);
    if is_full() {
        // Each once by itself, and once more beside a death.
        let alone = days.iter().map(|day| (*day, Beside::Nobody));
        let together = days.iter().enumerate().map(|(at, day)| (*day, beside[1 + at % 2]));
        return alone.chain(together).collect();
    }
    days.truncate(2);
    days.into_iter().map(|day| (day, *beside.choose(rng).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_a_nats_cluster_on_bad_days_and_all_are_ready_soon_after_each() {
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
    let days = days(&mut ledger.rng);
    for (day, beside) in &days {
        let Ledger { cluster, rng, .. } = &mut ledger;
        match beside {
            Beside::Nobody => {}
            Beside::Router => {
                let at = rng.random_range(0..cluster.routers.len());
                cluster.routers.remove(at).process.kill();
            }
            Beside::Gateway => {
                let at = rng.random_range(0..cluster.gateways.len());
                cluster.gateways.remove(at).process.kill();
            }
        }
        day.pass(cluster, &routes, rng).await;
        match beside {
            Beside::Nobody => {}
            Beside::Router => drop(cluster.add_router()),
            Beside::Gateway => drop(cluster.add_gateway()),
        }
        let took = cluster.ready_within(READY).await;
        let known = cluster.gateway_addresses().await;
        *ledger.gateways.lock().unwrap() = known;
        eprintln!("{day:?} beside {beside:?}: ready after {took:.1?}");
        longest = longest.max(took);
        ledger.publisher.more(40).await;
    }
    let tally = ledger.close().await;
    let (count, received) = (days.len(), tally.received);
    report("NATS cluster", &format!("{received} deliveries exact, {count} bad days, ready after {longest:.1?}"));
}
