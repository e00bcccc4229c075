//! The two sides of the ledger: the publisher with its list, and the clients with their records.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tickwire_core::ids::Seq;
use tickwire_core::protocol::Encoding;
use tickwire_testkit::eventually;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::balancer::balance;
use super::check::{Tally, assert_adds_up, assert_gone};
use super::faults::LedgerFault;
use super::reader::{Gateways, Nature, Reader, SETTLE};
use crate::cluster::Cluster;
use crate::feed::{RunningFeed, SYMBOLS, USERS};
use crate::listener::Listener;
use crate::oracle::{OracleEntry, assert_covered, assert_exact, filter};
use crate::producer::{Producer, ProducerMessage};
use crate::stranger::{Admins, Stranger};

/// The user whose clients read slowly.
const SLOW_USER: &str = "slow";

/// How many readers are added while a router is frozen.
const LATE: usize = 12;

/// One event in this many is large, so that the unread events of a slow reader soon exceed its outbox.
const LARGE_EACH: usize = 16;

/// The number of clients, and the time between events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    /// Clients on bare sockets.
    pub(crate) readers: usize,
    /// How many of these read slowly.
    pub(crate) slow: usize,
    /// Further clients, which use the library.
    pub(crate) listeners: usize,
    /// The time between two events.
    pub(crate) pause: Duration,
}

/// Two hundred clients of a few users, without rates.
pub(super) const USUAL_CROWD: Crowd = Crowd { readers: 190, slow: 4, listeners: 10, pause: Duration::from_millis(4) };

/// Clients with the default rate: each has its own user, except those that get alerts.
pub(crate) const DEFAULTS_CROWD: Crowd = Crowd { readers: 90, slow: 2, listeners: 6, pause: Duration::from_millis(25) };

/// A cluster under test with its publisher and its clients.
pub(crate) struct Ledger {
    pub(crate) cluster: Cluster,
    pub(crate) gateways: Gateways,
    readers: Vec<Reader>,
    listeners: Vec<(&'static str, Value, Listener)>,
    pub(crate) publisher: LedgerPublisher,
    /// How many events the test has published beside the publisher.
    pub(crate) others: usize,
    gone: Option<Gone>,
    /// The admin servers of its nodes, which the stranger attacks too.
    admins: Admins,
    stranger: Option<Stranger>,
    pub(crate) rng: StdRng,
}

/// The discarded part of the stream.
struct Gone {
    entries: Vec<OracleEntry>,
    /// The last discarded sequence.
    up_to: Seq,
    /// The readers whose gateway had not received all of it.
    readers: BTreeSet<usize>,
}

/// Publishes one event after the other, each until it is acknowledged.
pub(crate) struct LedgerPublisher {
    stop: CancellationToken,
    published: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl LedgerPublisher {
    /// With `has_large`, some events are for slow readers.
    pub(super) fn start(producer: Producer, seed: u64, pause: Duration, has_large: bool) -> Self {
        let (stop, published) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), Arc::clone(&published));
        let task = tokio::spawn(async move {
            let mut feed = RunningFeed::new(seed);
            let mut pace = interval(pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.is_cancelled() {
                pace.tick().await;
                let number = count.load(Ordering::Relaxed);
                let event = if has_large && number % LARGE_EACH == 0 { large(number) } else { feed.event() };
                let event = event.id(format!("n-{number}"));
                // An unacknowledged event is published again; the stream recognises its id.
                while !producer.try_publish(&event).await {}
                count.store(number + 1, Ordering::Relaxed);
            }
        });
        Self { stop, published, task }
    }

    /// Waits until `count` more events are in the stream.
    pub(crate) async fn more(&self, count: usize) {
        let enough = self.published.load(Ordering::Relaxed) + count;
        let published = async || (self.published.load(Ordering::Relaxed) >= enough).then_some(());
        eventually("further events are published", SETTLE, published).await;
    }

    pub(super) async fn stop(self) -> usize {
        self.stop.cancel();
        self.task.await.unwrap();
        self.published.load(Ordering::Relaxed)
    }
}

impl Ledger {
    pub(super) async fn start(name: &str, seed: u64, cluster: Cluster) -> Self {
        Self::start_with(name, seed, cluster, USUAL_CROWD).await
    }

    pub(crate) async fn start_with(name: &str, seed: u64, mut cluster: Cluster, crowd: Crowd) -> Self {
        eprintln!("{name}: the seed is {seed}");
        let gateways: Gateways = Arc::new(Mutex::new(cluster.gateway_addresses().await));
        let mut feed = RunningFeed::new(seed);
        let mut readers = Vec::new();
        for number in 0..crowd.readers {
            let is_slow = number < crowd.slow;
            let nature = match is_slow {
                true => Nature { is_slow, ..Nature::of(&cluster, SLOW_USER.to_owned(), every(), number) },
                false => fast(&cluster, &mut feed, number),
            };
            readers.push(Reader::start(nature, Arc::clone(&gateways), seed + number as u64));
        }
        let mut listeners = Vec::new();
        let address = balance(Arc::clone(&gateways)).await;
        for number in 0..crowd.listeners {
            let (user, filter) = (USERS[number % USERS.len()], narrow(&cluster, &mut feed, number));
            let listener = Listener::connect_as(address, cluster.credentials(user), Encoding::ALL[number % 2]).await;
            listener.subscribe("mine", &filter).await;
            listeners.push((user, filter, listener));
        }
        for reader in &readers {
            eventually("a reader has subscribed", SETTLE, async || reader.look(|record| record.begin.clone())).await;
        }
        let publisher = LedgerPublisher::start(cluster.producer().await, seed, crowd.pause, crowd.slow > 0);
        publisher.more(100).await;
        let admins = Arc::new(Mutex::new(cluster.admin_addresses().await));
        let rng = StdRng::seed_from_u64(seed);
        Self { cluster, gateways, readers, listeners, publisher, others: 0, gone: None, admins, stranger: None, rng }
    }

    /// Injects faults one after the other, with events in between.
    pub(crate) async fn inject(&mut self, faults: &[LedgerFault]) {
        for fault in faults {
            eprintln!("fault: {fault:?}");
            if *fault == LedgerFault::FreezeRouter {
                self.add_readers();
            }
            fault.inject(&mut self.cluster, &self.gateways, &mut self.rng).await;
            *self.admins.lock().unwrap() = self.cluster.admin_addresses().await;
            self.publisher.more(150).await;
        }
    }

    /// Publishes until a gateway has dropped or conflated events of its slow readers.
    pub(super) async fn publish_until_slow_readers_drop(&mut self) {
        let announced_drops = ["tickwire_gateway_dropped_events_total", "tickwire_gateway_conflated_events_total"];
        let Self { cluster, publisher, .. } = self;
        eventually("events of slow readers are dropped", SETTLE, async || {
            publisher.more(50).await;
            for gateway in &mut cluster.gateways {
                let metrics = gateway.metrics().await;
                if announced_drops.iter().any(|name| metrics.get_labelled(name, r#"reason="slow_consumer""#) > 0.0) {
                    return Some(());
                }
            }
            None
        })
        .await;
    }

    /// Starts a stranger that attacks every interface.
    pub(super) fn start_stranger(&mut self, seed: u64) {
        self.stranger = Some(Stranger::start(seed, &self.cluster, &self.gateways, &self.admins));
    }

    /// Injects random faults for this time.
    pub(super) async fn inject_random_faults(&mut self, lasting: Duration) {
        let end = tokio::time::Instant::now() + lasting;
        while tokio::time::Instant::now() < end {
            let fault = LedgerFault::any(&self.cluster, &mut self.rng);
            self.inject(&[fault]).await;
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Adds clients that subscribe during the next seconds.
    fn add_readers(&mut self) {
        let mut feed = RunningFeed::new(self.rng.random());
        for number in 0..LATE {
            let delay = Duration::from_millis(700) * number as u32;
            let nature = Nature { delay, ..fast(&self.cluster, &mut feed, number) };
            self.readers.push(Reader::start(nature, Arc::clone(&self.gateways), self.rng.random()));
        }
    }

    /// Cuts a gateway off, lets the stream discard events that only the other gateways have received, and repairs the
    /// line.
    pub(super) async fn discard(&mut self) {
        let gateway = self.cluster.gateways.choose(&mut self.rng).unwrap();
        let line = gateway.line.as_ref().unwrap();
        line.cut();
        let is_connected = |reader: &Reader| reader.look(|record| record.gateway == gateway.id);
        let (cut_off, others): (Vec<_>, _) =
            self.readers.iter().enumerate().partition(|(_, reader)| is_connected(reader));
        self.publisher.more(300).await;
        let before = self.cluster.log().await;
        let end = before.end();
        for (number, reader) in others.into_iter().filter(|(_, reader)| !reader.nature.is_slow) {
            reader.reach(&end, &format!("reader {number} has all events so far")).await;
        }
        let up_to = before.entries[before.entries.len() - 100].seq;
        self.cluster.discard(up_to).await;
        line.mend();
        let entries = before.entries.into_iter().filter(|entry| entry.seq <= up_to).collect();
        let readers = cut_off.into_iter().map(|(number, _)| number).collect();
        self.gone = Some(Gone { entries, up_to, readers });
        self.cluster.settled().await;
    }

    /// Stops the publisher, waits until all events have arrived, and checks each client's record.
    pub(crate) async fn close(mut self) -> Tally {
        if let Some(stranger) = self.stranger.take() {
            stranger.stop().await;
            self.cluster.settled().await;
            self.cluster.assert_bounded();
        }
        let published = self.publisher.stop().await;
        let stopped_at = tokio::time::Instant::now();
        self.readers.iter().for_each(Reader::hurry);
        let mut log = self.cluster.log().await;
        if let Some(gone) = &mut self.gone {
            log.entries.splice(..0, gone.entries.drain(..));
        }
        assert_eq!(log.entries.len(), published + self.others, "the stream has all published events");
        let end = log.end();
        for (number, reader) in self.readers.iter().enumerate() {
            reader.reach(&end, &format!("reader {number} has everything")).await;
        }
        let mut total = Tally::default();
        for (number, reader) in self.readers.iter().enumerate() {
            let name = format!("reader {number} ({:?})", reader.nature);
            let gone = self.gone.as_ref().filter(|gone| gone.readers.contains(&number)).map(|gone| gone.up_to);
            let tally = assert_adds_up(&name, reader, &log, gone);
            total.received += tally.received;
            total.missing += tally.missing;
            total.repeats += tally.repeats;
            total.announced_drops += tally.announced_drops;
        }
        for (user, wanted, listener) in &mut self.listeners {
            listener.catch_up(&end).await;
            let due = log.matching(user, &[filter(wanted)]);
            if let Some(gone) = &self.gone {
                assert_covered(user, &listener.events, &listener.gaps, &due);
                assert_gone(user, &listener.gaps, &listener.events, gone.up_to);
            } else {
                assert_exact(user, &listener.events, &listener.gaps, &due);
            }
        }
        eprintln!("{published} published; {total:?}; the last event was read after {:.1?}", stopped_at.elapsed());
        assert!(total.received > published, "the filters of this seed match too few events");
        total
    }
}

/// A reader that reads fast. With default rates, every other one has a filter that never reaches its rate.
fn fast(cluster: &Cluster, feed: &mut RunningFeed, number: usize) -> Nature {
    if !cluster.uses_defaults {
        return Nature::of(cluster, USERS[number % USERS.len()].to_owned(), feed.filter(), number);
    }
    let may_be_rate_limited = number.is_multiple_of(2);
    let filter = if may_be_rate_limited { feed.filter() } else { one_symbol(number) };
    Nature { may_be_rate_limited, ..Nature::of(cluster, format!("user {number}"), filter, number) }
}

/// A filter whose events never reach a rate.
fn narrow(cluster: &Cluster, feed: &mut RunningFeed, number: usize) -> Value {
    if cluster.uses_defaults { one_symbol(number) } else { feed.filter() }
}

pub(super) fn one_symbol(number: usize) -> Value {
    serde_json::json!({ "symbols": [SYMBOLS[number % SYMBOLS.len()]] })
}

fn every() -> Value {
    serde_json::json!({ "kinds": ["pattern", "market", "health", "alert", "backtest"] })
}

/// An event of 120 KB only for slow readers: the kernel buffers megabytes for them before the gateway must.
fn large(number: usize) -> ProducerMessage {
    let priorities = ["low", "medium", "high", "critical"];
    let event = serde_json::json!({
        "alert_id": number,
        "type": "match",
        "note": "x".repeat(120_000),
        "priority": priorities[number / LARGE_EACH % priorities.len()],
    });
    ProducerMessage::json("alert", SLOW_USER, &event)
}

pub(crate) fn seed(or: u64) -> u64 {
    std::env::var("TICKWIRE_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(or)
}
