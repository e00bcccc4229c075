//! Interest messages of gateways, on their way to the engine: deltas and beats as they arrive, and snapshots, which the
//! engine requests when it sees that a delta was missed.

use crate::metrics;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::time::Duration;
use tickwire_core::backoff::Backoff;
use tickwire_core::ids::{NodeRef, Revision};
use tickwire_core::interest::table::{InterestRefused, SharedInterest, TableLimits};
use tickwire_core::interest::{Delta, InterestBeat, SnapshotPart};
use tickwire_core::wire;
use tickwire_node::link::{LinkError, LinkSubscriber, NatsMessage, Status};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::start::StartError;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// How many bytes of deltas may wait for the engine. After a dropped one it requests a snapshot.
const DELTA_BYTES: usize = 32 * 1024 * 1024;

/// How many bytes of beats may wait. A dropped one is followed by another.
const BEAT_BYTES: usize = 4 * 1024 * 1024;

/// The bytes of a snapshot's messages beside the interest, while they wait.
const BESIDE: usize = 64 * 1024;

/// How long a gateway may take to send its whole interest.
pub const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(1);

/// The pauses before further requests for a snapshot.
pub const SNAPSHOT_BACKOFF: Backoff = Backoff { first: 50, most: 2_000 };

/// A message that a gateway sends by itself.
#[derive(Debug)]
pub enum InterestMessage {
    /// A change of its interest.
    Delta(Delta),
    /// The revision of its interest.
    Beat(InterestBeat),
    /// An unreadable message.
    Nothing,
}

/// An inquiry to the engine: the interest of a gateway at a revision or a later one. `None` means that it is not known
/// here.
#[derive(Debug)]
pub(crate) struct InterestInquiry {
    pub(crate) gateway: NodeRef,
    pub(crate) least: Revision,
    pub(crate) answer: oneshot::Sender<Option<(Revision, SharedInterest)>>,
}

/// The subscriptions to interest messages.
#[derive(Debug)]
pub struct InterestSubscription {
    deltas: LinkSubscriber,
    beats: LinkSubscriber,
}

impl InterestSubscription {
    /// Subscribes.
    ///
    /// # Errors
    /// When the connection to NATS has ended.
    pub fn subscribe(nats: &Nats) -> Result<Self, StartError> {
        let subscribe = |queue: &'static str, subject: &'static str, most: usize| {
            let subscribed = nats.link.subscribe(queue, subject, None, most);
            subscribed.map_err(|error| StartError::Part {
                part: "interest",
                reason: format!("cannot subscribe to {subject}: {error}"),
            })
        };
        Ok(Self {
            deltas: subscribe("interest_deltas", names::INTEREST_ALL, DELTA_BYTES)?,
            beats: subscribe("interest_beats", names::INTEREST_BEATS_ALL, BEAT_BYTES)?,
        })
    }

    /// The next message of a gateway; `None` when the connection is closed. An unreadable message is returned as
    /// [`InterestMessage::Nothing`], so that a flood of them has turns like any other messages.
    pub async fn next(&mut self) -> Option<InterestMessage> {
        // Deltas first: a beat that announces a delta was sent after it, and would look as if the delta was missed.
        let message = tokio::select! {
            biased;
            message = self.deltas.next() => {
                let message = message?;
                let own = |delta: &Delta| is_own(&message, &names::interest(delta.gateway.id.as_str()));
                read(message.payload()).filter(own).map(InterestMessage::Delta)
            }
            message = self.beats.next() => {
                let message = message?;
                let own = |beat: &InterestBeat| is_own(&message, &names::interest_beat(beat.gateway.id.as_str()));
                read(message.payload()).filter(own).map(InterestMessage::Beat)
            }
        };
        Some(message.unwrap_or(InterestMessage::Nothing))
    }
}

/// Whether a message has the subject of the gateway that it names. A gateway can be permitted to send only its own
/// interest.
fn is_own(message: &NatsMessage, subject: &str) -> bool {
    let is_own = message.subject() == subject.as_bytes();
    if !is_own {
        metrics::INTEREST_REFUSED.with("other_gateway").increment(1);
        debug!(subject = %message.subject_text(), expected = subject, "interest message of another gateway refused");
    }
    is_own
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    match wire::decode(payload) {
        Ok(message) => Some(message),
        Err(error) => {
            metrics::INTEREST_REFUSED.with("unreadable").increment(1);
            debug!(%error, "unreadable interest message refused");
            None
        }
    }
}

/// Asks a gateway for its whole interest; `None` if it did not arrive. There is a pause before every attempt but the
/// first, which doubles each time.
pub async fn request_snapshot(nats: &Nats, gateway: &NodeRef, attempt: u32) -> Option<Vec<SnapshotPart>> {
    if attempt > 0 {
        sleep(Duration::from_millis(SNAPSHOT_BACKOFF.after(attempt))).await;
    }
    metrics::SNAPSHOT_REQUESTS.increment(1);
    match timeout(SNAPSHOT_DEADLINE, collect(nats, gateway)).await {
        Ok(Ok(parts)) => Some(parts),
        Ok(Err(reason)) => {
            debug!(%gateway, reason, "snapshot not received");
            None
        }
        Err(_) => {
            debug!(%gateway, "snapshot not received in time");
            None
        }
    }
}

async fn collect(nats: &Nats, gateway: &NodeRef) -> Result<Vec<SnapshotPart>, String> {
    let inbox = nats.link.new_inbox();
    let failed = |error: LinkError| error.to_string();
    // A larger snapshot would be refused anyway.
    let most = TableLimits::default().gateway_bytes;
    let mut answers = nats.link.subscribe("snapshots", &inbox, None, most + BESIDE).map_err(failed)?;
    let subject = names::snapshot(gateway.id.as_str(), &gateway.nonce.to_string());
    nats.link.publish(subject, Some(&inbox), b"").map_err(failed)?;
    let (mut parts, mut numbers, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
    while let Some(answer) = answers.next().await {
        if answer.status().is_some_and(|status| status.code == Status::NO_RESPONDERS) {
            return Err("no subscriber for the request".to_owned());
        }
        bytes += answer.payload().len();
        if bytes > most {
            note_refused(gateway, InterestRefused::TooLarge);
            return Err("the snapshot is too large".to_owned());
        }
        let part: SnapshotPart = wire::decode(answer.payload()).map_err(|error| error.to_string())?;
        let total = part.parts as usize;
        if numbers.insert(part.part) {
            parts.push(part);
        }
        if parts.len() >= total {
            return Ok(parts);
        }
    }
    Err("the connection was closed".to_owned())
}

/// Logs and counts a refused interest message.
pub(crate) fn note_refused(gateway: &NodeRef, refused: InterestRefused) {
    metrics::INTEREST_REFUSED.with(refused.as_str()).increment(1);
    warn!(%gateway, reason = refused.as_str(), "interest message of a gateway refused");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_node::config::{Config, LoadOptions};
    use tickwire_testkit::NatsServer;

    #[tokio::test]
    async fn interest_on_the_subject_of_another_gateway_is_refused() {
        let server = NatsServer::start();
        let sets = vec![("nats.url".to_owned(), server.url())];
        let config = Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap();
        let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
        let mut messages = InterestSubscription::subscribe(&nats).unwrap();
        nats.check().await.unwrap();
        let gateway = NodeRef { id: NodeId::new("g1").unwrap(), nonce: Nonce(1) };
        let beat = wire::encode(&InterestBeat { gateway, revision: Revision(7), reached: None }).unwrap();
        for sender in ["g2", "g1"] {
            nats.client.publish(names::interest_beat(sender), beat.clone().into()).await.unwrap();
        }
        assert!(matches!(messages.next().await, Some(InterestMessage::Nothing)));
        assert!(matches!(messages.next().await, Some(InterestMessage::Beat(beat)) if beat.revision == Revision(7)));
    }
}
