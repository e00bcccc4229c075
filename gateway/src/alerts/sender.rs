//! Sends alerts: stores them as producers do, and says whether their users are connected.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use serde::Serialize;
use tickwire_core::event::{Kinds, Priority};
use tickwire_core::ids::{NodeId, UserId};
use tickwire_node::api::ApiRefusal;
use tickwire_node::clock::timestamp_now;
use tickwire_node::nats::Nats;
use tickwire_node::stored::{self, MessageSelector};
use tokio::time::timeout;
use tracing::debug;

use super::new_alert::NewAlert;
use super::presence::{Connected, Presence, PresenceFinder};

/// How long the stream may take to store an alert.
const DEADLINE: Duration = Duration::from_secs(2);

/// How often an alert is stored under a message id that another message has. The second one is drawn, so it is free.
const TRIES: usize = 2;

/// Sends alerts.
#[derive(Debug)]
pub(crate) struct AlertSender {
    nats: Nats,
    /// The stream of events.
    stream: String,
    kinds: Arc<Kinds>,
    finder: PresenceFinder,
}

/// The answer to a sender.
#[derive(Debug, Serialize)]
pub(crate) struct SentAlert {
    user: UserId,
    id: String,
    priority: Priority,
    seq: u64,
    /// Whether the stream had it already.
    duplicate: bool,
    connected: Connected,
    /// The gateways that have answered.
    evidence: Vec<GatewayEvidence>,
    /// The gateways that have not.
    silent: Vec<NodeId>,
}

/// How many sessions the user has on a gateway.
#[derive(Debug, Serialize)]
struct GatewayEvidence {
    gateway: NodeId,
    sessions: u32,
}

impl AlertSender {
    pub(crate) fn new(nats: Nats, stream: String, kinds: Arc<Kinds>, finder: PresenceFinder) -> Self {
        Self { nats, stream, kinds, finder }
    }

    /// Stores the alert of a request, and then looks for sessions of its user.
    pub(crate) async fn send(&self, body: &[u8]) -> Result<SentAlert, ApiRefusal> {
        let now = timestamp_now();
        let drawn_id = format!("{:032x}", rand::random::<u128>());
        let mut alert = NewAlert::read(body, &self.kinds, &self.stream, now, &drawn_id)?;
        let (seq, duplicate) = self.store(&mut alert).await?;
        let presence = self.finder.find(&alert.user).await;
        Ok(SentAlert::new(alert, seq, duplicate, &presence))
    }

    /// Returns its sequence, and whether the stream had it already; then `alert` has the id and the priority of what is
    /// stored. The stream compares message ids of all subjects, so what it takes for a repetition may be a message of
    /// somebody else. Then the alert is stored under another message id, which nobody can know.
    async fn store(&self, alert: &mut NewAlert) -> Result<(u64, bool), ApiRefusal> {
        for _ in 0..TRIES {
            let (seq, duplicate) = self.publish(alert).await?;
            if !duplicate {
                return Ok((seq, false));
            }
            let found = stored::get(&self.nats.jetstream, &self.stream, MessageSelector::At(seq)).await;
            let found = found.map_err(|error| not_stored(&error))?;
            if let Some((id, priority)) = found.and_then(|message| alert.seen_in(&message, &self.kinds, &self.stream)) {
                (alert.id, alert.priority) = (id, priority);
                return Ok((seq, true));
            }
            debug!(user = %alert.user, msg_id = alert.msg_id, seq, "message id of an alert used by another message");
            alert.msg_id = format!("{}:{:032x}", alert.msg_id, rand::random::<u128>());
        }
        Err(not_stored(&"another message has its message id"))
    }

    /// Publishes it. Returns the sequence of the message with its message id, and whether that was there before.
    async fn publish(&self, alert: &NewAlert) -> Result<(u64, bool), ApiRefusal> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, alert.msg_id.as_str());
        let (began, subject, payload) = (self.nats.writes.now(), alert.subject.clone(), alert.payload.clone());
        let publish = async {
            let sent = self.nats.jetstream.publish_with_headers(subject, headers, payload.into()).await?;
            sent.await
        };
        let published = timeout(DEADLINE, publish).await;
        if let Ok(ended) = &published {
            self.nats.writes.note(&self.stream, &alert.subject, began, ended.as_ref().map(drop));
        }
        match published {
            Ok(Ok(stored)) => Ok((stored.sequence, stored.duplicate)),
            Ok(Err(failure)) => Err(not_stored(&failure)),
            Err(late) => Err(not_stored(&late)),
        }
    }
}

fn not_stored(failure: &dyn Display) -> ApiRefusal {
    let message = format!(
        "the stream has not acknowledged the alert: {failure}; it may be stored nevertheless, so repeat the request with \
         an alert_id"
    );
    ApiRefusal::later("not_stored", message)
}

impl SentAlert {
    fn new(alert: NewAlert, seq: u64, duplicate: bool, presence: &Presence) -> Self {
        let evidence = |(gateway, sessions): (&NodeId, u32)| GatewayEvidence { gateway: gateway.clone(), sessions };
        Self {
            user: alert.user,
            id: alert.id,
            priority: alert.priority,
            seq,
            duplicate,
            connected: presence.connected(),
            evidence: presence.sessions().map(evidence).collect(),
            silent: presence.silent().cloned().collect(),
        }
    }
}
