//! The status of a node, for operators and producers: `/v1/cluster`, `/v1/stats` and `/v1/health` of the admin server.
//! Each node tells what it knows itself, and in `/v1/nodes` what all others report of themselves. A role adds its part
//! by [`RoleStatus`], and further endpoints.
//!
//! Nothing here counts or measures: it reads what the parts of the node publish anyway.

mod cluster;
mod health;
mod nodes;
mod stats;

pub use health::{CacheCounters, KindLast, RoleLoad};
pub use nodes::NODES;

use crate::admin::{self, Readiness, Readings};
use crate::api::shared::NODE;
use crate::api::{Access, AdminGate, ApiRoutes, Endpoint, Field, Input, JSON, Listener, field};
use crate::config::{Config, HealthConfig};
use crate::metrics::Metric;
use crate::secrets::SecretTroubles;
use crate::shutdown::Shutdown;
use crate::start::{Node, StartError};
use crate::users::{CLOSE_SESSIONS, USER};
use axum::Json;
use axum::extract::State;
use axum::routing::get;
use nodes::NodeReports;
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::{Role, View};
use tokio::sync::watch;
use tokio::time::Instant;
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

    /// What goes up and down, as gauges.
    fn gauges(&self) -> &'static [NamedCount];

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
    admin::FIRST.into_iter().chain([&CLUSTER, &NODES, &STATS, &HEALTH, &USER, &CLOSE_SESSIONS])
}

/// What the handlers read.
#[derive(Debug)]
struct Status {
    me: NodeRef,
    role: Role,
    partitions: u16,
    started: Instant,
    view: watch::Receiver<Arc<View>>,
    readiness: Readiness,
    readings: Arc<Readings>,
    thresholds: HealthConfig,
    secrets: SecretTroubles,
    drain: CancellationToken,
    of_role: Arc<dyn RoleStatus>,
}

/// Adds the status to the admin server of a node that has started, and begins to report to other nodes. `add` adds the
/// endpoints of its role. From then on the node may be ready.
///
/// # Errors
/// When the connection to NATS was closed.
pub fn open(
    node: &Node,
    config: &Config,
    shutdown: &Shutdown,
    of_role: Arc<dyn RoleStatus>,
    add: impl FnOnce(ApiRoutes) -> ApiRoutes,
) -> Result<(), StartError> {
    let status = Arc::new(Status {
        me: node.me.clone(),
        role: node.membership.member().role,
        partitions: u16::try_from(node.provisioned.partitions).unwrap_or(u16::MAX),
        started: Instant::now(),
        view: node.membership.view(),
        readiness: node.readiness.clone(),
        readings: node.admin.readings(),
        thresholds: config.health.clone(),
        secrets: node.secrets.clone(),
        drain: shutdown.drain().clone(),
        of_role,
    });
    let reports = Arc::new(NodeReports::new(Arc::clone(&status), node.nats.link.clone()));
    let questions =
        reports.questions().map_err(|error| StartError::Part { part: "node reports", reason: error.to_string() })?;
    let stop = shutdown.force().clone();
    shutdown.spawn_beside("gone nodes", stop.clone(), Arc::clone(&reports).follow_view(stop.clone()));
    shutdown.spawn_beside("node reports", stop.clone(), Arc::clone(&reports).answer_questions(questions, stop));
    let routes = ApiRoutes::new(AdminGate::new(config, Arc::clone(&node.authenticator)))
        .describe(admin::FIRST)
        .add(&CLUSTER, get(cluster).with_state(Arc::clone(&status)))
        .add(&NODES, get(nodes::show).with_state(reports))
        .add(&STATS, get(stats).with_state(Arc::clone(&status)))
        .add(&HEALTH, get(health).with_state(status));
    node.admin.open(add(routes).finish());
    node.readiness.started();
    Ok(())
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
