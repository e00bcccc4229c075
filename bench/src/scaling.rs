//! `tickwire bench scaling`: how many messages gateways and routers exchange over NATS, measured beside what is counted
//! from the code, and that count for larger clusters.
//!
//! A cluster of routers and gateways, one client at each gateway that wants a part of the symbols, and a producer whose
//! events come at random (`traffic` explains why that matters). What NATS costs is measured first; then a subscriber to
//! everything counts what passes.

mod figures;
mod traffic;

use async_nats::Subscriber;
use futures_util::StreamExt;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::{SeedableRng, seq::IndexedRandom};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickwire_client::{Client, ClientConfig, ClientError, Credentials, Message, Messages, SubscribeOptions};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Confidence, Millis, NameError, NodeId, NodeRef, Nonce, Symbol};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::View;
use tickwire_core::wire;
use tickwire_node::config::{Config, ConfigError, LoadOptions};
use tickwire_node::names;
use tickwire_node::nats::{Nats, NatsError};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::cores::Cores;
use super::server::{BenchServer, BenchServerError};
use figures::{Larger, ScalingFigures, TrafficLine};
use tickwire_command::progress::Progress;
use tickwire_command::publisher::{NewEvent, PublishError, Publisher};
use traffic::{ClusterLoad, TrafficKind};

/// How many symbols there are, and how many of them the client of a gateway wants.
const SYMBOLS: usize = 100;
const WANTED: usize = 50;

/// How many events a second there are, and for how long messages are counted, by default.
const RATE: f64 = 500.0;
const SECONDS: u32 = 15;

/// Confidences are hundredths in this range, and an event is critical from [`CRITICAL`] on.
const CONFIDENCES: std::ops::Range<u32> = 50..100;
const CRITICAL: u32 = 90;

/// How long the cluster may take to come to rest.
const REST: Duration = Duration::from_secs(8);

/// How many events wait for the acknowledgement of the stream, and for how long.
const WINDOW: usize = 1_024;
const DEADLINE: Duration = Duration::from_secs(10);

/// The sizes that are counted but not measured, gateways and routers, and how many events a second they have.
const LARGER: [(u32, u32); 6] = [(4, 4), (10, 5), (20, 10), (50, 20), (200, 20), (500, 50)];
const LARGER_RATE: f64 = 20_000.0;

/// How many symbols a gateway wants whose interest is measured.
const INTERESTS: [usize; 4] = [10, 100, 1_000, 10_000];

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScalingError {
    #[error(transparent)]
    Server(#[from] BenchServerError),
    #[error("a client cannot connect: {0}")]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("messages cannot be counted: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    #[error("events cannot be published: {0}")]
    Publish(#[from] PublishError),
    #[error("a task has ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What was measured: messages, over how many seconds, batches and events by the metrics of the nodes, how busy NATS
/// was.
#[derive(Debug)]
struct MeasuredTraffic {
    messages: BTreeMap<Option<TrafficKind>, u64>,
    seconds: f64,
    reported: (f64, f64),
    nats_busy: f64,
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Scaling<'a> {
    pub(crate) gateways: u32,
    pub(crate) routers: u32,
    pub(crate) rate: Option<f64>,
    pub(crate) seconds: Option<u32>,
    pub(crate) cores: &'a Cores,
    pub(crate) sets: &'a [String],
}

impl Scaling<'_> {
    /// Runs it.
    pub(crate) async fn run(&self) -> Result<ScalingFigures, ScalingError> {
        let mut server = BenchServer::new(self.cores)?;
        let done = self.run_against(&mut server).await;
        server.stop().await;
        done
    }

    async fn run_against(&self, server: &mut BenchServer) -> Result<ScalingFigures, ScalingError> {
        let screen = Progress::of_steps(5);
        let step = |number, what: &str| {
            screen.at(number);
            screen.show(format!("scaling: {what}"));
        };
        step(0, "starting");
        let nats_url = server.start_nats().await?;
        let config = self.config(&nats_url)?;
        for _ in 0..self.routers {
            server.start_node("router", &nats_url, self.sets, "admin").await?;
        }
        let mut clients = Vec::new();
        for number in 0..self.gateways {
            let mut sets = vec![
                "auth.mode=dev".to_owned(),
                "gateway.listen=127.0.0.1:0".to_owned(),
                "gateway.rate=0".to_owned(),
                "gateway.rebalance_rate=0".to_owned(),
            ];
            sets.extend(self.sets.iter().cloned());
            let address = server.start_node("gateway", &nats_url, &sets, "gateway").await?;
            clients.push(SymbolClient::connect(address, number).await?);
        }
        let nats = Nats::connect(&config.nats, "publish", "bench").await?;
        let rate = self.rate.unwrap_or(RATE);
        let producer = RandomProducer::start(nats, rate);

        step(1, "coming to rest");
        sleep(REST).await;

        let quiet = Duration::from_secs(self.seconds.unwrap_or(SECONDS).into());
        step(2, "measuring what NATS costs");
        let (cost, begun) = (server.usage_of_nats()?.cpu, Instant::now());
        sleep(quiet).await;
        let nats_busy = (server.usage_of_nats()?.cpu - cost).as_secs_f64() / begun.elapsed().as_secs_f64();

        step(3, "counting");
        // A connection of its own for the messages that are counted.
        let observer = Nats::connect(&config.nats, "bench", "observer").await?;
        let everything = observer.client.subscribe(names::ALL).await?;
        let before = self.reported(server).await?;
        let begun = Instant::now();
        let messages = count(everything, quiet).await;
        let seconds = begun.elapsed().as_secs_f64();
        let after = self.reported(server).await?;

        step(4, "ending");
        producer.stop().await?;
        for client in clients {
            client.close().await;
        }
        let reported = (after.0 - before.0, after.1 - before.1);
        Ok(self.figures(&config, rate, &MeasuredTraffic { messages, seconds, reported, nats_busy })?)
    }

    /// What the nodes are configured with.
    fn config(&self, nats_url: &str) -> Result<Config, ConfigError> {
        let url = format!("nats.url={nats_url}");
        let sets = self.sets.iter().chain([&url]).map(|text| Config::parse_set(text)).collect::<Result<_, _>>()?;
        Config::load(&LoadOptions::from_process(None, sets))
    }

    /// Batches that routers have sent and events that gateways have received, as their metrics report.
    async fn reported(&self, server: &BenchServer) -> Result<(f64, f64), ScalingError> {
        let sum = |metrics: Vec<BTreeMap<String, f64>>, name: &str| {
            metrics.iter().filter_map(|metrics| metrics.get(name)).sum::<f64>()
        };
        let batches = sum(server.metrics("router").await?, "tickwire_router_batches_total");
        let events = sum(server.metrics("gateway").await?, "tickwire_gateway_received_events_total");
        Ok((batches, events))
    }

    fn figures(&self, config: &Config, rate: f64, traffic: &MeasuredTraffic) -> Result<ScalingFigures, NameError> {
        let MeasuredTraffic { messages, seconds, reported: (batches, events), nats_busy } = traffic;
        let cluster = ClusterLoad {
            gateways: self.gateways,
            routers: self.routers,
            partitions: config.stream.partitions,
            rate,
            interest: WANTED as f64 / SYMBOLS as f64,
            critical: f64::from(CONFIDENCES.end - CRITICAL) / CONFIDENCES.len() as f64,
            flush_window: config.router.flush_window.as_secs_f64(),
            batch_rate: config.router.batch_rate.into(),
            checkpoint_interval: config.router.checkpoint_interval.as_secs_f64(),
            round_interval: config.membership.beat_interval.min(config.membership.lease_ttl / 3).as_secs_f64(),
            beat_interval: config.membership.beat_interval.as_secs_f64(),
            heartbeat_interval: config.membership.tick_interval.as_secs_f64(),
        };
        let measured = |kind| messages.get(&kind).copied().unwrap_or(0) as f64 / seconds;
        let line = |kind| TrafficLine {
            kind,
            counted: cluster.published(kind),
            measured: measured(Some(kind)),
            receivers: cluster.receivers(kind),
        };
        let larger = LARGER.into_iter().map(|(gateways, routers)| {
            let cluster = ClusterLoad { gateways, routers, rate: LARGER_RATE, ..cluster };
            let batches = cluster.published(TrafficKind::Batches);
            Larger {
                cluster,
                window_ms: cluster.window() * 1e3,
                batches,
                batches_without_critical: ClusterLoad { critical: 0.0, ..cluster }.published(TrafficKind::Batches),
                all_else: cluster.moved() - 2.0 * batches,
            }
        });
        let moved: f64 =
            TrafficKind::ALL.map(|kind| measured(Some(kind)) * f64::from(cluster.moves(kind))).iter().sum();
        Ok(ScalingFigures {
            cluster,
            seconds: *seconds,
            nats_busy: *nats_busy,
            nats_us_per_message: nats_busy * 1e6 / moved,
            interests: INTERESTS
                .iter()
                .map(|symbols| Ok((*symbols, interest_bytes(*symbols)?)))
                .collect::<Result<_, _>>()?,
            messages: TrafficKind::ALL.map(line).into(),
            batches_sent: batches / seconds,
            events_received: events / seconds,
            requests_and_answers: measured(None),
            larger: larger.collect(),
        })
    }
}

/// Counts messages by their kind for a while.
async fn count(mut everything: Subscriber, time: Duration) -> BTreeMap<Option<TrafficKind>, u64> {
    let mut counts = BTreeMap::new();
    let counting = async {
        while let Some(message) = everything.next().await {
            let reply = message.reply.as_ref().map(async_nats::Subject::as_str);
            *counts.entry(TrafficKind::of(&message.subject, reply)).or_default() += 1;
        }
    };
    timeout(time, counting).await.ok();
    counts
}

/// The bytes of a snapshot of interest in this number of symbols, each from a confidence on.
fn interest_bytes(symbols: usize) -> Result<usize, NameError> {
    let gateway = NodeRef { id: NodeId::new("gateway-1")?, nonce: Nonce(u64::MAX) };
    let mut log = InterestLog::new(gateway.clone(), View::default(), 0, Bounds::default());
    for number in 0..symbols {
        let symbols = Some([Symbol::new(&symbol(number))?].into());
        log.add(&Arc::new(Filter { symbols, min_confidence: Confidence::new(0.7), ..Filter::default() }));
    }
    log.cut(Millis(0));
    let parts = log.sent().parts(&gateway, log.revision(), usize::MAX);
    Ok(parts.iter().filter_map(|part| wire::encode(part).ok()).map(|bytes| bytes.len()).sum())
}

/// A client that wants some of the symbols.
struct SymbolClient {
    client: Client,
    task: JoinHandle<()>,
}

impl SymbolClient {
    async fn connect(address: SocketAddr, number: u32) -> Result<Self, ClientError> {
        let config = ClientConfig {
            credentials: Credentials::DevUser(format!("bench-{number}")),
            ..ClientConfig::new(format!("ws://{address}/v1/stream"))
        };
        let (client, messages) = Client::connect(config).await?;
        let task = tokio::spawn(discard(messages));
        let mut random = SmallRng::seed_from_u64(number.into());
        let symbols: Vec<String> = (0..SYMBOLS).map(symbol).collect();
        let wanted: Vec<&String> = symbols.choose_multiple(&mut random, WANTED).collect();
        client.subscribe("some", json!({ "symbols": wanted }), SubscribeOptions::default()).await?;
        Ok(Self { client, task })
    }

    async fn close(self) {
        timeout(DEADLINE, self.client.close()).await.ok();
        self.task.abort();
    }
}

async fn discard(mut messages: Messages) {
    while let Some(message) = messages.recv().await {
        if matches!(message, Message::Disconnected { retry_in: None, .. }) {
            return;
        }
    }
}

fn symbol(number: usize) -> String {
    format!("S{number}")
}

/// Publishes events at random moments, about random symbols.
struct RandomProducer {
    stop: CancellationToken,
    task: JoinHandle<Result<(), PublishError>>,
}

impl RandomProducer {
    fn start(nats: Nats, rate: f64) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut publisher = Publisher::new(&nats, WINDOW, Some(DEADLINE));
            let (run, mut random) = (rand::rng().random::<u32>(), SmallRng::seed_from_u64(1));
            let (mut due, mut number) = (tokio::time::Instant::now(), 0_u64);
            while !stopped.is_cancelled() {
                sleep_until(due).await;
                due += Duration::from_secs_f64(-random.random_range(f64::MIN_POSITIVE..1.0).ln() / rate);
                number += 1;
                let confidence = f64::from(random.random_range(CONFIDENCES)) / 100.0;
                let payload = json!({ "pattern": "Any", "confidence": confidence }).to_string().into_bytes();
                let symbol = symbol(random.random_range(0..SYMBOLS));
                let event = NewEvent::new("pattern", &symbol, format!("{run:08x}-{number}"), payload);
                if let Some(((), stored)) = publisher.send((), event).await {
                    stored?;
                }
            }
            while let Some(((), stored)) = publisher.done().await {
                stored?;
            }
            Ok(())
        });
        Self { stop, task }
    }

    async fn stop(self) -> Result<(), ScalingError> {
        self.stop.cancel();
        Ok(self.task.await??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number in a cell of a table, without the characters around its digits.
    fn number(cell: &str) -> Option<usize> {
        cell.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()
    }

    #[test]
    fn documented_sizes_of_interest_are_right() {
        let text = include_str!("../../docs/scaling.md");
        let section = text.split("\n## ").find(|section| section.starts_with("How large interest is")).unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
        let documented: Vec<_> = rows.filter_map(|(symbols, bytes)| Some((number(symbols)?, number(bytes)?))).collect();
        let counted = INTERESTS.map(|symbols| (symbols, interest_bytes(symbols).unwrap()));
        assert_eq!(documented, counted);
    }
}
