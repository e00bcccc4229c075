//! What the client library reports of its connection: each event is logged and counted, and refusals are kept, since the
//! server does not answer what it denies.

use crate::connection_health::ConnectionHealth;
use crate::metrics;
use crate::nats_login::is_login_refusal;
use async_nats::Event;
use tokio::sync::watch;
use tracing::{error, info, warn};

/// How many refusals are remembered.
pub(super) const REFUSALS: usize = 256;

/// Logs, counts and passes on an event of the connection.
pub(super) fn note(name: &str, event: &Event, health: &ConnectionHealth, refusals: &watch::Sender<Vec<String>>) {
    let label = match event {
        Event::Connected => {
            info!(connection = name, "connected to NATS");
            health.set_client(true);
            "connected"
        }
        Event::Disconnected => {
            warn!(connection = name, "lost the connection to NATS");
            health.set_client(false);
            "disconnected"
        }
        Event::LameDuckMode => {
            warn!(connection = name, "NATS server about to stop");
            "lame_duck"
        }
        Event::Draining => "draining",
        Event::Closed => {
            health.set_client(false);
            "closed"
        }
        Event::SlowConsumer(subscription) => {
            warn!(connection = name, subscription, "subscription too slow, messages from NATS dropped");
            "slow_consumer"
        }
        Event::ServerError(refusal) if is_login_refusal(&refusal.to_string()) => {
            // The server ends the connection, and the next one has the login that is in the files then.
            warn!(connection = name, reason = %refusal, "NATS no longer accepts the login");
            "login_ended"
        }
        Event::ServerError(refusal) => {
            error!(connection = name, reason = %refusal, "NATS refused a request");
            refusals.send_modify(|refusals| {
                let refusal = refusal.to_string();
                // Repeated refusals say nothing new, and no number of them may use ever more memory.
                if refusals.len() < REFUSALS && !refusals.contains(&refusal) {
                    refusals.push(refusal);
                }
            });
            "server_error"
        }
        Event::ClientError(problem) if is_login_refusal(&problem.to_string()) => {
            warn!(connection = name, reason = %problem, "NATS refused the login, trying again");
            "login_refused"
        }
        Event::ClientError(problem) => {
            warn!(connection = name, reason = %problem, "error on the connection to NATS");
            "client_error"
        }
    };
    metrics::NATS_EVENTS.with(label).increment(1);
}
