//! A whole cluster for one test: a nats-server, routers and gateways, killed when it is dropped.

use crate::cut::Line;
use crate::diagnosis::diagnose;
use crate::node::{DEADLINE, TestNode};
use crate::oracle::Log;
use crate::producer::Producer;
use crate::socket::query;
use jsonwebtoken::{EncodingKey, Header};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tickwire_client::Credentials;
use tickwire_core::ids::Seq;
use tickwire_testkit::NatsServer;
use tokio::time::{Instant, sleep};

/// The number of partitions that every cluster here has: the default.
pub(crate) const PARTITIONS: u32 = 32;

/// The pause between two looks at whether a cluster is whole.
const LOOKS: Duration = Duration::from_millis(5);

/// How long a cluster is to stay ready before it counts as that.
const STEADY: Duration = Duration::from_millis(500);

/// The gauge of the partitions that a router owns.
pub(crate) const OWNED: &str = "tickwire_router_partitions";

/// What sets the tests' clusters apart from one in production: nodes notice each other sooner, and a machine that is
/// busy with other tests does not turn a late confirmation into a gap. What publishes fast is not held to rates.
const SETTINGS: [(&str, &str); 11] = [
    ("auth.mode", "dev"),
    ("gateway.confirm_timeout", "15s"),
    ("gateway.critical_rate", "1000000"),
    ("gateway.rate", "0"),
    ("gateway.shrink_delay", "300ms"),
    ("gateway.window", "20ms"),
    ("membership.beat_interval", "200ms"),
    ("membership.timeout", "1500ms"),
    ("membership.lease_ttl", "1s"),
    ("membership.tick_interval", "500ms"),
    ("router.checkpoint_interval", "200ms"),
];

/// The secret that signs the tokens of clusters that ship.
const SECRET: &str = "a secret of at least thirty-two bytes";

/// How long a token lasts: for the whole of a test, even where a clock is a day ahead.
const LASTING: Duration = Duration::from_secs(3 * 86_400);

/// How long anything may take in a cluster that runs with the defaults that ship: nodes notice each other's death later.
const SHIPPED_DEADLINE: Duration = Duration::from_secs(60);

/// Where the nodes of a cluster write. It stays if the test fails.
#[derive(Debug)]
struct Home(TempDir);

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("what the nodes wrote stays in {}", self.0.path().display());
        }
    }
}

/// A running cluster. Nodes are dropped before the nats-server that they talk to.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The routers.
    pub(crate) routers: Vec<TestNode>,
    /// The gateways.
    pub(crate) gateways: Vec<TestNode>,
    /// A connection of the test's own.
    pub(crate) client: async_nats::Client,
    settings: Vec<(String, String)>,
    home: Home,
    /// The nats-servers.
    pub(crate) nats: Vec<NatsServer>,
    started: usize,
    /// Whether every node has a line of its own.
    behind_lines: bool,
    /// Whether clients reach every gateway by a line.
    behind_doors: bool,
    /// Whether nothing is set but where NATS is, and the secret that no node ships with.
    pub(crate) is_shipped: bool,
}

impl Cluster {
    /// Starts a cluster and waits until every node is ready and every partition has an owner.
    pub(crate) async fn start(routers: usize, gateways: usize) -> Self {
        Self::start_with(routers, gateways, &[]).await
    }

    /// The same with further settings.
    pub(crate) async fn start_with(routers: usize, gateways: usize, settings: &[(&str, &str)]) -> Self {
        Self::start_on(vec![NatsServer::start()], routers, gateways, settings).await
    }

    /// The same on these nats-servers.
    pub(crate) async fn start_on(
        nats: Vec<NatsServer>,
        routers: usize,
        gateways: usize,
        settings: &[(&str, &str)],
    ) -> Self {
        Self::create(nats, settings).await.filled(routers, gateways).await
    }

    /// Starts a cluster in which every node has a line of its own to NATS.
    pub(crate) async fn start_behind_lines(routers: usize, gateways: usize, settings: &[(&str, &str)]) -> Self {
        let cluster = Self::create(vec![NatsServer::start()], settings).await;
        Self { behind_lines: true, ..cluster }.filled(routers, gateways).await
    }

    /// A cluster without nodes, which will have no setting but those that say where things are, and who clients are.
    pub(crate) async fn as_shipped() -> Self {
        Self::as_shipped_but_for(&[]).await
    }

    /// The same with these settings.
    pub(crate) async fn as_shipped_but_for(settings: &[(&str, &str)]) -> Self {
        let settings = [&[("auth.mode", "dev")], settings].concat();
        Self::with_settings(vec![NatsServer::start()], &settings).await
    }

    /// One as it ships, on these nats-servers.
    pub(crate) async fn as_shipped_on(nats: Vec<NatsServer>) -> Self {
        Self::with_settings(nats, &[("auth.mode", "dev")]).await
    }

    /// A cluster without nodes, with nothing but the defaults that ship, and without lines.
    pub(crate) async fn shipped() -> Self {
        let cluster = Self::with_settings(vec![NatsServer::start()], &[("auth.jwt_secret", SECRET)]).await;
        Self { is_shipped: true, ..cluster }
    }

    /// Starts a cluster with nothing but the defaults that ship, in which every node has a line of its own to NATS.
    pub(crate) async fn start_shipped(routers: usize, gateways: usize) -> Self {
        Self { behind_lines: true, ..Self::shipped().await }.filled(routers, gateways).await
    }

    /// The same on these nats-servers, each of which keeps a copy, and without lines.
    pub(crate) async fn start_shipped_on(nats: Vec<NatsServer>, routers: usize, gateways: usize) -> Self {
        let replicas = nats.len().to_string();
        let cluster = Self::with_settings(nats, &[("auth.jwt_secret", SECRET), ("stream.replicas", &replicas)]).await;
        Self { is_shipped: true, ..cluster }.filled(routers, gateways).await
    }

    /// The same on one, in which clients reach every gateway by a line, too.
    pub(crate) async fn start_shipped_behind_doors(routers: usize, gateways: usize) -> Self {
        Self { behind_lines: true, behind_doors: true, ..Self::shipped().await }.filled(routers, gateways).await
    }

    /// A cluster without nodes, with the settings of tests.
    async fn create(nats: Vec<NatsServer>, settings: &[(&str, &str)]) -> Self {
        Self::with_settings(nats, &SETTINGS.iter().chain(settings).copied().collect::<Vec<_>>()).await
    }

    /// A cluster without nodes, with these settings alone.
    async fn with_settings(nats: Vec<NatsServer>, settings: &[(&str, &str)]) -> Self {
        let url = urls(&nats).join(",");
        let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let settings = [("nats.url", url.as_str())].into_iter().chain(settings.iter().copied());
        Self {
            routers: Vec::new(),
            gateways: Vec::new(),
            client: connect(&nats).await,
            settings: settings.map(text).collect(),
            home: Home(TempDir::with_prefix("tickwire-e2e-").unwrap()),
            nats,
            started: 0,
            behind_lines: false,
            behind_doors: false,
            is_shipped: false,
        }
    }

    async fn filled(mut self, routers: usize, gateways: usize) -> Self {
        for _ in 0..routers {
            self.add_router();
        }
        for _ in 0..gateways {
            self.add_gateway();
        }
        if routers > 0 {
            self.settled().await;
        }
        self
    }

    /// Starts one more router and does not wait for it.
    pub(crate) fn add_router(&mut self) -> &mut TestNode {
        let node = self.node("router");
        self.routers.push(node);
        self.routers.last_mut().unwrap()
    }

    /// Starts one more gateway and does not wait for it.
    pub(crate) fn add_gateway(&mut self) -> &mut TestNode {
        let node = self.node("gateway");
        self.gateways.push(node);
        self.gateways.last_mut().unwrap()
    }

    /// Starts a node with further settings, which is not counted among the cluster's.
    pub(crate) fn node_with(&mut self, role: &str, further: &[(&str, &str)]) -> TestNode {
        self.started += 1;
        self.launch(role, &format!("{role}-{}", self.started), further)
    }

    /// Starts a node of the cluster's own settings, after `ulimit` with these arguments.
    pub(crate) fn node_limited(&self, role: &str, id: &str, limit: &str, further: &[(&str, &str)]) -> TestNode {
        let further = further.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = self.settings.iter().cloned().chain(further).collect();
        TestNode::start_with(limit, role, id, self.home.0.path(), &settings)
    }

    /// Starts a node under the name of one that has ended.
    pub(crate) fn node_again(&self, role: &str, id: &str) -> TestNode {
        self.launch(role, id, &[])
    }

    /// Starts a node of the cluster's own settings whose clock is wrong by so much; see [`TestNode::start_in`].
    pub(crate) fn node_in(&mut self, library: &Path, offset: &str, role: &str) -> TestNode {
        self.started += 1;
        let id = format!("{role}-{}", self.started);
        TestNode::start_in(library, offset, role, &id, self.home.0.path(), &self.settings)
    }

    fn launch(&self, role: &str, id: &str, further: &[(&str, &str)]) -> TestNode {
        let line = self.behind_lines.then(|| Line::to(&self.nats_url()));
        let url = line.as_ref().map(|line| ("nats.url".to_owned(), line.url()));
        let further = further.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = self.settings.iter().cloned().chain(url).chain(further).collect();
        let mut node = TestNode::start(role, id, self.home.0.path(), &settings);
        node.line = line;
        node
    }

    /// Waits until every partition has one owner, each router its fair share of them, and every node is ready.
    pub(crate) async fn settled(&mut self) {
        let deadline = if self.is_shipped { SHIPPED_DEADLINE } else { DEADLINE };
        let end = Instant::now() + deadline;
        while !self.is_settled().await {
            if Instant::now() >= end {
                panic!("not within {deadline:?}: {}", diagnose(self).await);
            }
            sleep(LOOKS).await;
        }
    }

    async fn is_settled(&mut self) -> bool {
        let (fair, owned) = (self.fair_share(), self.owned().await);
        let is_whole = owned.iter().sum::<u32>() == PARTITIONS;
        let mut is_settled = is_whole && owned.iter().all(|count| fair.contains(count));
        for node in self.routers.iter_mut().chain(&mut self.gateways) {
            is_settled &= node.readyz().await.0 == 200;
        }
        is_settled
    }

    /// Waits until every node is ready and stays so, every partition has one owner and nothing is missing anywhere. Gives
    /// how long that took; fails if it took longer than `deadline`.
    pub(crate) async fn ready_within(&mut self, deadline: Duration) -> Duration {
        let begun = Instant::now();
        let mut since = None;
        loop {
            let is_ready = self.is_ready().await;
            let looked = begun.elapsed();
            since = if is_ready { since.or(Some(looked)) } else { None };
            match since {
                Some(since) if looked - since >= STEADY => return since,
                None if looked > deadline => panic!("not ready within {deadline:?}: {}", diagnose(self).await),
                _ => sleep(LOOKS * 10).await,
            }
        }
    }

    async fn is_ready(&mut self) -> bool {
        let mut is_ready = self.owned().await.iter().sum::<u32>() == PARTITIONS;
        for gateway in &mut self.gateways {
            let metrics = gateway.metrics().await;
            let missing = ["tickwire_gateway_open_gaps", "tickwire_gateway_silent_partitions"];
            is_ready &= missing.iter().all(|name| metrics.get(name) == 0.0);
        }
        for node in self.routers.iter_mut().chain(&mut self.gateways) {
            is_ready &= node.readyz().await.0 == 200;
        }
        is_ready
    }

    /// How many partitions each router owns.
    pub(crate) async fn owned(&mut self) -> Vec<u32> {
        let mut owned = Vec::new();
        for router in &mut self.routers {
            owned.push(router.metrics().await.get(OWNED) as u32);
        }
        owned
    }

    /// How many partitions a router may own when all are spread: its share, at most 15 % more, and what that leaves.
    fn fair_share(&self) -> std::ops::RangeInclusive<u32> {
        let routers = u32::try_from(self.routers.len()).unwrap();
        let most = (PARTITIONS * 115).div_ceil(routers * 100).min(PARTITIONS);
        PARTITIONS.saturating_sub(most * (routers - 1))..=most
    }

    /// Where the clients of each gateway connect.
    pub(crate) async fn gateway_addresses(&mut self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for gateway in &mut self.gateways {
            let address = gateway.gateway().await;
            if self.behind_doors {
                addresses.push(gateway.door.get_or_insert_with(|| Line::to_address(address)).address);
            } else {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Where the admin servers are.
    pub(crate) async fn admin_addresses(&mut self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for node in self.routers.iter_mut().chain(&mut self.gateways) {
            addresses.push(node.address("admin").await);
        }
        addresses
    }

    /// Fails unless no node holds more memory and descriptors than what it does can need.
    pub(crate) fn assert_bounded(&self) {
        const MOST_KB: u64 = 250 * 1024;
        const MOST_DESCRIPTORS: usize = 500;
        for node in self.routers.iter().chain(&self.gateways) {
            let (kb, descriptors) = (node.process.resident_kb(), node.process.descriptors());
            eprintln!("{}: {kb} KB, {descriptors} descriptors", node.id);
            assert!(kb < MOST_KB && descriptors < MOST_DESCRIPTORS, "{}: {kb} KB, {descriptors} descriptors", node.id);
        }
    }

    /// How `user` says who it is.
    pub(crate) fn credentials(&self, user: &str) -> Credentials {
        if self.is_shipped { Credentials::Token(token(user, LASTING)) } else { Credentials::DevUser(user.to_owned()) }
    }

    /// The same as the query of an address.
    pub(crate) fn query(&self, user: &str) -> String {
        if self.is_shipped { Self::query_for(user, LASTING) } else { query(user) }
    }

    /// The query of an address that has a token which lasts for so long, in a cluster that ships.
    pub(crate) fn query_for(user: &str, lasting: Duration) -> String {
        format!("?token={}", token(user, lasting))
    }

    /// How long a client may hear nothing from its gateway.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_secs(if self.is_shipped { 40 } else { 8 })
    }

    /// A producer with a connection of its own.
    pub(crate) async fn producer(&self) -> Producer {
        Producer::new(connect(&self.nats).await)
    }

    /// What the stream holds now.
    pub(crate) async fn log(&self) -> Log {
        Log::read(&self.client).await
    }

    /// Has the stream discard everything up to here.
    pub(crate) async fn discard(&self, up_to: Seq) {
        let stream = async_nats::jetstream::new(self.client.clone()).get_stream("EVENTS").await.unwrap();
        stream.purge().sequence(up_to.0 + 1).await.unwrap();
    }

    /// The address of the nats-server.
    pub(crate) fn nats_url(&self) -> String {
        self.nats[0].url()
    }

    /// The folder of this cluster's files.
    pub(crate) fn home(&self) -> &Path {
        self.home.0.path()
    }

    fn node(&mut self, role: &str) -> TestNode {
        self.node_with(role, &[])
    }
}

/// A token that lasts for so long.
fn token(user: &str, lasting: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({ "sub": user, "iat": now, "exp": now + lasting.as_secs() });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

fn urls(nats: &[NatsServer]) -> Vec<String> {
    nats.iter().map(NatsServer::url).collect()
}

/// A connection to whichever of these servers there is.
async fn connect(nats: &[NatsServer]) -> async_nats::Client {
    let servers: Vec<async_nats::ServerAddr> = urls(nats).iter().map(|url| url.parse().unwrap()).collect();
    async_nats::connect(servers).await.unwrap()
}
