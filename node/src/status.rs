//! The status of a node, for operators and producers: `/v1/cluster`, `/v1/stats` and `/v1/health` of the admin server.
//! Each node tells what it knows itself. A role adds its part by [`RoleStatus`], and further endpoints.
//!
//! Nothing here counts or measures: it reads what the parts of the node publish anyway.

mod cluster;
mod health;
mod stats;

pub use health::{CacheCounters, KindLast, RoleLoad};

use crate::admin::{self, Readiness, Readings};
use crate::api::shared::NODE;
use crate::api::{Access, AdminGate, ApiRoutes, Endpoint, Field, Input, JSON, Listener, field};
use crate::config::{Config, HealthConfig};
use crate::metrics::Metric;
use crate::secrets::SecretTroubles;
use crate::shutdown::Shutdown;
use crate::start::Node;
use crate::users::{CLOSE_SESSIONS, USER};
use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::{Role, View};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A count of `/v1/stats`: its name there, and the counter that has it.
pub type NamedCount = (&'static str, &'static dyn Metric);

/// A ratio of `/v1/stats`: its name there, and the counters that are divided.
pub type NamedRatio = (&'static str, &'static dyn Metric, &'static dyn Metric);

/// What a role knows beside its node.
pub trait RoleStatus: Debug + Send + Sync {
    /// What it knows of the cluster: the field of `/v1/cluster` that has the name of the role.
    fn cluster(&self) -> Value;

    /// What it counts.
    fn counts(&self) -> &'static [NamedCount];

    /// The ratios of its counts.
    fn ratios(&self) -> &'static [NamedRatio];

    /// How long its stages take: histograms in seconds, by the name of the stage.
    fn stages(&self) -> &'static [NamedCount];

    /// What has a threshold in `[health]`.
    fn load(&self) -> RoleLoad;
}

const ROLE: Field = field("role", "string", "gateway or router");

/// What this node knows of the cluster.
pub static CLUSTER: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/cluster",
    listener: Listener::Admin,
    access: Access::Reader,
    summary: "What this node knows of the cluster",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        NODE,
        ROLE,
        field("nonce", "string", "The number that this start of the node has drawn"),
        field("view", "integer", "The version of the member view"),
        field("partitions", "integer", "How many partitions the stream has"),
        field("members", "array", "The members of the view, each with its share of the ring"),
        field("owners", "object", "The router that the ring names for each partition"),
        field("status", "object", "What the role of this node knows beside that"),
    ],
    others: &[],
};

/// What this node has counted.
pub static STATS: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/stats",
    listener: Listener::Admin,
    access: Access::Reader,
    summary: "What this node has counted since its start and in the last minute",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        NODE,
        ROLE,
        field("age_ms", "integer", "How old these numbers are, in milliseconds; they are read every 5 s"),
        field("over_ms", "integer", "The time that the rates cover, in milliseconds"),
        field("counts", "object", "Each count in total and per minute, by reason or kind where it has one"),
        field("ratios", "object", "Ratios of counts since the start; null before the first"),
        field("latency", "object", "How long each stage took since the start, in seconds"),
    ],
    others: &[],
};

/// How healthy this node is.
pub static HEALTH: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/health",
    listener: Listener::Admin,
    access: Access::Reader,
    summary: "How healthy each part of this node is, by the thresholds of the configuration",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        NODE,
        ROLE,
        field("status", "string", "healthy, warning or error: that of the worst part"),
        field("parts", "array", "Each part with its name, status and message"),
    ],
    others: &[],
};

/// The endpoints of every node, with those that its admin server has from the start on. Each role adds those about
/// users by [`users::add_routes`](crate::users::add_routes).
pub fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    admin::FIRST.into_iter().chain([&CLUSTER, &STATS, &HEALTH, &USER, &CLOSE_SESSIONS])
}

/// What the handlers read.
#[derive(Debug)]
struct Status {
    me: NodeRef,
    role: Role,
    partitions: u16,
    view: watch::Receiver<Arc<View>>,
    readiness: Readiness,
    readings: Arc<Readings>,
    thresholds: HealthConfig,
    secrets: SecretTroubles,
    drain: CancellationToken,
    of_role: Arc<dyn RoleStatus>,
}

/// Adds the status to the admin server of a node that has started. `add` adds the endpoints of its role.
pub fn open(
    node: &Node,
    config: &Config,
    shutdown: &Shutdown,
    of_role: Arc<dyn RoleStatus>,
    add: impl FnOnce(ApiRoutes) -> ApiRoutes,
) {
    let status = Arc::new(Status {
        me: node.me.clone(),
        role: node.membership.member().role,
        partitions: u16::try_from(node.provisioned.partitions).unwrap_or(u16::MAX),
        view: node.membership.view(),
        readiness: node.readiness.clone(),
        readings: node.admin.readings(),
        thresholds: config.health.clone(),
        secrets: node.secrets.clone(),
        drain: shutdown.drain().clone(),
        of_role,
    });
    let routes = ApiRoutes::new(AdminGate::new(config, Arc::clone(&node.authenticator)))
        .describe(admin::FIRST)
        .add(&CLUSTER, get(cluster).with_state(Arc::clone(&status)))
        .add(&STATS, get(stats).with_state(Arc::clone(&status)))
        .add(&HEALTH, get(health).with_state(status));
    node.admin.open(add(routes).finish());
}

async fn cluster(State(status): State<Arc<Status>>) -> Json<Value> {
    Json(cluster::report(&status))
}

async fn stats(State(status): State<Arc<Status>>) -> Json<Value> {
    Json(stats::report(&status))
}

async fn health(State(status): State<Arc<Status>>) -> Json<health::HealthReport> {
    Json(health::report(&status))
}
