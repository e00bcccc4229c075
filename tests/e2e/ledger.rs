//! The ledger: a publisher that keeps the list of what it published, two hundred clients that keep what they got, and
//! everything that can go wrong meanwhile. In the end both sides add up.
//!
//! Two of the tests run on the very defaults that ship, with a stranger at every door; the others on settings by which
//! nodes notice each other sooner.
//!
//! The faults are drawn from a seed, which is printed. `TICKWIRE_CHAOS_SEED` sets it, and `TICKWIRE_CHAOS_SECONDS` how
//! long the random schedules run: `make chaos` does both.

mod balancer;
mod check;
mod faults;
pub(crate) mod reader;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tickwire_core::frames::Encoding;
use tickwire_core::ids::Seq;
use tickwire_testkit::{NatsServer, eventually};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, PARTITIONS};
use crate::feed::{Feed, SYMBOLS, USERS};
use crate::ledger::balancer::balance;
use crate::ledger::check::{Tally, assert_adds_up, assert_gone};
use crate::ledger::faults::{Fault, Trouble};
use crate::ledger::reader::{Gateways, Nature, Reader, SETTLE};
use crate::listener::Listener;
use crate::oracle::{Entry, assert_covered, assert_exact, filter};
use crate::producer::{Outgoing, Producer};
use crate::stranger::{Admins, Stranger};

/// The user whose clients read slowly.
const SLOW_USER: &str = "slow";

/// How many come while a router stands still.
const LATE: usize = 12;

/// One event of so many is large, so that what a slow reader leaves unread soon is too much.
const LARGE_EACH: usize = 16;

/// What a ledger's clusters differ in from those of other tests: outboxes that a slow reader can fill, and what a gateway
/// missed in a few seconds cannot, and positions that come often.
const SETTINGS: [(&str, &str); 4] = [
    ("gateway.outbox_bytes", "524288"),
    ("gateway.heartbeat_interval", "3s"),
    ("gateway.drain_window", "1s"),
    ("gateway.slow_deadline", "5s"),
];

/// Who takes part, and how often something is published.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    /// How many clients there are on bare sockets.
    readers: usize,
    /// How many of them read slowly.
    slow: usize,
    /// How many further clients use the library.
    listeners: usize,
    /// The time between two events.
    pause: Duration,
}

/// Two hundred clients of a few users, whom no rate holds.
const USUAL: Crowd = Crowd { readers: 190, slow: 4, listeners: 10, pause: Duration::from_millis(4) };

/// Clients that are held to the rate that ships: each is a user of its own, but for those who are sent alerts.
const SHIPPED: Crowd = Crowd { readers: 90, slow: 2, listeners: 6, pause: Duration::from_millis(25) };

/// A cluster under test with its publisher and its clients.
struct Ledger {
    cluster: Cluster,
    gateways: Gateways,
    readers: Vec<Reader>,
    listeners: Vec<(&'static str, Value, Listener)>,
    publisher: Publisher,
    gone: Option<Gone>,
    /// Where the admin servers of its nodes are, and who else comes to them.
    admins: Admins,
    stranger: Option<Stranger>,
    rng: StdRng,
}

/// What the stream has discarded.
struct Gone {
    entries: Vec<Entry>,
    /// The last sequence that is gone.
    up_to: Seq,
    /// The readers whose gateway had not had all of it.
    readers: BTreeSet<usize>,
}

/// Publishes one event after the other, each until the stream has it.
struct Publisher {
    stop: CancellationToken,
    published: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Publisher {
    fn start(producer: Producer, seed: u64, pause: Duration) -> Self {
        let (stop, published) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), Arc::clone(&published));
        let task = tokio::spawn(async move {
            let mut feed = Feed::new(seed);
            let mut pace = interval(pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.is_cancelled() {
                pace.tick().await;
                let number = count.load(Ordering::Relaxed);
                let event = if number % LARGE_EACH == 0 { large(number) } else { feed.event() };
                let event = event.id(format!("n-{number}"));
                // What was published and not acknowledged is published again, and known by its id.
                while !producer.try_publish(&event).await {}
                count.store(number + 1, Ordering::Relaxed);
            }
        });
        Self { stop, published, task }
    }

    /// Waits until so many more than now are in the stream.
    async fn more(&self, count: usize) {
        let enough = self.published.load(Ordering::Relaxed) + count;
        let published = async || (self.published.load(Ordering::Relaxed) >= enough).then_some(());
        eventually("further events are published", SETTLE, published).await;
    }

    async fn stop(self) -> usize {
        self.stop.cancel();
        self.task.await.unwrap();
        self.published.load(Ordering::Relaxed)
    }
}

impl Ledger {
    async fn start(name: &str, seed: u64, cluster: Cluster) -> Self {
        Self::start_with(name, seed, cluster, USUAL).await
    }

    async fn start_with(name: &str, seed: u64, mut cluster: Cluster, crowd: Crowd) -> Self {
        eprintln!("{name}: the seed is {seed}");
        let gateways: Gateways = Arc::new(Mutex::new(cluster.gateway_addresses().await));
        let mut feed = Feed::new(seed);
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
        let publisher = Publisher::start(cluster.producer().await, seed, crowd.pause);
        publisher.more(100).await;
        let admins = Arc::new(Mutex::new(cluster.admin_addresses().await));
        let rng = StdRng::seed_from_u64(seed);
        Self { cluster, gateways, readers, listeners, publisher, gone: None, admins, stranger: None, rng }
    }

    /// Lets faults happen one after the other, with events in between.
    async fn suffer(&mut self, faults: &[Fault]) {
        for fault in faults {
            eprintln!("fault: {fault:?}");
            if *fault == Fault::FreezeRouter {
                self.add_readers();
            }
            fault.happen(&mut self.cluster, &self.gateways, &mut self.rng).await;
            *self.admins.lock().unwrap() = self.cluster.admin_addresses().await;
            self.publisher.more(150).await;
        }
    }

    /// Lets a stranger come to every door from now on.
    fn invite_stranger(&mut self, seed: u64) {
        self.stranger = Some(Stranger::start(seed, &self.cluster, &self.gateways, &self.admins));
    }

    /// Lets faults happen in any order for so long.
    async fn suffer_chaos(&mut self, lasting: Duration) {
        let end = tokio::time::Instant::now() + lasting;
        while tokio::time::Instant::now() < end {
            let fault = Fault::any(&self.cluster, &mut self.rng);
            self.suffer(&[fault]).await;
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Some clients more, who subscribe in the course of the next seconds.
    fn add_readers(&mut self) {
        let mut feed = Feed::new(self.rng.random());
        for number in 0..LATE {
            let delay = Duration::from_millis(700) * number as u32;
            let nature = Nature { delay, ..fast(&self.cluster, &mut feed, number) };
            self.readers.push(Reader::start(nature, Arc::clone(&self.gateways), self.rng.random()));
        }
    }

    /// Cuts a gateway off, lets the stream discard some of what only the others have had, and mends the line.
    async fn discard(&mut self) {
        let gateway = self.cluster.gateways.choose(&mut self.rng).unwrap();
        let line = gateway.line.as_ref().unwrap();
        line.cut();
        let is_there = |reader: &Reader| reader.look(|record| record.gateway == gateway.id);
        let (cut_off, others): (Vec<_>, _) = self.readers.iter().enumerate().partition(|(_, reader)| is_there(reader));
        self.publisher.more(300).await;
        let before = self.cluster.log().await;
        let end = before.end();
        for (number, reader) in others.into_iter().filter(|(_, reader)| !reader.nature.is_slow) {
            reader.reach(&end, &format!("reader {number} has what was published meanwhile")).await;
        }
        let up_to = before.entries[before.entries.len() - 100].seq;
        self.cluster.discard(up_to).await;
        line.mend();
        let entries = before.entries.into_iter().filter(|entry| entry.seq <= up_to).collect();
        let readers = cut_off.into_iter().map(|(number, _)| number).collect();
        self.gone = Some(Gone { entries, up_to, readers });
        self.cluster.settled().await;
    }

    /// Stops the publisher, waits until everything has come, and checks each client's record.
    async fn close(mut self) -> Tally {
        if let Some(stranger) = self.stranger.take() {
            stranger.stop().await;
            self.cluster.settled().await;
            self.cluster.assert_bounded();
        }
        let published = self.publisher.stop().await;
        let began = tokio::time::Instant::now();
        self.readers.iter().for_each(Reader::hurry);
        let mut log = self.cluster.log().await;
        if let Some(gone) = &mut self.gone {
            log.entries.splice(..0, gone.entries.drain(..));
        }
        assert_eq!(log.entries.len(), published, "the stream holds what was published");
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
            total.let_go += tally.let_go;
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
        eprintln!("{published} published; {total:?}; the last was read {:.1?} after the last event", began.elapsed());
        assert!(total.received > published, "the filters of this seed match little");
        total
    }
}

/// A reader that reads fast. Where rates hold users, every other one is sent so little that none ever can.
fn fast(cluster: &Cluster, feed: &mut Feed, number: usize) -> Nature {
    if !cluster.is_shipped {
        return Nature::of(cluster, USERS[number % USERS.len()].to_owned(), feed.filter(), number);
    }
    let may_be_held = number.is_multiple_of(2);
    let filter = if may_be_held { feed.filter() } else { one_symbol(number) };
    Nature { may_be_held, ..Nature::of(cluster, format!("user {number}"), filter, number) }
}

/// A filter whose events no rate ever holds.
fn narrow(cluster: &Cluster, feed: &mut Feed, number: usize) -> Value {
    if cluster.is_shipped { one_symbol(number) } else { feed.filter() }
}

fn one_symbol(number: usize) -> Value {
    serde_json::json!({ "symbols": [SYMBOLS[number % SYMBOLS.len()]] })
}

fn every() -> Value {
    serde_json::json!({ "kinds": ["pattern", "market", "health", "alert", "backtest"] })
}

/// An event of 120 KB for slow readers alone: the kernel holds megabytes for them before a gateway has to.
fn large(number: usize) -> Outgoing {
    let priorities = ["low", "medium", "high", "critical"];
    let event = serde_json::json!({
        "alert_id": number,
        "type": "match",
        "note": "x".repeat(120_000),
        "priority": priorities[number / LARGE_EACH % priorities.len()],
    });
    Outgoing::json("alert", SLOW_USER, &event)
}

fn seed(or: u64) -> u64 {
    std::env::var("TICKWIRE_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(or)
}

fn chaos_lasts() -> Duration {
    let seconds = std::env::var("TICKWIRE_CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Processes die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_nodes_crash() {
    let cluster = Cluster::start_with(2, 2, &SETTINGS).await;
    let mut ledger = Ledger::start("crashes", seed(1), cluster).await;
    let faults =
        [Fault::KillGateway, Fault::KillRouter, Fault::KillBoth, Fault::KillCoordinator, Fault::RestartGateway];
    ledger.suffer(&faults).await;
    let tally = ledger.close().await;
    assert!(tally.let_go > 0, "slow readers are told that they are slow");
}

/// Operators do what operators do, and a router sleeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_nodes_come_and_go() {
    let cluster = Cluster::start_with(2, 2, &SETTINGS).await;
    let mut ledger = Ledger::start("operations", seed(2), cluster).await;
    let faults = [Fault::AddGateway, Fault::FreezeRouter, Fault::RollGateways, Fault::RemoveGateway];
    ledger.suffer(&faults).await;
    let tally = ledger.close().await;
    assert!(tally.let_go > 0, "slow readers are told that they are slow");
}

/// Lines to NATS are cut, carry nothing, or break in the middle of a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_lines_to_nats_break() {
    let cluster = Cluster::start_behind_lines(2, 2, &SETTINGS).await;
    let mut ledger = Ledger::start("lines", seed(4), cluster).await;
    for trouble in Trouble::ALL {
        ledger.suffer(&[Fault::LineOfRouter(trouble), Fault::LineOfGateway(trouble)]).await;
    }
    ledger.close().await;
}

/// The stream discards what a gateway that was cut off has not had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_stream_discards_is_told_and_nothing_else() {
    let settings = [&SETTINGS[..], &[("gateway.rebalance_rate", "0")]].concat();
    let cluster = Cluster::start_behind_lines(2, 2, &settings).await;
    let mut ledger = Ledger::start("discarding", seed(7), cluster).await;
    ledger.discard().await;
    ledger.publisher.more(150).await;
    let tally = ledger.close().await;
    assert!(tally.missing > 0, "there was something to discard");
}

/// The leader of the stream dies, with two copies left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_leader_of_the_stream_dies() {
    let settings = [&SETTINGS[..], &[("stream.replicas", "3")]].concat();
    let cluster = Cluster::start_on(NatsServer::start_cluster(3), 2, 2, &settings).await;
    let mut ledger = Ledger::start("leader", seed(5), cluster).await;
    ledger.suffer(&[Fault::KillNats, Fault::KillNats]).await;
    ledger.close().await;
}

/// Two thousand clients of a gateway that dies come back at once, to the only other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_crowd_comes_back_and_it_costs_no_more_than_the_range() {
    const CROWD: usize = 2_000;
    let mut cluster = Cluster::start_with(1, 2, &SETTINGS).await;
    let addresses = cluster.gateway_addresses().await;
    let gateways: Gateways = Arc::new(Mutex::new(vec![addresses[0]]));
    let reader = |number: usize| {
        // Each is a user of its own: what one user's sessions are given of the past at a time is bounded.
        let (user, filter) = (format!("user {number}"), one_symbol(number));
        let delay = Duration::from_millis(number as u64);
        let nature = Nature { delay, ..Nature::of(&cluster, user, filter, number) };
        Reader::start(nature, Arc::clone(&gateways), number as u64)
    };
    let readers: Vec<Reader> = (0..CROWD).map(reader).collect();
    for reader in &readers {
        eventually("a reader has subscribed", SETTLE, async || reader.look(|record| record.begin.clone())).await;
    }
    let publisher = Publisher::start(cluster.producer().await, 6, Duration::from_millis(20));
    publisher.more(50).await;
    let requests = "tickwire_router_replay_requests_total";
    let before = cluster.routers[0].metrics().await.get(requests);
    *gateways.lock().unwrap() = vec![addresses[1]];
    cluster.gateways.remove(0).process.kill();
    publisher.more(100).await;
    publisher.stop().await;
    let log = cluster.log().await;
    let end = log.end();
    for (number, reader) in readers.iter().enumerate() {
        let name = format!("reader {number}");
        reader.reach(&end, &name).await;
        assert_adds_up(&name, reader, &log, None);
    }
    let asked = cluster.routers[0].metrics().await.get(requests) - before;
    let gatherings = cluster.gateways[0].metrics().await.get("tickwire_gateway_gatherings_total");
    eprintln!("{asked} requests for replays of {gatherings} gatherings, for {CROWD} clients");
    assert!(gatherings < 100.0 && asked < f64::from(PARTITIONS) * gatherings + 100.0);
}

/// The defaults that ship, none softened, and a stranger at every door meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_with_the_defaults_that_ship_while_a_stranger_tries_every_door() {
    let cluster = Cluster::start_shipped(2, 2).await;
    let mut ledger = Ledger::start_with("shipped", seed(8), cluster, SHIPPED).await;
    ledger.invite_stranger(seed(8));
    let stall = Fault::LineOfGateway(Trouble::Stall);
    ledger.suffer(&[Fault::KillGateway, Fault::KillRouter, stall, Fault::KillNats]).await;
    ledger.close().await;
}

/// Everything, in any order, for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_happens_in_any_order() {
    let cluster = Cluster::start_behind_lines(2, 2, &SETTINGS).await;
    let mut ledger = Ledger::start("chaos", seed(3), cluster).await;
    ledger.suffer_chaos(chaos_lasts()).await;
    ledger.close().await;
}

/// The same with the defaults that ship, and a stranger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_happens_as_it_ships() {
    // With this one the stranger once stored what kept every replay from ending.
    let seed = seed(1_795_792_934);
    let cluster = Cluster::start_shipped(2, 2).await;
    let mut ledger = Ledger::start_with("chaos as it ships", seed, cluster, SHIPPED).await;
    ledger.invite_stranger(seed);
    ledger.suffer_chaos(chaos_lasts()).await;
    ledger.close().await;
}
