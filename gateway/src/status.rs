//! The status of a gateway for operators and producers, beside that of every node (`tickwire_node::status`): its
//! sessions, interest and coverage in `/v1/cluster`, its counts, and the [users](users) with sessions here.
//!
//! * `endpoints` is the table of the gateway's endpoints;
//! * `users` reads and closes the sessions of a user here, for `/v1/users` of all nodes (`tickwire_node::users`);
//! * `saved` reads and changes the saved subscriptions of a user.
//!
//! [`alerts`](crate::alerts) sends alerts to a user.

pub(crate) mod endpoints;
mod saved;
pub(crate) mod users;
pub(crate) mod watched;

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::routing::{delete, get, post, put};
use serde_json::{Value, json};
use tickwire_node::api::{ApiRefusal, ApiRoutes, MAX_BODY};
use tickwire_node::clock::timestamp_now;
use tickwire_node::metrics::Metric;
use tickwire_node::status::{NamedCount, NamedRatio, RoleLoad, RoleStatus};
use tickwire_node::users::{self as users_of_cluster, UserService};
use tokio::sync::watch;

use crate::alerts::sender::{AlertSender, SentAlert};
use crate::edge::EdgeStatus;
use crate::metrics;
use crate::registry::SessionRegistry;
use crate::saved::bulk::BulkWriter;
use crate::saved::store::SavedStore;
use crate::status::endpoints::{ALL_SAVED, PUBLIC, SAVE, SAVE_ALL, SAVED, SEND_ALERT, UNSAVE};
use crate::status::users::Users;

/// The counts of `/v1/stats`.
static COUNTS: [NamedCount; 14] = [
    ("received", &metrics::RECEIVED_EVENTS),
    ("passed_to_shards", &metrics::SHARD_EVENTS),
    ("priorities", &metrics::PRIORITY_EVENTS),
    ("unmatched", &metrics::SHARD_UNMATCHED_EVENTS),
    ("delivered", &metrics::DELIVERIES),
    ("frames", &metrics::FRAMES),
    ("bytes", &metrics::SENT_BYTES),
    ("batches", &metrics::BATCHES),
    ("dropped", &metrics::DROPPED_EVENTS),
    ("conflated", &metrics::CONFLATED_EVENTS),
    ("delayed", &metrics::DELAYED_EVENTS),
    ("unsent", &metrics::UNSENT_EVENTS),
    ("early_frames", &metrics::EARLY_FRAMES),
    ("closes", &metrics::CLOSES),
];

/// The gauges of `/v1/nodes`.
static GAUGES: [NamedCount; 3] = [
    ("open_gaps", &metrics::OPEN_GAPS),
    ("held_bytes", &metrics::HELD_BYTES),
    ("silent_partitions", &metrics::SILENT_PARTITIONS),
];

/// The ratios of `/v1/stats`.
static RATIOS: [NamedRatio; 3] = [
    ("events_per_batch", &metrics::RECEIVED_EVENTS, &metrics::BATCHES),
    ("events_per_frame", &metrics::DELIVERIES, &metrics::FRAMES),
    ("filter_seconds_per_event", &metrics::INDEX_SAMPLED_SECONDS, &metrics::INDEX_SAMPLED_EVENTS),
];

/// The latencies of `/v1/stats`.
static STAGES: [NamedCount; 6] = [
    ("filter", &metrics::FILTER_SECONDS),
    ("deliver", &metrics::DELIVER_SECONDS),
    ("total", &metrics::DELIVERY_SECONDS),
    ("confirm", &metrics::CONFIRM_SECONDS),
    ("repair", &metrics::REPAIR_SECONDS),
    ("backfill", &metrics::BACKFILL_SECONDS),
];

/// What should not happen.
static ERRORS: [&dyn Metric; 6] = [
    &metrics::REFUSED_MESSAGES,
    &metrics::UNSENT_MESSAGES,
    &metrics::UNFILLED_GAPS,
    &metrics::SHARD_SKIPPED_EVENTS,
    &metrics::OVERDUE_TURNS,
    &metrics::INDEX_STALE_ENTRIES,
];

/// What a gateway knows.
#[derive(Debug)]
pub(crate) struct GatewayStatus {
    pub(crate) registry: Arc<SessionRegistry>,
    pub(crate) edge: watch::Receiver<EdgeStatus>,
    pub(crate) users: Arc<Users>,
    /// How many sessions it accepts.
    pub(crate) most_sessions: usize,
    /// How many bytes may wait for a shard.
    pub(crate) most_queued: usize,
}

impl RoleStatus for GatewayStatus {
    fn cluster(&self) -> Value {
        let (size, edge) = (self.registry.size(), self.edge.borrow().clone());
        let wall = timestamp_now().0;
        json!({
            "sessions": size.sessions,
            "users": size.users,
            "subscriptions": size.subscriptions,
            "interest": edge.interest(),
            "coverage": edge.coverage(wall),
        })
    }

    fn counts(&self) -> &'static [NamedCount] {
        &COUNTS
    }

    fn gauges(&self) -> &'static [NamedCount] {
        &GAUGES
    }

    fn ratios(&self) -> &'static [NamedRatio] {
        &RATIOS
    }

    fn stages(&self) -> &'static [NamedCount] {
        &STAGES
    }

    fn load(&self) -> RoleLoad {
        RoleLoad {
            sessions: Some((self.registry.size().sessions, self.most_sessions)),
            queue: Some((self.users.fullest_queue(), self.most_queued)),
            deliveries: Some((&metrics::DELIVERIES, &metrics::DROPPED_EVENTS)),
            filter: Some(&metrics::FILTER_SECONDS),
            deliver: Some(&metrics::DELIVER_SECONDS),
            total: Some(&metrics::DELIVERY_SECONDS),
            errors: &ERRORS,
            ..RoleLoad::default()
        }
    }
}

/// Adds the gateway's endpoints to its admin server.
pub(crate) fn add_routes(
    routes: ApiRoutes,
    users: &Arc<UserService<Users>>,
    store: &Arc<SavedStore>,
    bulk: Arc<BulkWriter>,
    alerts: AlertSender,
) -> ApiRoutes {
    users_of_cluster::add_routes(routes, users)
        .add(&ALL_SAVED, get(saved::list).with_state(Arc::clone(store)))
        .add(&SAVED, get(saved::show).with_state(Arc::clone(store)))
        .add(&SAVE, put(saved::put).with_state(Arc::clone(store)))
        .add(&SAVE_ALL, put(saved::put_all).with_state(bulk))
        .add(&UNSAVE, delete(saved::delete).with_state(Arc::clone(store)))
        .add(&SEND_ALERT, post(send_alert).with_state(Arc::new(alerts)))
        .describe(PUBLIC)
}

async fn send_alert(
    State(alerts): State<Arc<AlertSender>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<SentAlert>, ApiRefusal> {
    let body = body.map_err(|rejection| ApiRefusal::unreadable_body(&rejection, MAX_BODY))?;
    Ok(Json(alerts.send(&body).await?))
}
