//! The ledger: a publisher records what it published, two hundred clients record what they got, and faults happen
//! meanwhile. In the end both sides must agree.
//!
//! Three of the tests use the default configuration, with hostile input on every interface. The others use settings
//! with which nodes notice each other sooner.
//!
//! `faults` has the faults, `book` the publisher and all clients, `reader` one client, `check` the comparison, and
//! `balancer` a load balancer. The faults are random, from a seed that is printed; one test uses a fresh seed each time.
//! `TICKWIRE_CHAOS_SEED` sets the seed, and `TICKWIRE_CHAOS_SECONDS` the duration of the random schedules: `make chaos`
//! sets both.

mod balancer;
pub(crate) mod book;
pub(crate) mod check;
pub(crate) mod faults;
pub(crate) mod reader;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tickwire_testkit::{NatsServer, eventually};

use crate::cluster::{Cluster, PARTITIONS};
use crate::ledger::book::{DEFAULTS_CROWD, Ledger, LedgerPublisher, one_symbol, seed};
use crate::ledger::check::assert_adds_up;
use crate::ledger::faults::{LedgerFault, LineOutage};
use crate::ledger::reader::{Gateways, Nature, Reader, SETTLE};

/// Settings for the clusters of a ledger: outboxes that a slow reader fills, but not the missed events of a few
/// seconds, and frequent positions.
const SETTINGS: [(&str, &str); 4] = [
    ("gateway.outbox_bytes", "524288"),
    ("gateway.heartbeat_interval", "3s"),
    ("gateway.drain_window", "1s"),
    ("gateway.slow_deadline", "5s"),
];

fn chaos_duration() -> Duration {
    let seconds = std::env::var("TICKWIRE_CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Kills processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_nodes_crash() {
    let cluster = Cluster::start_with(2, 2, &SETTINGS).await;
    let mut ledger = Ledger::start("crashes", seed(1), cluster).await;
    let faults = [
        LedgerFault::KillGateway,
        LedgerFault::KillRouter,
        LedgerFault::KillBoth,
        LedgerFault::KillCoordinator,
        LedgerFault::RestartGateway,
    ];
    ledger.inject(&faults).await;
    ledger.publish_until_slow_readers_drop().await;
    let tally = ledger.close().await;
    assert!(tally.announced_drops > 0, "slow readers get notices");
}

/// Adds, replaces and removes gateways, and freezes a router.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_nodes_join_leave_and_freeze() {
    let cluster = Cluster::start_with(2, 2, &SETTINGS).await;
    let mut ledger = Ledger::start("operations", seed(2), cluster).await;
    let faults =
        [LedgerFault::AddGateway, LedgerFault::FreezeRouter, LedgerFault::RollGateways, LedgerFault::RemoveGateway];
    ledger.inject(&faults).await;
    ledger.publish_until_slow_readers_drop().await;
    let tally = ledger.close().await;
    assert!(tally.announced_drops > 0, "slow readers get notices");
}

/// Cuts and stalls lines to NATS, and breaks them in the middle of a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_lines_to_nats_break() {
    let cluster = Cluster::start_behind_lines(2, 2, &SETTINGS).await;
    let mut ledger = Ledger::start("lines", seed(4), cluster).await;
    for trouble in LineOutage::ALL {
        ledger.inject(&[LedgerFault::LineOfRouter(trouble), LedgerFault::LineOfGateway(trouble)]).await;
    }
    ledger.close().await;
}

/// The stream discards events that a gateway missed while it was cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_get_exact_gaps_for_discarded_events() {
    let settings = [&SETTINGS[..], &[("gateway.rebalance_rate", "0")]].concat();
    let cluster = Cluster::start_behind_lines(2, 2, &settings).await;
    let mut ledger = Ledger::start("discarding", seed(7), cluster).await;
    ledger.discard().await;
    ledger.publisher.more(150).await;
    let tally = ledger.close().await;
    assert!(tally.missing > 0, "some events were discarded");
}

/// The leader of the stream dies, with two copies left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_leader_of_the_stream_dies() {
    let settings = [&SETTINGS[..], &[("stream.replicas", "3")]].concat();
    let cluster = Cluster::start_on(NatsServer::start_cluster(3), 2, 2, &settings).await;
    let mut ledger = Ledger::start("leader", seed(5), cluster).await;
    ledger.inject(&[LedgerFault::KillNats, LedgerFault::KillNats]).await;
    ledger.close().await;
}

/// Two thousand clients of a gateway that dies connect again at once, to the only other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_2000_clients_return_and_the_range_is_read_once() {
    const CROWD: usize = 2_000;
    let mut cluster = Cluster::start_with(1, 2, &SETTINGS).await;
    let addresses = cluster.gateway_addresses().await;
    let gateways: Gateways = Arc::new(Mutex::new(vec![addresses[0]]));
    let reader = |number: usize| {
        // Each has its own user, since the backfill of one user is bounded.
        let (user, filter) = (format!("user {number}"), one_symbol(number));
        let delay = Duration::from_millis(number as u64);
        let nature = Nature { delay, ..Nature::of(&cluster, user, filter, number) };
        Reader::start(nature, Arc::clone(&gateways), number as u64)
    };
    let readers: Vec<Reader> = (0..CROWD).map(reader).collect();
    for reader in &readers {
        eventually("a reader has subscribed", SETTLE, async || reader.look(|record| record.begin.clone())).await;
    }
    let publisher = LedgerPublisher::start(cluster.producer().await, 6, Duration::from_millis(20), true);
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
    let cohorts = cluster.gateways[0].metrics().await.get("tickwire_gateway_cohorts_total");
    eprintln!("{asked} replay requests of {cohorts} cohorts, for {CROWD} clients");
    // On a slow machine clients return one after the other, and need more cohorts; each alone would need one.
    assert!(
        cohorts < CROWD as f64 / 4.0 && asked < f64::from(PARTITIONS) * 2.0 * (cohorts + 4.0),
        "{asked}, {cohorts}"
    );
}

/// The default configuration, with hostile input on every interface.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_with_default_settings_and_hostile_input() {
    let cluster = Cluster::start_with_defaults(2, 2).await;
    let mut ledger = Ledger::start_with("shipped", seed(8), cluster, DEFAULTS_CROWD).await;
    ledger.start_stranger(seed(8));
    let stall = LedgerFault::LineOfGateway(LineOutage::Stall);
    ledger.inject(&[LedgerFault::KillGateway, LedgerFault::KillRouter, stall, LedgerFault::KillNats]).await;
    ledger.close().await;
}

/// All faults in random order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_under_random_faults() {
    let cluster = Cluster::start_behind_lines(2, 2, &SETTINGS).await;
    let mut ledger = Ledger::start("chaos", seed(3), cluster).await;
    ledger.inject_random_faults(chaos_duration()).await;
    ledger.close().await;
}

/// The same with the default configuration and hostile input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_under_random_faults_with_default_settings() {
    // With this seed the stranger once stored a message that kept every replay from ending.
    chaos_with_defaults(seed(1_795_792_934)).await;
}

/// The same from a fresh seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_under_random_faults_from_a_fresh_seed() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    chaos_with_defaults(seed(now.as_secs())).await;
}

async fn chaos_with_defaults(seed: u64) {
    let cluster = Cluster::start_with_defaults(2, 2).await;
    let mut ledger = Ledger::start_with("chaos with defaults", seed, cluster, DEFAULTS_CROWD).await;
    ledger.start_stranger(seed);
    ledger.inject_random_faults(chaos_duration()).await;
    ledger.close().await;
}
