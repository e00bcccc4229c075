//! Scaling under load, on hosts with addresses of their own: three nats-servers with `deploy/nats`, nodes with the
//! default configuration, HAProxy with `deploy/haproxy`, and load by `tickwire bench attach`. `tools/scale-test` runs
//! one of the two tests in namespaces of its own, as root.
//!
//! `hosts` makes the hosts, `servers` and `site` the cluster, and `load` the clients. `steps` adds, removes and
//! restarts nodes while `watch` counts reconnects. `crowd` measures many sockets.

mod crowd;
mod hosts;
mod load;
mod servers;
mod site;
mod steps;
mod watch;

use std::net::Ipv4Addr;

use self::crowd::{Crowd, EACH, MOST_OF_A_PROCESS};
use self::hosts::Host;
use self::load::{Feed, Load};
use self::site::Site;
use self::steps::Steps;

/// The clients that stay connected, at how many processes of the load. Each process has an address of its own, since
/// HAProxy limits the connections of one address.
const CLIENTS: u64 = 1_000;
const LOADS: u8 = 4;

/// What they get. The steps take about four minutes of it.
const FEED: Feed = Feed { symbols: 100, rate: 200, seconds: 280 };

/// How long it may take from the last connected client to the first event, in seconds.
const START: u64 = 60;

/// The sockets of the crowd, and how many times as many they are as those that they are compared with.
const SOCKETS: u64 = 100_000;
const TIMES: u64 = 20;

/// The gateways that hold the crowd.
const CROWD_GATEWAYS: u8 = 6;

/// The most events a second for the crowd: one for each socket.
const MOST_RATE: u64 = 500;

/// The first rate, which shows what this machine can do, and the part of its processors that the crowd may use by that.
/// A delivery costs up to half more with all sockets, whose state no cache holds, so the crowd uses more than this part.
const FIRST_RATE: u64 = 200;
const PART: f64 = 0.4;

/// The highest 99th percentile of the latency that counts as bounded, in milliseconds.
const BOUNDED_MS: f64 = 1_000.0;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => default,
    }
}

/// The hosts of the load, and that of the publisher.
fn load_hosts(count: u64) -> (Vec<Host>, Host) {
    let create = |number: u8| Host::create(&format!("load-{number}"), Ipv4Addr::new(10, 77, 4, number));
    let count = u8::try_from(count).unwrap();
    ((1..=count).map(create).collect(), Host::create("producer", Ipv4Addr::new(10, 77, 5, 1)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "changes the network: `make scale-test` runs it in namespaces"]
async fn nothing_is_lost_and_sessions_stay_balanced_while_the_cluster_is_scaled_and_restarted() {
    let clients = number("TICKWIRE_SCALE_CLIENTS", CLIENTS) / u64::from(LOADS) * u64::from(LOADS);
    let site = Site::start(3, 4, true).await;
    let (hosts, producer) = load_hosts(LOADS.into());
    let mut steps = Steps::new(site, clients);
    steps.start(1, 2).await;
    let (home, arguments) = (steps.site.home().to_owned(), steps.site.client_arguments());
    let each = clients / u64::from(LOADS);
    let mut loads: Vec<Load> =
        hosts.iter().map(|host| Load::listen(host, &home, &arguments, each, FEED, START)).collect();
    for load in &mut loads {
        load.ready().await;
    }
    Steps::print_head();
    steps.connected().await;
    let mut publisher = Load::publish(&producer, &home, &steps.site.servers.login("producer"), FEED);
    steps.scale_gateways(4).await;
    steps.scale_routers(3).await;
    steps.restart_nodes().await;
    steps.restart_servers().await;
    steps.scale_routers(1).await;
    steps.scale_gateways(2).await;
    assert_eq!(publisher.process.exit(), None, "the steps must take less time than the events");

    let published = publisher.figures().await.published;
    let mut deliveries = 0;
    for load in &mut loads {
        let figures = load.figures().await;
        assert!(figures.exact && figures.gaps == 0 && figures.dropped == 0, "{figures:?}");
        deliveries += figures.deliveries;
        eprintln!(
            "{each} clients: {} deliveries exact, {} reconnects, latency p50 {:.1} ms, p99 {:.1} ms, at most {:.1} ms",
            figures.deliveries,
            figures.reconnects,
            figures.latency_ms.p50,
            figures.latency_ms.p99,
            figures.latency_ms.max
        );
    }
    assert_eq!(
        deliveries,
        published * clients / FEED.symbols,
        "each symbol has as many events, and each client one symbol"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "changes the network: `make scale-test-100k` runs it in namespaces"]
async fn six_gateways_deliver_exactly_to_a_hundred_thousand_sockets() {
    let sockets = number("TICKWIRE_SCALE_SOCKETS", SOCKETS);
    let mut site = Site::start(1, CROWD_GATEWAYS, false).await;
    site.scale_routers(1);
    site.scale_gateways(CROWD_GATEWAYS.into());
    let (hosts, producer) = load_hosts(sockets.div_ceil(MOST_OF_A_PROCESS));
    let crowd = Crowd::new(site, hosts, producer).await;

    let first = crowd.measure(sockets / TIMES, FIRST_RATE).await;
    let processors = std::thread::available_parallelism().unwrap().get() as f64;
    let fits = processors * PART / first.cpu_of_all / EACH as f64;
    let rate = number("TICKWIRE_SCALE_RATE", (fits as u64).clamp(1, MOST_RATE));
    let few = crowd.measure(sockets / TIMES, rate).await;
    let all = crowd.measure(sockets, rate).await;
    eprintln!("{}", crowd::table(&[first, few, all.clone()]));
    assert!(all.p99_ms <= BOUNDED_MS, "the latency is not bounded at {rate} events/s; set TICKWIRE_SCALE_RATE lower");
}
