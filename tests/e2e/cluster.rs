//! A whole cluster for one test: a nats-server, routers and gateways, killed when it is dropped. `waiting` waits
//! until it works, and `streams` does without routers what gateways wait for.

mod streams;
pub(crate) mod waiting;

use crate::cut::Line;
use crate::node::TestNode;
use crate::oracle::Log;
use crate::producer::Producer;
use crate::socket::query;
use jsonwebtoken::{EncodingKey, Header};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tickwire_client::Credentials;
use tickwire_core::ids::Seq;
use tickwire_testkit::NatsServer;

/// The number of partitions of every test cluster: the default.
pub(crate) const PARTITIONS: u32 = 32;

/// The gauge of the partitions that a router owns.
pub(crate) const OWNED: &str = "tickwire_router_partitions";

/// The settings of test clusters: nodes notice each other sooner, a late confirmation on a busy machine causes no gap,
/// and there are no rates, so that tests can publish fast.
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

/// For tests that count what happens while no node is late. On a busy machine nodes are late: with these settings none
/// is taken for dead, and no owner loses a lease, so that nothing is read or sent again.
pub(crate) const PATIENT: [(&str, &str); 2] = [("membership.lease_ttl", "30s"), ("membership.timeout", "30s")];

/// The secret that signs the tokens of clusters with the default configuration.
pub(crate) const SECRET: &str = "a secret of at least thirty-two bytes";

/// How long a token is valid: for the whole test, even if a clock is a day ahead.
const VALID_FOR: Duration = Duration::from_secs(3 * 86_400);

/// The deadline of any step in a cluster with the default configuration: nodes notice each other's death later.
const SHIPPED_DEADLINE: Duration = Duration::from_secs(90);

/// The folder for the files of the nodes. It is kept if the test fails.
#[derive(Debug)]
pub(crate) struct Home(pub(crate) TempDir);

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("the files of the nodes are kept in {}", self.0.path().display());
        }
    }
}

/// A running cluster. Nodes are dropped before their nats-server.
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
    /// Whether every node has its own line to NATS.
    behind_lines: bool,
    /// Whether clients connect to every gateway over a line.
    behind_client_lines: bool,
    /// The binary of nodes that start; `None` for the one under test.
    pub(crate) binary: Option<PathBuf>,
    /// Whether the cluster has the default configuration, except for the address of NATS and the secret of the tokens.
    pub(crate) uses_defaults: bool,
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

    /// Starts a cluster in which every node has its own line to NATS.
    pub(crate) async fn start_behind_lines(routers: usize, gateways: usize, settings: &[(&str, &str)]) -> Self {
        let cluster = Self::create(vec![NatsServer::start()], settings).await;
        Self { behind_lines: true, ..cluster }.filled(routers, gateways).await
    }

    /// A cluster without nodes, with the default configuration except for addresses and `auth.mode = "dev"`.
    pub(crate) async fn as_shipped() -> Self {
        Self::as_shipped_but_for(&[]).await
    }

    /// The same with these settings.
    pub(crate) async fn as_shipped_but_for(settings: &[(&str, &str)]) -> Self {
        let settings = [&[("auth.mode", "dev")], settings].concat();
        Self::with_settings(vec![NatsServer::start()], &settings).await
    }

    /// The same on these nats-servers.
    pub(crate) async fn as_shipped_on(nats: Vec<NatsServer>) -> Self {
        Self::with_settings(nats, &[("auth.mode", "dev")]).await
    }

    /// A cluster without nodes and without lines, with the default configuration and tokens.
    pub(crate) async fn shipped() -> Self {
        let cluster = Self::with_settings(vec![NatsServer::start()], &[("auth.jwt_secret", SECRET)]).await;
        Self { uses_defaults: true, ..cluster }
    }

    /// Starts a cluster with the default configuration, in which every node has its own line to NATS.
    pub(crate) async fn start_with_defaults(routers: usize, gateways: usize) -> Self {
        Self { behind_lines: true, ..Self::shipped().await }.filled(routers, gateways).await
    }

    /// The same by another binary, and without lines.
    pub(crate) async fn start_shipped_by(binary: &Path, routers: usize, gateways: usize) -> Self {
        Self { binary: Some(binary.to_owned()), ..Self::shipped().await }.filled(routers, gateways).await
    }

    /// The same as [`start_with_defaults`](Self::start_with_defaults) on these nats-servers, each of which keeps a
    /// copy, and without lines.
    pub(crate) async fn start_shipped_on(nats: Vec<NatsServer>, routers: usize, gateways: usize) -> Self {
        let replicas = nats.len().to_string();
        let cluster = Self::with_settings(nats, &[("auth.jwt_secret", SECRET), ("stream.replicas", &replicas)]).await;
        Self { uses_defaults: true, ..cluster }.filled(routers, gateways).await
    }

    /// The same on one nats-server, in which clients connect to every gateway over a line, too.
    pub(crate) async fn start_shipped_behind_doors(routers: usize, gateways: usize) -> Self {
        Self { behind_lines: true, behind_client_lines: true, ..Self::shipped().await }.filled(routers, gateways).await
    }

    /// A cluster without nodes, with the settings of tests.
    async fn create(nats: Vec<NatsServer>, settings: &[(&str, &str)]) -> Self {
        Self::with_settings(nats, &SETTINGS.iter().chain(settings).copied().collect::<Vec<_>>()).await
    }

    /// A cluster without nodes, with only these settings.
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
            behind_client_lines: false,
            binary: None,
            uses_defaults: false,
        }
    }

    async fn filled(mut self, routers: usize, gateways: usize) -> Self {
        if routers == 0 {
            self.create_streams().await;
        }
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

    /// Starts a node with the cluster's settings, after `ulimit` with these arguments.
    pub(crate) fn node_limited(&self, role: &str, id: &str, limit: &str, further: &[(&str, &str)]) -> TestNode {
        let further = further.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = self.settings.iter().cloned().chain(further).collect();
        TestNode::start_with(limit, role, id, self.home.0.path(), &settings)
    }

    /// Starts a node with the name of one that has ended.
    pub(crate) fn node_again(&self, role: &str, id: &str) -> TestNode {
        self.launch(role, id, &[])
    }

    /// Starts a node with the cluster's settings whose clock is wrong by `offset`; see [`TestNode::start_in`].
    pub(crate) fn node_in(&mut self, library: &Path, offset: &str, role: &str) -> TestNode {
        self.started += 1;
        let id = format!("{role}-{}", self.started);
        TestNode::start_in((library, offset), role, &id, self.home.0.path(), &self.settings)
    }

    fn launch(&self, role: &str, id: &str, further: &[(&str, &str)]) -> TestNode {
        let line = self.behind_lines.then(|| Line::to(&self.nats_url()));
        let url = line.as_ref().map(|line| ("nats.url".to_owned(), line.url()));
        let further = further.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = self.settings.iter().cloned().chain(url).chain(further).collect();
        let home = self.home.0.path();
        let mut node = match &self.binary {
            Some(binary) => TestNode::start_at(binary, role, id, home, &settings),
            None => TestNode::start(role, id, home, &settings),
        };
        node.line = line;
        node
    }

    /// The addresses for the clients of each gateway.
    pub(crate) async fn gateway_addresses(&mut self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for gateway in &mut self.gateways {
            let address = gateway.gateway().await;
            if self.behind_client_lines {
                addresses.push(gateway.door.get_or_insert_with(|| Line::to_address(address)).address);
            } else {
                addresses.push(address);
            }
        }
        addresses
    }

    /// The addresses of the admin servers.
    pub(crate) async fn admin_addresses(&mut self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for node in self.routers.iter_mut().chain(&mut self.gateways) {
            addresses.push(node.address("admin").await);
        }
        addresses
    }

    /// Fails if a node uses more memory or file descriptors than its work can need.
    pub(crate) fn assert_bounded(&self) {
        const MOST_KB: u64 = 250 * 1024;
        const MOST_DESCRIPTORS: usize = 500;
        for node in self.routers.iter().chain(&self.gateways) {
            let (kb, descriptors) = (node.process.resident_kb(), node.process.descriptors());
            eprintln!("{}: {kb} KB, {descriptors} descriptors", node.id);
            assert!(kb < MOST_KB && descriptors < MOST_DESCRIPTORS, "{}: {kb} KB, {descriptors} descriptors", node.id);
        }
    }

    /// The credentials of `user`.
    pub(crate) fn credentials(&self, user: &str) -> Credentials {
        if self.uses_defaults {
            Credentials::Token(token(user, VALID_FOR))
        } else {
            Credentials::DevUser(user.to_owned())
        }
    }

    /// The same as the query of a URL.
    pub(crate) fn query(&self, user: &str) -> String {
        if self.uses_defaults { Self::query_for(user, VALID_FOR) } else { query(user) }
    }

    /// The query of a URL with a token that is valid for this time, in a cluster with the default configuration.
    pub(crate) fn query_for(user: &str, valid_for: Duration) -> String {
        format!("?token={}", token(user, valid_for))
    }

    /// How long a gateway may be silent towards a client.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_secs(if self.uses_defaults { 40 } else { 8 })
    }

    /// A producer with its own connection.
    pub(crate) async fn producer(&self) -> Producer {
        Producer::new(connect(&self.nats).await)
    }

    /// Reads the stream.
    pub(crate) async fn log(&self) -> Log {
        Log::read(&self.client).await
    }

    /// Makes the stream discard everything up to this sequence.
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

/// A token that is valid for this time.
fn token(user: &str, valid_for: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({ "sub": user, "iat": now, "exp": now + valid_for.as_secs() });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

fn urls(nats: &[NatsServer]) -> Vec<String> {
    nats.iter().map(NatsServer::url).collect()
}

/// A connection to any of these servers.
async fn connect(nats: &[NatsServer]) -> async_nats::Client {
    let servers: Vec<async_nats::ServerAddr> = urls(nats).iter().map(|url| url.parse().unwrap()).collect();
    async_nats::connect(servers).await.unwrap()
}
