//! One run: a server of its own, sockets, events, and what was measured. Its processes end with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

use super::client::Dialect;
use super::cores::Cores;
use super::draw::SYMBOLS;
use super::figures::{Figures, Interval, Measured, RouteCacheFigures};
use super::injector::{BareFeed, InjectError, InjectingRouter, Injector, PacedProducer};
use super::oracle::{EventTally, Oracle};
use super::reference;
use super::scenario::{Plan, Scenario};
use super::screen::Screen;
use super::server::{BenchServer, BenchServerError};
use super::sockets::{Fleet, SocketsError};
use super::through::Through;

/// The pause between the last subscription and the measurement of the idle server.
const SETTLE: Duration = Duration::from_secs(1);

/// The time between the start of the injector and the first event.
const LEAD: Duration = Duration::from_millis(100);

/// When no event comes for this time, the events that have not come are lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait for duplicates after the last expected event.
const DUPLICATES_WAIT: Duration = Duration::from_millis(300);

/// How long readers that stalled may take to read what is left for them.
const STALLED_READ_TIME: Duration = Duration::from_secs(5);

/// How long routers may take to read the reference data. They look for it once a second.
const REFERENCE_DEADLINE: Duration = Duration::from_secs(10);

/// How often progress is shown and the processes are checked.
const TURN: Duration = Duration::from_millis(100);

/// The size of a session's outbox: large enough that nothing is dropped, and small for `slow`, where events are meant
/// to be dropped.
const OUTBOX: usize = 64 * 1024 * 1024;
const SLOW_OUTBOX: usize = 256 * 1024;

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchRunError {
    #[error(transparent)]
    Server(#[from] BenchServerError),
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error(transparent)]
    Inject(#[from] InjectError),
    #[error("the scenario cannot be evaluated: {0}")]
    Oracle(String),
    #[error("a router has not read the reference data within {:?}", REFERENCE_DEADLINE)]
    NoReference,
}

/// What a run needs.
#[derive(Debug)]
pub(crate) struct BenchRun<'a> {
    pub(crate) through: Through,
    pub(crate) plan: Arc<Plan>,
    /// The number of the run. Its sockets come from addresses of their own, which contain the number.
    pub(crate) number: u8,
    pub(crate) cores: &'a Cores,
    /// More configuration for the gateway.
    pub(crate) sets: &'a [String],
    pub(crate) screen: &'a Screen,
}

impl BenchRun<'_> {
    /// Runs it.
    pub(crate) async fn run(&self) -> Result<Figures, BenchRunError> {
        let mut server = BenchServer::new(self.cores)?;
        let done = self.run_against(&mut server).await;
        // If a process has died, that is the reason of any other failure.
        let died = if done.is_err() { server.check() } else { Ok(()) };
        server.stop().await;
        died?;
        done
    }

    async fn run_against(&self, server: &mut BenchServer) -> Result<Figures, BenchRunError> {
        let plan = &*self.plan;
        self.screen.show("starting");
        let oracle = Arc::new(Oracle::new(plan).map_err(BenchRunError::Oracle)?);
        let expected = oracle.expected(plan.sockets, 0..plan.schedule.total());
        let (injector, addresses, dialect) = self.start(server, &oracle).await?;
        let empty = server.usage()?;

        let opened = Instant::now();
        let threads = self.cores.generator.len().min(4) as u32;
        let fleet = Fleet::open(&self.plan, addresses, dialect, threads, self.number)?;
        fleet.connected(|ready| self.screen.connecting(ready, plan.sockets)).await?;
        let connecting = opened.elapsed();
        sleep(SETTLE).await;
        let connected = server.usage()?;

        let sends_before = self.sends(server, &injector).await?;
        let (interval, late) = self.load(server, &fleet, &injector, &expected).await?;
        let received = fleet.received();
        let sends = self.sends(server, &injector).await?.saturating_sub(sends_before);
        let metrics = added_up(server.metrics("gateway").await?);
        let loaded = server.usage()?;
        if plan.stall_at().is_some() {
            self.screen.show("reading what is left for stalled readers");
            fleet.stall(false);
            sleep(STALLED_READ_TIME).await;
        }
        fleet.check()?;
        let harvest = fleet.close()?;
        injector.finish().await?;

        let rss = |usage: &BTreeMap<&str, super::measure::Usage>| {
            usage.get(self.through.under_test()).map_or(0, |usage| usage.rss)
        };
        Ok(Figures::of(
            plan,
            &expected,
            &harvest,
            &Measured {
                through: self.through,
                connecting,
                rss: [rss(&empty), rss(&connected), rss(&loaded)],
                interval,
                late,
                received,
                sends,
                metrics,
            },
        ))
    }

    /// Starts the processes that are measured, and the injector.
    async fn start(
        &self,
        server: &mut BenchServer,
        oracle: &Arc<Oracle>,
    ) -> Result<(Injector, Vec<SocketAddr>, Dialect), BenchRunError> {
        let plan = &*self.plan;
        if self.through == Through::Bare {
            let address = server.start_bare().await?;
            let feed = BareFeed::connect(address, plan.draw, Arc::clone(oracle))?;
            return Ok((Injector::Bare(feed), vec![address], Dialect::Bare(oracle.memberships(plan.sockets))));
        }
        let nats_url = server.start_nats().await?;
        let injector = if self.through == Through::Gateway {
            Injector::Routed(Box::new(InjectingRouter::start(&nats_url, plan.draw).await?))
        } else {
            server.start_node("router", &nats_url, &[], "admin").await?;
            if plan.enrich {
                reference::load(&nats_url).await?;
                enriched(server).await?;
            }
            Injector::Published(PacedProducer::start(&nats_url, plan.draw).await?)
        };
        let outbox = if plan.scenario == Scenario::Slow { SLOW_OUTBOX } else { OUTBOX };
        let mut sets = vec![
            "auth.mode=dev".to_owned(),
            "gateway.listen=127.0.0.1:0".to_owned(),
            format!("gateway.max_sessions={}", plan.sockets + 10 * plan.churn() + 100),
            format!("gateway.outbox_bytes={outbox}"),
            "gateway.hold_bytes=1073741824".to_owned(),
            "gateway.rate=0".to_owned(),
            "gateway.critical_rate=1000000".to_owned(),
            "gateway.admission_rate=0".to_owned(),
            "gateway.drain_window=0s".to_owned(),
            "gateway.rebalance_rate=0".to_owned(),
        ];
        sets.extend(self.sets.iter().cloned());
        let mut addresses = Vec::new();
        for _ in 0..plan.gateways {
            addresses.push(server.start_node("gateway", &nats_url, &sets, "gateway").await?);
        }
        Ok((injector, addresses, Dialect::Gateway))
    }

    /// Sends the events of the plan and waits until they have come. Returns the cost of the measured time, and by how
    /// much the latest event was sent late.
    async fn load(
        &self,
        server: &mut BenchServer,
        fleet: &Fleet,
        injector: &Injector,
        expected: &[EventTally],
    ) -> Result<(Interval, Duration), BenchRunError> {
        let plan = &*self.plan;
        let first_due = Instant::now() + LEAD;
        let begin = first_due + plan.warm_up();
        fleet.begin(first_due);
        let pace = injector.start(&self.plan, first_due);

        self.wait(begin, first_due, server, fleet).await?;
        let (intake_before, cache_before) = (intake(server).await?, lookups(server).await?);
        let (start, before, cost_before) = (Instant::now(), fleet.received(), server.usage()?);
        if let Some(at) = plan.stall_at() {
            self.wait(first_due + at, first_due, server, fleet).await?;
            fleet.stall(true);
        }
        self.wait(begin + plan.measured, first_due, server, fleet).await?;
        let (length, after, cost_after) = (start.elapsed(), fleet.received(), server.usage()?);
        let intake = intake(server).await?.iter().zip(intake_before).map(|(after, before)| after - before).collect();
        let cpu = cost_after.into_iter().map(|(name, usage)| {
            let before = cost_before.get(name).copied().unwrap_or_default();
            (name, usage.cpu.saturating_sub(before.cpu))
        });
        let route_cache = lookups(server).await?.zip(cache_before).map(|(after, before)| after.since(before));
        let interval =
            Interval { length, events: after.events - before.events, cpu: cpu.collect(), intake, route_cache };

        let late = pace.await.map_err(InjectError::from)??;
        let sockets = (0..).zip(expected).filter(|(socket, _)| !plan.stalls(*socket));
        let wanted: u64 = sockets.map(|(_, tally)| tally.events).sum();
        let (mut last, mut since) = (fleet.counted(), Instant::now());
        while fleet.counted() < wanted && since.elapsed() < IDLE_TIMEOUT {
            self.screen.show(&format!("waiting for {} deliveries", wanted.saturating_sub(fleet.counted())));
            sleep(TURN).await;
            if fleet.counted() > last {
                (last, since) = (fleet.counted(), Instant::now());
            }
        }
        sleep(DUPLICATES_WAIT).await;
        Ok((interval, late))
    }

    /// Waits, shows the progress, and fails as soon as the run has failed.
    async fn wait(
        &self,
        until: Instant,
        first_due: Instant,
        server: &mut BenchServer,
        fleet: &Fleet,
    ) -> Result<(), BenchRunError> {
        loop {
            server.check()?;
            fleet.check()?;
            let now = Instant::now();
            self.screen.running(&self.plan, now.saturating_duration_since(first_due), fleet.received().events);
            let Some(left) = until.checked_duration_since(now) else { return Ok(()) };
            sleep(left.min(TURN)).await;
        }
    }

    /// How many times the server has written to sockets.
    async fn sends(&self, server: &BenchServer, injector: &Injector) -> Result<u64, BenchRunError> {
        match injector {
            Injector::Bare(feed) => {
                let feed = feed.clone();
                let asked = tokio::task::spawn_blocking(move || feed.sends()).await;
                Ok(asked.map_err(InjectError::from)??)
            }
            Injector::Routed(_) | Injector::Published(_) => {
                let metrics = server.metrics("gateway").await?;
                Ok(metrics.iter().map(|metrics| count(metrics, "tickwire_gateway_frames_total")).sum())
            }
        }
    }
}

/// How many events have come to each gateway from the routers.
async fn intake(server: &BenchServer) -> Result<Vec<u64>, BenchServerError> {
    let metrics = server.metrics("gateway").await?;
    Ok(metrics.iter().map(|metrics| count(metrics, "tickwire_gateway_received_events_total")).collect())
}

/// Waits until every router has the reference data.
async fn enriched(server: &mut BenchServer) -> Result<(), BenchRunError> {
    let end = Instant::now() + REFERENCE_DEADLINE;
    loop {
        server.check()?;
        let mut routers = server.metrics("router").await?.into_iter();
        if routers.all(|metrics| count(&metrics, "tickwire_router_reference_entries") == u64::from(SYMBOLS)) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(BenchRunError::NoReference);
        }
        sleep(TURN).await;
    }
}

/// What the route caches of all routers have done so far; `None` without a router that is a process of its own.
async fn lookups(server: &BenchServer) -> Result<Option<RouteCacheFigures>, BenchServerError> {
    let routers = server.metrics("router").await?;
    let is_there = !routers.is_empty();
    let metrics = added_up(routers);
    let of = |what: &str| count(&metrics, &format!("tickwire_router_route_cache_{what}"));
    Ok(is_there.then(|| RouteCacheFigures {
        hits: of("hits_total"),
        misses: of("misses_total"),
        evictions: of("evictions_total"),
        entries: of("entries"),
    }))
}

fn count(metrics: &BTreeMap<String, f64>, name: &str) -> u64 {
    metrics.get(name).map_or(0, |count| *count as u64)
}

/// The counters of several nodes as one.
fn added_up(nodes: Vec<BTreeMap<String, f64>>) -> BTreeMap<String, f64> {
    let mut sum = BTreeMap::new();
    for (name, value) in nodes.into_iter().flatten() {
        *sum.entry(name).or_default() += value;
    }
    sum
}
