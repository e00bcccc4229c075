//! `tickwire bench failover`: how long clients wait for new events when nodes die, whether events are missing, and how
//! fast past events are replayed.
//!
//! A cluster of two routers and two gateways, with clients of the client library at the first gateway (`listeners`),
//! and a producer that numbers its events (`producer`). One after the other a router is killed, the clients' gateway is
//! killed, and the next one is drained. In the end each client must have all its events. Then the remaining router
//! reads the stream again at its configured pace (`replays`), beside live events. Last, a router without such a bound
//! takes its place and reads the stream as fast as it can.

mod figures;
mod listeners;
mod producer;
mod replays;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tickwire_client::ClientError;
use tickwire_node::nats::{Nats, NatsError};
use tokio::time::sleep;

use super::cores::Cores;
use super::server::{BenchServer, BenchServerError};
use figures::FailoverFigures;
use listeners::{ListenedSince, Listeners};
use producer::{NumberedProducer, publish_past};
use replays::{ReplayRead, ReplayReadError};
use tickwire_command::args::NatsArgs;
use tickwire_command::progress::Progress;
use tickwire_command::publisher::PublishError;

/// How many clients there are, and how many events a second, by default.
const CLIENTS: u32 = 2_000;
const RATE: f64 = 200.0;

/// How long events are observed before the first failure, and after a router was killed.
const CALM: Duration = Duration::from_secs(4);
const AFTER_ROUTER: Duration = Duration::from_secs(8);

/// How long all clients may take to resume at another gateway.
const DEADLINE: Duration = Duration::from_secs(60);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FailoverError {
    #[error(transparent)]
    Server(#[from] BenchServerError),
    #[error("the clients cannot connect: {0}")]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] tickwire_node::config::ConfigError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("events cannot be published: {0}")]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Replay(#[from] ReplayReadError),
    #[error("no ports for the gateways: {0}")]
    Ports(std::io::Error),
    #[error("after {DEADLINE:?} {left} of {of} clients have not caught up; the first of them reports: {reason}")]
    Late { left: usize, of: usize, reason: String },
    #[error("a task has ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Failover<'a> {
    pub(crate) clients: Option<u32>,
    pub(crate) rate: Option<f64>,
    pub(crate) cores: &'a Cores,
    pub(crate) sets: &'a [String],
}

impl Failover<'_> {
    /// Runs it.
    pub(crate) async fn run(&self) -> Result<FailoverFigures, FailoverError> {
        let clients = self.clients.unwrap_or(CLIENTS);
        super::server::raise_descriptor_limit(clients)?;
        let mut server = BenchServer::new(self.cores)?;
        let done = self.run_against(&mut server, clients, self.rate.unwrap_or(RATE)).await;
        server.stop().await;
        done
    }

    async fn run_against(
        &self,
        server: &mut BenchServer,
        clients: u32,
        rate: f64,
    ) -> Result<FailoverFigures, FailoverError> {
        let screen = Progress::of_steps(8);
        let step = |number, what: &str| {
            screen.at(number);
            screen.show(format!("failover: {what}"));
        };
        step(0, "starting");
        let (nats_url, gateways) = self.start_cluster(server, clients).await?;
        step(1, "connecting");
        let listeners = Listeners::connect(&gateways, clients).await?;
        let nats = Nats::connect(&NatsArgs::at(&nats_url).load()?.nats, "publish", "bench").await?;
        let producer = NumberedProducer::start(nats.clone(), rate);
        sleep(CALM).await;

        step(2, "a router is killed");
        let router_killed = kill_router(server, &listeners).await?;

        step(3, "the gateway of all clients is killed");
        let gateway_kill = kill_gateway(server, &listeners).await?;

        step(4, "the next gateway is drained");
        server.start_node("gateway", &nats_url, &self.gateway_sets(clients, gateways[2]), "gateway").await?;
        let gateway_drained = drain_gateway(server, &listeners).await?;

        let past = read_past(server, (&nats, &nats_url), &listeners, step).await?;

        let published = producer.stop().await?;
        sleep(CALM / 2).await;
        let sum = listeners.close(published).await;
        Ok(FailoverFigures {
            clients,
            events_a_second: rate,
            published,
            expected: sum.expected,
            missing: sum.missing,
            duplicated: sum.duplicated,
            gaps: sum.gaps,
            router_killed,
            gateway_killed: gateway_kill.all_resumed,
            gateway_killed_without_pauses: gateway_kill.without_pauses,
            replay_requests: gateway_kill.replay_requests,
            gateway_drained,
            replayed_a_second: past.unbounded.rate(),
            paced_replay_a_second: past.paced.rate(),
            live_p99: past.live_p99,
            live_p99_during_replay: past.live_p99_during_replay,
        })
    }

    /// Starts NATS, two routers, and two gateways. Returns the URL of NATS, and the addresses of these gateways and of
    /// one that is started later.
    async fn start_cluster(
        &self,
        server: &mut BenchServer,
        clients: u32,
    ) -> Result<(String, Vec<SocketAddr>), FailoverError> {
        let nats_url = server.start_nats().await?;
        for _ in 0..2 {
            server.start_node("router", &nats_url, &[], "admin").await?;
        }
        let gateways = free_addresses(3).map_err(FailoverError::Ports)?;
        for address in &gateways[..2] {
            server.start_node("gateway", &nats_url, &self.gateway_sets(clients, *address), "gateway").await?;
        }
        Ok((nats_url, gateways))
    }

    fn gateway_sets(&self, clients: u32, address: SocketAddr) -> Vec<String> {
        let mut sets = vec![
            "auth.mode=dev".to_owned(),
            format!("gateway.listen={address}"),
            format!("gateway.max_sessions={}", clients + 100),
            "gateway.rate=0".to_owned(),
            "gateway.rebalance_rate=0".to_owned(),
            // All come at the same moment, and are to be at the first gateway.
            format!("gateway.admission_rate={clients}"),
            "node.shutdown_grace=10s".to_owned(),
        ];
        sets.extend(self.sets.iter().cloned());
        sets
    }
}

/// The measurements after the gateway of all clients was killed. Times are in seconds.
struct GatewayKill {
    /// How long the last client took to resume, and the same without each client's own pauses.
    all_resumed: f64,
    without_pauses: f64,
    /// Requests for replays that this took.
    replay_requests: u64,
}

/// The measurements of the replay of past events.
struct PastRead {
    /// At the pace that a router is configured to, and without a bound.
    paced: ReplayRead,
    unbounded: ReplayRead,
    /// Latency of live events in seconds, p99, before and during the paced read.
    live_p99: f64,
    live_p99_during_replay: f64,
}

/// Kills a router. Returns the longest latency of an event since then, in seconds.
async fn kill_router(server: &mut BenchServer, listeners: &Listeners) -> Result<f64, FailoverError> {
    let killed = listeners.mark();
    server.kill("router").await?;
    sleep(AFTER_ROUTER).await;
    Ok(listeners.longest(killed))
}

/// Kills the gateway of all clients, and waits until they have resumed.
async fn kill_gateway(server: &mut BenchServer, listeners: &Listeners) -> Result<GatewayKill, FailoverError> {
    let asked = replay_requests(server).await?;
    let killed = listeners.mark();
    server.kill("gateway").await?;
    let all_resumed = all_resumed(listeners, killed).await?;
    let without_pauses = listeners.longest_resume(killed);
    let replay_requests = replay_requests(server).await? - asked;
    Ok(GatewayKill { all_resumed, without_pauses, replay_requests })
}

/// Sends a gateway SIGTERM, and waits for its end. Returns how long the last client took to resume, in seconds.
async fn drain_gateway(server: &mut BenchServer, listeners: &Listeners) -> Result<f64, FailoverError> {
    let terminated = listeners.mark();
    server.terminate("gateway")?;
    let drained = all_resumed(listeners, terminated).await?;
    server.ended("gateway").await?;
    Ok(drained)
}

/// Measures live events alone, publishes past events, and has them replayed: beside live events, then as fast as
/// possible.
async fn read_past(
    server: &mut BenchServer,
    (nats, nats_url): (&Nats, &str),
    listeners: &Listeners,
    step: impl Fn(u64, &str),
) -> Result<PastRead, FailoverError> {
    step(5, "live events alone");
    let calm = listeners.mark();
    sleep(CALM).await;
    let live_p99 = listeners.p99(calm);

    step(6, "live events beside a replay");
    publish_past(nats).await?;
    // Over a connection of its own, as the replays of a gateway.
    let reader = Nats::connect(&NatsArgs::at(nats_url).load()?.nats, "publish", "bench-past").await?;
    sleep(CALM / 2).await;
    let during = listeners.mark();
    let paced = replays::read_all(&reader, "EVENTS").await?;
    let live_p99_during_replay = listeners.p99(during);

    step(7, "a replay as fast as a router reads it");
    replace_router(server, nats_url).await?;
    let unbounded = replays::read_all(&reader, "EVENTS").await?;
    Ok(PastRead { paced, unbounded, live_p99, live_p99_during_replay })
}

/// Replaces the router by one that reads replays as fast as it can.
async fn replace_router(server: &mut BenchServer, nats_url: &str) -> Result<(), FailoverError> {
    server.start_node("router", nats_url, &["router.replay_rate=10000000".to_owned()], "admin").await?;
    server.terminate("router")?;
    server.ended("router").await?;
    sleep(CALM / 2).await;
    Ok(())
}

/// Waits until all clients have resumed after `since`. Returns how long the last one took, in seconds.
async fn all_resumed(listeners: &Listeners, since: ListenedSince) -> Result<f64, FailoverError> {
    let end = Instant::now() + DEADLINE;
    loop {
        let left = listeners.yet_to_resume(since);
        if left == 0 {
            return Ok(listeners.last_resumed(since));
        }
        if Instant::now() > end {
            let (of, reason) = (listeners.count(), listeners.reason(since));
            return Err(FailoverError::Late { left, of, reason });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn replay_requests(server: &BenchServer) -> Result<u64, BenchServerError> {
    let name = "tickwire_router_replay_requests_total";
    let metrics = server.metrics("router").await?;
    Ok(metrics.iter().filter_map(|metrics| metrics.get(name)).sum::<f64>() as u64)
}

/// Different addresses on which nothing listens.
fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let free = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
    free.iter().map(TcpListener::local_addr).collect()
}
