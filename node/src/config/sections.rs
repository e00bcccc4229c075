//! The shape of the configuration: one struct per section of `config/reference.toml`, one field per key. That file
//! explains the meaning, unit and default of a key; this one has its type and range (durations in milliseconds).
//! `gateway` and `health` have the largest sections, and `traces` is a part that nodes may lack.

mod gateway;
mod health;
mod traces;

use super::node_id;
use super::values::{self, Secret};
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tickwire_core::event::KindAudience;

pub use gateway::{GatewayConfig, LEAST_GATEWAY_CONNECTIONS, ProxyProtocol};
pub use health::{HealthConfig, SilenceHours};
pub use traces::TracesConfig;

/// All of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node itself.
    pub node: NodeConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// How NATS is reached.
    pub nats: NatsConfig,
    /// The stream of events.
    pub stream: StreamConfig,
    /// The kinds of events.
    pub events: EventsConfig,
    /// The admin server.
    pub admin: AdminConfig,
    /// When `/v1/health` has warnings and errors.
    pub health: HealthConfig,
    /// How nodes find each other.
    pub membership: MembershipConfig,
    /// The router's engine.
    pub router: RouterConfig,
    /// The gateway's engine and limits.
    pub gateway: GatewayConfig,
    /// How clients authenticate.
    pub auth: AuthConfig,
    /// Where traces are sent, and of which events.
    pub traces: TracesConfig,
}

/// `[node]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The configured name; [`identity`](Self::identity) gives the one to use.
    #[serde(serialize_with = "values::show_optional", deserialize_with = "node_id::node_id")]
    pub id: Option<String>,
    /// How long a drain may take.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 600_000, _>")]
    pub shutdown_grace: Duration,
    /// Where to write what the node listens on.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub ports_file: Option<PathBuf>,
}

impl NodeConfig {
    /// The node's name: the configured one, or the role and eight random digits. Call it once, at the start.
    pub fn identity(&self, role: &str) -> String {
        self.id.clone().unwrap_or_else(|| format!("{role}-{:08x}", rand::rng().random::<u32>()))
    }
}

/// `[log]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// JSON lines, or text for people.
    pub format: LogFormat,
    /// The log directives.
    #[serde(deserialize_with = "values::log_level")]
    pub level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Pretty,
}

/// `[nats]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// Addresses, with commas between.
    #[serde(deserialize_with = "values::nats_url")]
    pub url: String,
    /// The user, or empty: as configured, or what the file held at the start.
    pub user: String,
    /// The file of the user.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub user_file: Option<PathBuf>,
    /// The password of the user, likewise.
    pub password: Secret,
    /// The file of the password.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub password_file: Option<PathBuf>,
    /// The token, or empty, likewise.
    pub token: Secret,
    /// The file of the token.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub token_file: Option<PathBuf>,
    /// The JetStream domain.
    #[serde(serialize_with = "values::show_optional", deserialize_with = "values::optional_token")]
    pub domain: Option<String>,
    /// The credentials file.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub credentials: Option<PathBuf>,
    /// The authorities to trust.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub tls_ca: Option<PathBuf>,
    /// This node's own certificate.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub tls_cert: Option<PathBuf>,
    /// The key of the certificate.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub tls_key: Option<PathBuf>,
    /// How long a start may wait for NATS.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 600_000, _>")]
    pub connect_timeout: Duration,
    /// How long one request may take.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<50, 60_000, _>")]
    pub request_timeout: Duration,
}

/// `[stream]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The stream's name.
    #[serde(deserialize_with = "values::token")]
    pub name: String,
    /// The number of partitions.
    #[serde(deserialize_with = "values::within::<1, 1024, _, _>")]
    pub partitions: u32,
    /// Copies of the stream and the buckets.
    #[serde(deserialize_with = "values::within::<1, 5, _, _>")]
    pub replicas: usize,
    /// How long events are kept.
    #[serde(
        serialize_with = "values::show_duration",
        deserialize_with = "values::duration::<1_000, 31_536_000_000, _>"
    )]
    pub max_age: Duration,
    /// How many bytes of events are kept.
    #[serde(deserialize_with = "values::within::<1_048_576, 9_223_372_036_854_775_807, _, _>")]
    pub max_bytes: i64,
    /// The largest message, in bytes.
    #[serde(deserialize_with = "values::within::<1_024, 8_388_608, _, _>")]
    pub max_message: i32,
    /// How long a message id is remembered.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 86_400_000, _>")]
    pub duplicate_window: Duration,
    /// File or memory.
    pub storage: Storage,
}

/// Where the stream and the buckets are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On disk.
    File,
    /// In memory.
    Memory,
}

/// `[events]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    /// Kinds beside the built-in ones.
    pub kinds: BTreeMap<String, KindAudience>,
}

/// `[admin]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// The address of the admin server.
    #[serde(deserialize_with = "values::listen_address")]
    pub listen: SocketAddr,
    /// Connections to it.
    #[serde(deserialize_with = "values::within::<4, 10_000, _, _>")]
    pub max_connections: usize,
    /// Whether requests for the status need a token.
    pub require_token: TokenRequirement,
}

/// When an admin server requires a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenRequirement {
    /// Unless it listens on loopback.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl AdminConfig {
    /// Whether requests for the status need a token.
    pub fn requires_token(&self) -> bool {
        match self.require_token {
            TokenRequirement::Auto => !self.listen.ip().is_loopback(),
            TokenRequirement::Always => true,
            TokenRequirement::Never => false,
        }
    }
}

/// `[membership]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipConfig {
    /// The time between two membership beats.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<20, 10_000, _>")]
    pub beat_interval: Duration,
    /// The silence after which a node is removed from the view.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<50, 300_000, _>")]
    pub timeout: Duration,
    /// How long a lease lasts unless it is renewed.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1_000, 60_000, _>")]
    pub lease_ttl: Duration,
    /// The time between two partition heartbeats.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<50, 60_000, _>")]
    pub tick_interval: Duration,
}

/// `[router]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// How long a batch is collected.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 1_000, _>")]
    pub flush_window: Duration,
    /// Batches a second before windows grow.
    #[serde(deserialize_with = "values::within::<100, 10_000_000, _, _>")]
    pub batch_rate: u32,
    /// The largest size of a batch.
    #[serde(deserialize_with = "values::within::<1_024, 524_288, _, _>")]
    pub flush_bytes: usize,
    /// The time between two checkpoints of a partition.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<20, 60_000, _>")]
    pub checkpoint_interval: Duration,
    /// How long the interest of a silent gateway is kept.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 3_600_000, _>")]
    pub interest_retention: Duration,
    /// The bytes of all route caches.
    #[serde(deserialize_with = "values::within::<0, 1_073_741_824, _, _>")]
    pub route_cache_bytes: usize,
    /// Replays at the same time.
    #[serde(deserialize_with = "values::within::<1, 256, _, _>")]
    pub replays: usize,
    /// Messages read for replays in a second; every 4 KiB of a large one count as one more.
    #[serde(deserialize_with = "values::within::<100, 10_000_000, _, _>")]
    pub replay_rate: u32,
    /// The largest size of an answer.
    #[serde(deserialize_with = "values::within::<65_536, 3_670_016, _, _>")]
    pub replay_bytes: usize,
}

/// `[auth]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// Tokens, or `dev`.
    pub mode: AuthMode,
    /// The secret that signs the tokens: as configured, or what the file held at the start.
    pub jwt_secret: Secret,
    /// The file of that secret.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub jwt_secret_file: Option<PathBuf>,
    /// A second secret whose tokens are accepted, or empty, likewise.
    pub jwt_former_secret: Secret,
    /// The file of the second secret.
    #[serde(serialize_with = "values::show_path", deserialize_with = "values::optional_path")]
    pub jwt_former_secret_file: Option<PathBuf>,
    /// The allowed audiences of tokens; an empty list allows any.
    pub audience: Vec<String>,
    /// The allowed issuers of tokens; an empty list allows any.
    pub issuer: Vec<String>,
    /// How long tokens are valid before and after their times.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 600_000, _>")]
    pub leeway: Duration,
}

/// How clients authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// By a signed token.
    Jwt,
    /// By `?user=name`, which is trusted.
    Dev,
}
