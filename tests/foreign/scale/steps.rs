//! The steps: nodes are added, removed and started again while clients are connected. After each, every gateway must
//! have its share of the sessions, and no step may make more clients reconnect at a time than the configuration says.

use std::time::Duration;

use tokio::time::Instant;
use toml::Table;

use super::servers::SERVERS;
use super::site::{GatewayState, Site};
use super::watch::Watch;

/// How far a gateway may be from the mean.
const MOST_IMBALANCE: f64 = 0.2;

/// How long a step may take until everything is ready and in balance.
const STEP: Duration = Duration::from_secs(90);

/// How long nobody reconnects at the end of a step: a rebalance takes a turn each second.
const QUIET: Duration = Duration::from_secs(3);

/// How long after a gateway has started a step ends at the earliest: when a rebalance has begun, if there is one
/// (`gateway.rebalance_cooldown` is 10 s, and a node needs a moment to start).
const JOINED: Duration = Duration::from_secs(14);

/// The fewest sessions that a rebalance sends away in a second.
const LEAST_REBALANCED: f64 = 10.0;

/// A cluster under steps.
pub(super) struct Steps {
    pub(super) site: Site,
    clients: f64,
    watch: Watch,
    /// When gateways were started the last time.
    joining_since: Instant,
    /// The most reconnects in a second that this step may cause, by the configuration.
    allowed: f64,
    defaults: Defaults,
}

/// What ships, of the rates at which sessions move.
struct Defaults {
    /// In seconds.
    drain_window: f64,
    /// The part of the sessions in a second.
    rebalance_rate: f64,
    admission_rate: f64,
}

impl Defaults {
    fn read() -> Self {
        let reference: Table = include_str!("../../../node/config/reference.toml").parse().unwrap();
        let gateway = &reference["gateway"];
        let number = |key: &str| gateway[key].as_integer().unwrap() as f64;
        let drain_window = gateway["drain_window"].as_str().unwrap();
        Self {
            drain_window: drain_window.strip_suffix('s').unwrap().parse().unwrap(),
            rebalance_rate: number("rebalance_rate") / 100.0,
            admission_rate: number("admission_rate"),
        }
    }
}

impl Steps {
    pub(super) fn new(site: Site, clients: u64) -> Self {
        let (watch, defaults) = (Watch::new(), Defaults::read());
        Self { site, clients: clients as f64, watch, joining_since: Instant::now(), allowed: 0.0, defaults }
    }

    /// Prints the head of the table.
    pub(super) fn print_head() {
        eprintln!(
            "{:<26} {:>7}  {:<28} {:>10} {:>11} {:>8}",
            "step", "seconds", "sessions", "reconnects", "most/second", "allowed"
        );
    }

    /// Starts the first nodes.
    pub(super) async fn start(&mut self, routers: usize, gateways: usize) {
        self.site.scale_routers(routers);
        self.site.scale_gateways(gateways);
        self.joining_since = Instant::now();
        self.until_ready().await;
    }

    /// Waits until everything is ready.
    async fn until_ready(&mut self) {
        let end = Instant::now() + STEP;
        while !(self.site.have_ended() && self.site.is_ready().await) {
            assert!(Instant::now() < end, "the nodes are not ready within {STEP:?}");
            self.watch.look(&self.site).await;
        }
    }

    /// The clients have connected.
    pub(super) async fn connected(&mut self) {
        self.begin();
        self.allowed = self.defaults.admission_rate * self.site.gateways.len() as f64;
        self.settle("start").await;
    }

    /// Starts or stops gateways, all at once.
    pub(super) async fn scale_gateways(&mut self, count: usize) {
        self.begin();
        let states = self.site.gateway_states().await;
        let name = format!("gateways {} to {count}", states.len());
        self.allowed = if count > states.len() {
            self.joining_since = Instant::now();
            self.rebalanced(&states)
        } else {
            states[count..].iter().map(|state| state.sessions / self.defaults.drain_window).sum()
        };
        self.site.scale_gateways(count);
        self.settle(&name).await;
    }

    /// Starts or stops routers, all at once. No client notices.
    pub(super) async fn scale_routers(&mut self, count: usize) {
        self.begin();
        let name = format!("routers {} to {count}", self.site.routers.len());
        self.site.scale_routers(count);
        self.settle(&name).await;
    }

    /// Restarts routers and gateways, one after the other. The next gateway waits until the sessions are in balance
    /// again.
    pub(super) async fn restart_nodes(&mut self) {
        self.begin();
        for at in 0..self.site.routers.len() {
            self.restart_node("router", at).await;
        }
        for at in 0..self.site.gateways.len() {
            let states = self.site.gateway_states().await;
            let drained = states[at].sessions / self.defaults.drain_window;
            self.allowed = self.allowed.max(drained).max(self.rebalanced(&states));
            self.restart_node("gateway", at).await;
            self.balanced(&format!("the restart of gateway {}", at + 1)).await;
        }
        self.settle("rolling restart of nodes").await;
    }

    async fn restart_node(&mut self, role: &str, at: usize) {
        let end = Instant::now() + STEP;
        let name = self.site.take_down(role, at);
        while !self.site.have_ended() {
            assert!(Instant::now() < end, "{name} has not ended within {STEP:?}");
            self.watch.look(&self.site).await;
        }
        self.site.start_again(role, at, &name);
        if role == "gateway" {
            self.joining_since = Instant::now();
        }
        self.until_ready().await;
    }

    /// Restarts the nats-servers, one after the other. No client notices.
    pub(super) async fn restart_servers(&mut self) {
        for number in 0..usize::from(SERVERS) {
            self.begin();
            self.site.servers.restart(number).await;
            self.settle(&format!("restart of nats-{}", number + 1)).await;
        }
    }

    fn begin(&mut self) {
        self.watch.begin();
        self.allowed = 0.0;
    }

    /// How many sessions all these gateways together may send away in a second, to others that have joined.
    fn rebalanced(&self, states: &[GatewayState]) -> f64 {
        states.iter().map(|state| (state.sessions * self.defaults.rebalance_rate).max(LEAST_REBALANCED)).sum()
    }

    /// Waits until the step is over, checks it, and prints its line of the table.
    async fn settle(&mut self, name: &str) {
        let (after, sessions) = self.balanced(name).await;
        let Watch { total, most, .. } = &self.watch;
        let seconds = after.as_secs_f64();
        let sessions = sessions.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
        let allowed = self.allowed;
        eprintln!("{name:<26} {seconds:>7.1}  {sessions:<28} {total:>10} {most:>11.0} {allowed:>8.0}");
        assert!(*most <= by_chance(allowed), "{name}: {most} reconnects in a second, {allowed} are configured");
    }

    /// Waits until everything is ready, every gateway has its share of the sessions, and nobody reconnects any more.
    /// Returns after how long that was so, and the sessions of each gateway.
    async fn balanced(&mut self, what: &str) -> (Duration, Vec<f64>) {
        let (end, mut since) = (Instant::now() + STEP, None);
        loop {
            let states = self.watch.look(&self.site).await;
            let sessions: Vec<f64> = states.iter().map(|state| state.sessions).collect();
            let is_so = self.site.have_ended() && self.is_in_balance(&sessions) && self.site.is_ready().await;
            since = since.filter(|_| is_so).or_else(|| is_so.then(|| self.watch.elapsed()));
            if let Some(after) = since
                && self.watch.elapsed() >= after + QUIET
                && self.watch.quiet_for() >= QUIET
                && self.joining_since.elapsed() >= JOINED
            {
                return (after, sessions);
            }
            let clients = self.clients;
            assert!(Instant::now() < end, "{what} is not over within {STEP:?}: {sessions:?} of {clients} sessions");
        }
    }

    fn is_in_balance(&self, sessions: &[f64]) -> bool {
        let mean = self.clients / sessions.len() as f64;
        let is_near = |count: &f64| (count - mean).abs() <= mean * MOST_IMBALANCE;
        sessions.iter().sum::<f64>() == self.clients && sessions.iter().all(is_near)
    }
}

/// The most in a second at this mean: each client draws its own pause, so that they do not come at equal distances.
/// Four standard deviations, of independent arrivals.
fn by_chance(mean: f64) -> f64 {
    mean + 4.0 * mean.sqrt()
}
