//! Many sockets, straight at the gateways, and what they cost: processor time for each delivery, and memory for each
//! socket, of the gateways and of the kernel.

use std::fs;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::hosts::Host;
use super::load::{Feed, Load};
use super::site::Site;
use crate::node::TestNode;

/// To how many sockets each event goes.
pub(super) const EACH: u64 = 200;

/// The fewest symbols, of which each socket has one: no user gets more than `gateway.rate`.
const LEAST_SYMBOLS: u64 = 25;

/// The most sockets of one process of the load: each needs a file descriptor.
pub(super) const MOST_OF_A_PROCESS: u64 = 17_000;

/// How long events are published, in seconds; after how long, and for how long processor time is measured.
const FEED: u64 = 40;
const WARM_UP: Duration = Duration::from_secs(8);
const MEASURED: Duration = Duration::from_secs(25);

/// How long the sockets of all processes may take to connect, in seconds.
const CONNECT: u64 = 180;

/// How long nodes may take to be ready, and to have closed all sessions.
const READY: Duration = Duration::from_secs(60);

/// How often that is checked.
const PAUSE: Duration = Duration::from_millis(200);

/// A cluster, and the hosts of its load.
pub(super) struct Crowd {
    site: Site,
    hosts: Vec<Host>,
    producer: Host,
}

/// The memory in use, in KB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// The gateways' resident memory, and their proportional part of it.
    resident: u64,
    proportional: u64,
    /// What the kernel holds, for both ends of each connection: slabs, tables of pages, stacks.
    kernel: u64,
    /// The buffers of TCP; parts of them are in slabs.
    tcp: u64,
}

/// The result of one run.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    sockets: u64,
    rate: u64,
    deliveries: u64,
    /// While it was measured.
    deliveries_a_second: f64,
    /// In seconds for a delivery: of the gateways, and of all processes, with the load.
    cpu_of_gateways: f64,
    pub(super) cpu_of_all: f64,
    /// Without sockets, with idle ones, and under load.
    empty: Memory,
    idle: Memory,
    loaded: Memory,
    p50_ms: f64,
    pub(super) p99_ms: f64,
    max_ms: f64,
}

impl Memory {
    fn read(gateways: &[TestNode]) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap();
        let kernel = ["Slab:", "PageTables:", "KernelStack:"].iter().map(|name| field(&meminfo, name, name)).sum();
        let pages = field(&sockets, "TCP:", "mem");
        Self {
            resident: gateways.iter().map(|gateway| gateway.process.resident_kb()).sum(),
            proportional: gateways.iter().map(|gateway| gateway.process.proportional_kb()).sum(),
            kernel,
            tcp: pages * rustix::param::page_size() as u64 / 1_024,
        }
    }
}

/// The number after `name` in the line that begins with `line`.
fn field(text: &str, line: &str, name: &str) -> u64 {
    let found = text.lines().find(|found| found.starts_with(line)).unwrap();
    found.split_whitespace().skip_while(|word| *word != name).nth(1).unwrap().parse().unwrap()
}

impl Crowd {
    /// Waits until the cluster is ready.
    pub(super) async fn new(mut site: Site, hosts: Vec<Host>, producer: Host) -> Self {
        let end = Instant::now() + READY;
        while !site.is_ready().await {
            assert!(Instant::now() < end, "the nodes are not ready within {READY:?}");
            sleep(PAUSE).await;
        }
        Self { site, hosts, producer }
    }

    /// Connects so many sockets, publishes so many events a second, and checks that each socket gets exactly its
    /// events.
    pub(super) async fn measure(&self, sockets: u64, rate: u64) -> Measured {
        self.until_empty().await;
        let (home, arguments) = (self.site.home().to_owned(), self.site.client_arguments());
        let feed = Feed { symbols: (sockets / EACH).max(LEAST_SYMBOLS), rate, seconds: FEED };
        let empty = Memory::read(&self.site.gateways);
        let processes = sockets.div_ceil(MOST_OF_A_PROCESS);
        let mut loads = Vec::new();
        for (number, host) in (0..processes).zip(&self.hosts) {
            let count = sockets / processes + u64::from(number < sockets % processes);
            let mut load = Load::listen(host, &home, &arguments, count, feed, CONNECT);
            // One after the other, so that each connects at the pace for which it is made.
            load.ready().await;
            eprintln!("{count} sockets of {sockets} are ready at {}", host.name);
            loads.push(load);
        }
        let idle = Memory::read(&self.site.gateways);
        let mut publisher = Load::publish(&self.producer, &home, &self.site.servers.login("producer"), feed);
        sleep(WARM_UP).await;
        let before = self.usage(&loads, &publisher).await;
        let start = Instant::now();
        sleep(MEASURED).await;
        let after = self.usage(&loads, &publisher).await;
        let seconds = start.elapsed().as_secs_f64();
        let loaded = Memory::read(&self.site.gateways);
        assert_eq!(publisher.process.exit(), None, "events must be published while they are measured");

        let published = publisher.figures().await.published;
        assert_eq!(published, rate * FEED, "events were published for the whole time");
        let (mut deliveries, mut p50_ms, mut p99_ms, mut max_ms) = (0, 0.0_f64, 0.0_f64, 0.0_f64);
        for load in &mut loads {
            let figures = load.figures().await;
            assert!(figures.exact && figures.gaps == 0 && figures.dropped == 0, "{sockets} sockets: {figures:?}");
            deliveries += figures.deliveries;
            // The worst process.
            p50_ms = p50_ms.max(figures.latency_ms.p50);
            p99_ms = p99_ms.max(figures.latency_ms.p99);
            max_ms = max_ms.max(figures.latency_ms.max);
        }
        let measured = after.deliveries - before.deliveries;
        Measured {
            sockets,
            rate,
            deliveries,
            deliveries_a_second: measured / seconds,
            cpu_of_gateways: (after.gateways - before.gateways).as_secs_f64() / measured,
            cpu_of_all: (after.all - before.all).as_secs_f64() / measured,
            empty,
            idle,
            loaded,
            p50_ms,
            p99_ms,
            max_ms,
        }
    }

    /// Waits until the gateways have closed the sessions of an earlier run.
    async fn until_empty(&self) {
        let end = Instant::now() + READY;
        while self.site.gateway_states().await.iter().any(|state| state.sessions > 0.0) {
            assert!(Instant::now() < end, "sessions are open {READY:?} after their clients have ended");
            sleep(PAUSE).await;
        }
    }

    async fn usage(&self, loads: &[Load], publisher: &Load) -> Usage {
        let Site { gateways, routers, servers, .. } = &self.site;
        let gateways: Duration = gateways.iter().map(|node| node.process.cpu()).sum();
        let routers: Duration = routers.iter().map(|node| node.process.cpu()).sum();
        let servers: Duration = servers.processes.iter().map(|server| server.cpu()).sum();
        let loads: Duration = loads.iter().chain([publisher]).map(|load| load.process.cpu()).sum();
        let deliveries = self.site.gateway_states().await.iter().map(|state| state.deliveries).sum();
        Usage { gateways, all: gateways + routers + servers + loads, deliveries }
    }
}

/// What has been used, and delivered, since the start.
struct Usage {
    gateways: Duration,
    all: Duration,
    deliveries: f64,
}

/// The runs, side by side.
pub(super) fn table(runs: &[Measured]) -> String {
    let row = |name: &str, value: &dyn Fn(&Measured) -> String| {
        let values: String = runs.iter().map(|run| format!(" {:>14}", value(run))).collect();
        format!("{name:<50}{values}\n")
    };
    // Bytes for each socket, above what there was without sockets.
    let growth = |name: &str, of: fn(&Memory) -> u64| {
        let bytes = |run: &Measured, memory: &Memory| {
            format!("{:.0}", (of(memory) as f64 - of(&run.empty) as f64) * 1_024.0 / run.sockets as f64)
        };
        row(&format!("{name}, idle, bytes per socket"), &|run| bytes(run, &run.idle))
            + &row(&format!("{name}, under load, bytes per socket"), &|run| bytes(run, &run.loaded))
    };
    [
        row("sockets", &|run| run.sockets.to_string()),
        row("events a second", &|run| run.rate.to_string()),
        row("deliveries a second", &|run| format!("{:.0}", run.deliveries_a_second)),
        row("deliveries, all exact", &|run| run.deliveries.to_string()),
        row("CPU of the gateways, µs per delivery", &|run| format!("{:.2}", run.cpu_of_gateways * 1e6)),
        row("CPU of all processes, µs per delivery", &|run| format!("{:.2}", run.cpu_of_all * 1e6)),
        growth("resident memory of gateways", |memory| memory.resident),
        growth("proportional memory of gateways", |memory| memory.proportional),
        growth("kernel, both ends", |memory| memory.kernel),
        growth("TCP buffers, both ends", |memory| memory.tcp),
        row("latency p50, ms", &|run| format!("{:.1}", run.p50_ms)),
        row("latency p99, ms", &|run| format!("{:.1}", run.p99_ms)),
        row("latency max, ms", &|run| format!("{:.1}", run.max_ms)),
    ]
    .concat()
}
