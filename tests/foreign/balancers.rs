//! Debian's nginx and HAProxy in front of two gateways, with the configurations of `docs/balancers.md` and
//! `deploy/haproxy`. `deployed` has the tests of what only the latter does.

mod deployed;
pub(super) mod dns;
mod front;
mod running;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_client::Message;
use tickwire_core::ids::Seq;
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::codes::CloseCode;
use tickwire_testkit::eventually;
use tokio::time::sleep;

use self::dns::Dns;
use self::running::{ALL, BEHIND, Balancer, Site, Sort};
use super::tools::{is_full, report};
use crate::cluster::Cluster;
use crate::feed::{self, SYMBOLS};
use crate::listener::Listener;
use crate::node::{TestNode, get};
use crate::oracle::{assert_exact, filter};

/// How many gateways there are.
const GATEWAYS: u8 = 2;

/// How many clients connect through each balancer, and how many more after a gateway has restarted.
const CLIENTS: usize = 40;
const LATER: usize = 20;

/// The allowed difference of gateways from their share: nginx counts connections, and HAProxy lets a gateway have at
/// most 1.15 times the mean, and with so few clients some more by rounding.
fn most_imbalance(sort: Sort) -> f64 {
    match sort {
        Sort::Nginx => 0.2,
        Sort::Haproxy => 0.35,
    }
}

/// How long an idle client is observed: longer than any limit of a balancer.
const IDLE: Duration = Duration::from_secs(90);

/// How often an idle client gets a heartbeat, in seconds (`gateway.heartbeat_interval`).
const HEARTBEAT: u64 = 15;

/// The time between two events.
const PAUSE: Duration = Duration::from_millis(25);

/// The deadline of any step. Default settings notice deaths later than those of other tests.
const DEADLINE: Duration = Duration::from_secs(90);

/// A file of the repository.
fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_page_states_the_bound_of_the_shipped_haproxy() {
    let percent = |line: &str| line.trim().strip_prefix("hash-balance-factor ")?.parse::<u32>().ok();
    let bounds: Vec<u32> = text("deploy/haproxy/haproxy.cfg").lines().filter_map(percent).collect();
    assert!(bounds.len() == 2 && bounds[0] == bounds[1], "{bounds:?}");
    let stated = format!("No gateway gets more than {}.{:02} times", bounds[0] / 100, bounds[0] % 100);
    let page = text("docs/balancers.md").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(page.contains(&stated), "{stated}");
}

/// A client through a balancer.
struct BalancedClient {
    user: String,
    wanted: Value,
    listener: Listener,
    /// The last sequence of the stream when it connected; no event was published at the time.
    since: Seq,
}

impl BalancedClient {
    async fn connect(balancer: &Balancer, user: String, number: usize, since: Seq) -> Self {
        let wanted = json!({ "symbols": [SYMBOLS[number % SYMBOLS.len()], SYMBOLS[(number + 1) % SYMBOLS.len()]] });
        let listener = Listener::connect(&[balancer.address], &user, Encoding::ALL[number % 2]).await;
        listener.subscribe("mine", &wanted).await;
        Self { user, wanted, listener, since }
    }

    /// Its gateway, according to the last welcome that it read.
    fn gateway(&self) -> String {
        let connected = |message: &Message| match message {
            Message::Connected { welcome } => Some(welcome.gateway.to_string()),
            _ => None,
        };
        self.listener.others.iter().rev().find_map(connected).unwrap()
    }

    /// The close codes of its connections.
    fn ends(&self) -> Vec<Option<u16>> {
        let end = |message: &Message| match message {
            Message::Disconnected { code, .. } => Some(*code),
            _ => None,
        };
        self.listener.others.iter().filter_map(end).collect()
    }
}

/// One balancer with its clients.
struct Side {
    sort: Sort,
    balancer: Balancer,
    clients: Vec<BalancedClient>,
    idle: BalancedClient,
    _home: TempDir,
}

impl Side {
    async fn start(sort: Sort, site: &Site, dns: &Dns) -> Self {
        let home = TempDir::with_prefix("tickwire-e2e-balancer-").unwrap();
        let balancer = Balancer::start(sort, home.path(), site, dns);
        eventually("the balancer passes requests on", DEADLINE, async || {
            (get(balancer.address, "/").await.0 == 200).then_some(())
        })
        .await;
        let idle = BalancedClient::connect(&balancer, format!("{sort:?}-idle"), 0, Seq(0)).await;
        let mut side = Self { sort, balancer, clients: Vec::new(), idle, _home: home };
        side.add(CLIENTS, Seq(0)).await;
        side
    }

    /// Further clients, all at once.
    async fn add(&mut self, count: usize, since: Seq) {
        let Self { sort, balancer, clients, .. } = self;
        let numbers = clients.len()..clients.len() + count;
        let new = numbers.map(|number| BalancedClient::connect(balancer, format!("{sort:?}-{number}"), number, since));
        clients.extend(futures_util::future::join_all(new).await);
    }

    /// Makes each client read all messages so far.
    async fn catch_up(&mut self, cluster: &Cluster) {
        let end = cluster.log().await.end();
        for client in &mut self.clients {
            client.listener.catch_up(&end).await;
        }
    }

    /// The number of these clients at each gateway.
    fn spread(clients: &[BalancedClient]) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for client in clients {
            *spread.entry(client.gateway()).or_default() += 1;
        }
        spread
    }
}

/// The number of sessions of these gateways.
async fn sessions(gateways: &mut [TestNode]) -> f64 {
    let mut sessions = 0.0;
    for gateway in gateways {
        sessions += gateway.metrics().await.get("tickwire_gateway_sessions");
    }
    sessions
}

/// Waits until these gateways have this many sessions.
async fn until_sessions(gateways: &mut [TestNode], count: usize) {
    eventually(&format!("{count} sessions"), DEADLINE, async || {
        (sessions(gateways).await == count as f64).then_some(())
    })
    .await;
}

/// Starts a gateway behind the balancers.
fn start_gateway(cluster: &mut Cluster, site: &Site, number: usize) -> TestNode {
    let [listen, admin] = site.settings(number);
    cluster.node_with("gateway", &[BEHIND, (listen.0, &listen.1), (admin.0, &admin.1)])
}

#[test]
fn documented_timeouts_exceed_the_heartbeat_interval() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/config/reference.toml");
    let ships = format!("heartbeat_interval = \"{HEARTBEAT}s\"");
    assert!(fs::read_to_string(reference).unwrap().lines().any(|line| line == ships));
    for sort in [Sort::Nginx, Sort::Haproxy] {
        for limit in sort.limits() {
            assert!(limit >= HEARTBEAT * 5 / 2 && limit < IDLE.as_secs(), "{sort:?}: {limit} s");
        }
    }
}

#[tokio::test]
async fn balancers_spread_clients_and_fail_over() {
    let mut cluster = Cluster::as_shipped().await;
    cluster.add_router();
    let (site, dns) = (Site::of(GATEWAYS), Dns::start().await);
    dns.set(ALL, &site.addresses);
    for number in 0..usize::from(GATEWAYS) {
        let gateway = start_gateway(&mut cluster, &site, number);
        cluster.gateways.push(gateway);
    }
    cluster.settled().await;
    let mut sides = [Side::start(Sort::Nginx, &site, &dns).await, Side::start(Sort::Haproxy, &site, &dns).await];

    // Idle and active clients stay connected, and the gateways are balanced.
    if is_full() {
        sleep(IDLE).await;
    }
    let producer = cluster.producer().await;
    let flow = || producer.flow(PAUSE, |number| feed::pattern(SYMBOLS[number % SYMBOLS.len()], number));
    let first = flow();
    first.more(50).await;
    for side in &mut sides {
        let log = cluster.log().await;
        side.idle.listener.catch_up(&log.end()).await;
        side.catch_up(&cluster).await;
        // Gateways that started one after the other may rebalance some clients; a balancer ends no connection.
        let ends: Vec<_> = side.clients.iter().chain([&side.idle]).flat_map(BalancedClient::ends).collect();
        assert!(ends.iter().all(|end| *end == Some(CloseCode::Moved.code())), "{:?}: {ends:?}", side.sort);
        let spread = Side::spread(&side.clients);
        let share = CLIENTS as f64 / f64::from(GATEWAYS);
        let is_level = |count: &usize| (*count as f64 - share).abs() <= share * most_imbalance(side.sort);
        assert!(spread.len() == usize::from(GATEWAYS) && spread.values().all(is_level), "{:?}: {spread:?}", side.sort);
        report(&format!("balancers/{:?}/level", side.sort), &format!("{:?} clients", spread.values()));
    }
    // A stopping gateway closes its clients, and they connect to the other one.
    let mut leaving = cluster.gateways.remove(0);
    let left = leaving.id.clone();
    leaving.process.terminate();
    assert_eq!(leaving.process.wait(DEADLINE).await.code(), Some(0), "{}", leaving.process.stderr());
    until_sessions(&mut cluster.gateways, 2 * (CLIENTS + 1)).await;
    first.more(50).await;
    for side in &mut sides {
        let before = Side::spread(&side.clients);
        side.catch_up(&cluster).await;
        assert_eq!(Side::spread(&side.clients).len(), 1, "{:?}", side.sort);
        let draining = Some(CloseCode::Draining.code());
        // For any handling of their next attempts by the balancer.
        let ends: Vec<_> = side.clients.iter().map(BalancedClient::ends).collect();
        let drained = ends.iter().filter(|ends| ends.contains(&draining)).count();
        assert_eq!(before.get(&left), Some(&drained), "{:?}: {before:?}, {ends:?}", side.sort);
    }

    let mut published = first.stop().await;
    let since = cluster.log().await.entries.last().unwrap().seq;

    // It restarts at its address, and new clients connect to it.
    let back = start_gateway(&mut cluster, &site, 0);
    cluster.gateways.insert(0, back);
    cluster.settled().await;
    let mut scouts: Vec<BalancedClient> = Vec::new();
    for side in &mut sides {
        eventually("the balancer uses the restarted gateway", DEADLINE, async || {
            let number = scouts.len();
            scouts.push(
                BalancedClient::connect(&side.balancer, format!("{:?}-scout-{number}", side.sort), 0, since).await,
            );
            (sessions(&mut cluster.gateways[..1]).await > 0.0).then_some(())
        })
        .await;
        side.add(LATER, since).await;
    }

    let second = flow();
    second.more(50).await;

    // The other one dies, and all its clients resume.
    cluster.gateways.remove(1).process.kill();
    until_sessions(&mut cluster.gateways, 2 * (CLIENTS + LATER + 1) + scouts.len()).await;
    second.more(50).await;
    published += second.stop().await;
    for side in &mut sides {
        side.catch_up(&cluster).await;
        let log = cluster.log().await;
        for BalancedClient { user, wanted, listener, since } in &side.clients {
            let mut due = log.matching(user, &[filter(wanted)]);
            due.retain(|entry| entry.seq > *since);
            assert_exact(user, &listener.events, &listener.gaps, &due);
            let is_whole = |message: &Message| {
                !matches!(message, Message::Interrupted | Message::Notice(_) | Message::Resumed { complete: false })
            };
            assert!(listener.others.iter().all(is_whole), "{user}: {:?}", listener.others);
        }
        assert_eq!(Side::spread(&side.clients).len(), 1, "{:?}", side.sort);
        report(&format!("balancers/{:?}", side.sort), &format!("{published} events, exact through a drain and a kill"));
    }

    // The logs have no name and no token of a client.
    for side in &sides {
        let log = side.balancer.log();
        let upgrades = log.lines().filter(|line| line.contains("/v1/stream 101")).count();
        assert!(upgrades >= LATER && !log.contains("user="), "{:?}: {log}", side.sort);
        // Nor has what they report of the gateway that was killed.
        let errors = side.balancer.process.stderr();
        assert!(!errors.contains("user="), "{:?}: {errors}", side.sort);
    }
}
