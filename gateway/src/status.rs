//! The status of a gateway for operators and producers, beside that of every node (`tickwire_node::status`): its
//! sessions, interest and coverage in `/v1/cluster`, its counts, and the [users](users) with sessions here.
//!
//! * `endpoints` is the table of the gateway's endpoints;
//! * `users` reads and closes the sessions of a user;
//! * `saved` reads and changes the saved subscriptions of a user.
//!
//! [`alerts`](crate::alerts) sends alerts to a user.

pub(crate) mod endpoints;
mod saved;
pub(crate) mod users;

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::routing::{delete, get, post, put};
use serde::Serialize;
use serde_json::{Value, json};
use tickwire_core::ids::{NodeId, UserId};
use tickwire_node::api::{ApiRefusal, ApiRoutes};
use tickwire_node::clock::timestamp_now;
use tickwire_node::status::{NamedCount, NamedRatio, RoleLoad, RoleStatus};
use tokio::sync::watch;

use crate::alerts::sender::{AlertSender, SentAlert};
use crate::edge::EdgeStatus;
use crate::metrics;
use crate::registry::SessionRegistry;
use crate::saved::store::SavedStore;
use crate::status::endpoints::{CLOSE_SESSIONS, PUBLIC, SAVE, SAVE_ALL, SAVED, SEND_ALERT, UNSAVE, USER};
use crate::status::users::{UserStatus, Users};

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

/// The ratios of `/v1/stats`.
static RATIOS: [NamedRatio; 3] = [
    ("events_per_batch", &metrics::RECEIVED_EVENTS, &metrics::BATCHES),
    ("events_per_frame", &metrics::DELIVERIES, &metrics::FRAMES),
    ("filter_seconds_per_event", &metrics::INDEX_SAMPLED_SECONDS, &metrics::INDEX_SAMPLED_EVENTS),
];

/// The latencies of `/v1/stats`.
static STAGES: [NamedCount; 4] = [
    ("total", &metrics::DELIVERY_SECONDS),
    ("confirm", &metrics::CONFIRM_SECONDS),
    ("repair", &metrics::REPAIR_SECONDS),
    ("backfill", &metrics::BACKFILL_SECONDS),
];

/// What a gateway knows.
#[derive(Debug)]
pub(crate) struct GatewayStatus {
    pub(crate) registry: Arc<SessionRegistry>,
    pub(crate) edge: watch::Receiver<EdgeStatus>,
    /// How many sessions it accepts.
    pub(crate) most_sessions: usize,
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

    fn ratios(&self) -> &'static [NamedRatio] {
        &RATIOS
    }

    fn stages(&self) -> &'static [NamedCount] {
        &STAGES
    }

    fn load(&self) -> RoleLoad {
        let sessions = Some((self.registry.size().sessions, self.most_sessions));
        RoleLoad { sessions, drops: Some(&metrics::DROPPED_EVENTS), lag: None }
    }
}

/// Adds the gateway's endpoints to its admin server.
pub(crate) fn add_routes(
    routes: ApiRoutes,
    users: &Arc<Users>,
    store: &Arc<SavedStore>,
    alerts: AlertSender,
) -> ApiRoutes {
    routes
        .add(&USER, get(user).with_state(Arc::clone(users)))
        .add(&CLOSE_SESSIONS, delete(close_sessions).with_state(Arc::clone(users)))
        .add(&SAVED, get(saved::show).with_state(Arc::clone(store)))
        .add(&SAVE, put(saved::put).with_state(Arc::clone(store)))
        .add(&SAVE_ALL, put(saved::put_all).with_state(Arc::clone(store)))
        .add(&UNSAVE, delete(saved::delete).with_state(Arc::clone(store)))
        .add(&SEND_ALERT, post(send_alert).with_state(Arc::new(alerts)))
        .describe(PUBLIC)
}

/// The user of a path.
type UserOfPath = Result<Path<String>, PathRejection>;

/// What was closed.
#[derive(Serialize)]
struct ClosedSessions {
    user: UserId,
    gateway: NodeId,
    closed: usize,
}

async fn user(State(users): State<Arc<Users>>, user: UserOfPath) -> Result<Json<UserStatus>, ApiRefusal> {
    Ok(Json(users.status(&read(user)?).await))
}

async fn close_sessions(State(users): State<Arc<Users>>, user: UserOfPath) -> Result<Json<ClosedSessions>, ApiRefusal> {
    let user = read(user)?;
    match users.close(&user).await {
        Some(closed) => Ok(Json(ClosedSessions { user, gateway: users.gateway().clone(), closed })),
        None => {
            Err(ApiRefusal::later("unanswered", "the shard of this user did not answer in time; repeat the request"))
        }
    }
}

async fn send_alert(
    State(alerts): State<Arc<AlertSender>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<SentAlert>, ApiRefusal> {
    let body = body.map_err(|rejection| ApiRefusal::unreadable_body(&rejection))?;
    Ok(Json(alerts.send(&body).await?))
}

fn read(user: UserOfPath) -> Result<UserId, ApiRefusal> {
    let Path(user) = user.map_err(|rejection| bad_user(&rejection.to_string()))?;
    UserId::new(&user).map_err(|error| bad_user(&error.to_string()))
}

fn bad_user(reason: &str) -> ApiRefusal {
    ApiRefusal::bad_request("bad_user", format!("the user in the path is not valid: {reason}"))
}
