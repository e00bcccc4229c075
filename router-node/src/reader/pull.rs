//! A pull consumer over our own connection.
//!
//! A request is bounded in messages and bytes, so that all messages on their way fit into the queue. While there is
//! nothing to deliver, the server sends a heartbeat once a second. When it has been silent for twice that, it is gone,
//! or has forgotten the consumer. The heartbeat also has the number of delivered messages, so that the loss of the last
//! one shows.

use super::delivery::ConsumerDelivery;
use super::{MessageHeaders, StreamMessage};
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use serde::Serialize;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::Seq;
use tickwire_node::link::{LinkError, LinkSubscriber, NatsMessage, Status};
use tickwire_node::nats::{ConnectionLost, Nats};
use tokio::time::{Instant, timeout};
use tracing::debug;

/// How long creating or deleting a consumer may take.
const CONSUMER_DEADLINE: Duration = Duration::from_secs(1);

/// After how long the server may delete a consumer that nobody pulls from, if we have not deleted it. A connection that
/// ends again and again leaves one each time, and the server makes no more of them at its limit.
const INACTIVE: Duration = Duration::from_secs(10);

/// How often an idle server sends a heartbeat, and how long it may be silent.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// After how long a silence a consumer is given up: two heartbeats, and some time on the way.
pub const SILENCE: Duration = Duration::from_millis(2_200);

/// How long one request for messages is valid.
const EXPIRES: Duration = Duration::from_secs(30);

/// The bytes of a message that the server does not count when it checks whether another message fits.
const ROOM: usize = 64 * 1024;

/// What to read.
#[derive(Debug)]
pub(crate) struct PullPlan<'p> {
    pub(crate) stream: &'p str,
    /// The consumer's name, a new one for every consumer: a stuck consumer must not block the next.
    pub(crate) name: String,
    pub(crate) description: String,
    /// Read messages after this sequence.
    pub(crate) after: Seq,
    /// The subjects; empty for all.
    pub(crate) filter: String,
    /// How many messages a request asks for, and how many bytes of them. One message may be larger.
    pub(crate) batch: u64,
    pub(crate) bytes: usize,
}

/// Why the reading has ended.
#[derive(Debug, Clone, Error)]
pub(crate) enum PullError {
    #[error("no consumer within {CONSUMER_DEADLINE:?}")]
    Late,
    #[error("no consumer: {0}")]
    NoConsumer(String),
    #[error("the server of the consumer is silent")]
    Silent,
    #[error("the server has delivered more messages than were received")]
    Missed,
    #[error("the server ended the request: {0}")]
    Ended(String),
    #[error("a delivery cannot be read: {0}")]
    Unreadable(String),
    #[error(transparent)]
    Disconnected(#[from] ConnectionLost),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A delivered message.
#[derive(Debug)]
pub(crate) struct PulledMessage {
    pub(crate) delivery: ConsumerDelivery,
    message: NatsMessage,
}

impl PulledMessage {
    /// The message as it is stored in the stream.
    pub(crate) fn held(&self) -> StreamMessage {
        let ConsumerDelivery { seq, stored, .. } = self.delivery;
        StreamMessage {
            seq,
            stored,
            subject: self.message.subject_bytes(),
            headers: self.message.headers_bytes().map_or(MessageHeaders::None, MessageHeaders::Whole),
            payload: self.message.payload_bytes(),
        }
    }
}

/// A consumer and its deliveries.
#[derive(Debug)]
pub(crate) struct Pull {
    nats: Nats,
    stream: String,
    name: String,
    /// How many messages waited for it in the stream when it was created.
    pub(crate) pending: u64,
    /// The server that has it; `None` if the servers form no cluster.
    pub(crate) server: Option<String>,
    inbox: String,
    inlet: LinkSubscriber,
    /// The subject of requests, and their payload.
    subject: String,
    request: Vec<u8>,
    credit: PullCredit,
    received: Vec<NatsMessage>,
    /// The failure that followed messages which were still returned.
    end: Option<PullError>,
}

#[derive(Debug, Serialize)]
struct PullRequest {
    batch: u64,
    max_bytes: usize,
    /// Both in nanoseconds.
    expires: u64,
    idle_heartbeat: u64,
}

/// How many messages are on their way, and the number of the last one.
#[derive(Debug, Clone, Copy)]
struct PullCredit {
    batch: u64,
    outstanding: u64,
    /// The number of the last received message.
    last: u64,
    /// When the server last reported that it is idle.
    idle_at: Option<Instant>,
}

impl Pull {
    /// Creates the consumer.
    pub(crate) async fn open(nats: &Nats, plan: PullPlan<'_>) -> Result<Self, PullError> {
        let PullPlan { stream, name, description, after, filter, batch, bytes } = plan;
        let max_bytes = bytes.max(nats.link.max_payload() + ROOM);
        let inbox = nats.link.new_inbox();
        // Two requests are on their way at most. Each message takes a little more than the server counts.
        let most = 2 * (max_bytes + batch as usize * 256);
        let inlet = nats.link.subscribe("deliveries", &inbox, None, most)?;
        let config = Config {
            name: Some(name.clone()),
            description: Some(description),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after.0.saturating_add(1) },
            ack_policy: AckPolicy::None,
            filter_subject: filter,
            inactive_threshold: INACTIVE,
            num_replicas: 1,
            memory_storage: true,
            ..Config::default()
        };
        let made = nats.while_connected(nats.jetstream.create_consumer_on_stream(config, stream));
        let made = timeout(CONSUMER_DEADLINE, made).await.map_err(|_| PullError::Late)??;
        let made: PullConsumer = made.map_err(|error| PullError::NoConsumer(error.to_string()))?;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let request = PullRequest { batch, max_bytes, expires: nanos(EXPIRES), idle_heartbeat: nanos(HEARTBEAT) };
        let request = serde_json::to_vec(&request).map_err(|error| PullError::NoConsumer(error.to_string()))?;
        Ok(Self {
            nats: nats.clone(),
            subject: nats.api(&format!("CONSUMER.MSG.NEXT.{stream}.{name}")),
            stream: stream.to_owned(),
            name,
            pending: made.cached_info().num_pending,
            server: made.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()),
            inbox,
            inlet,
            request,
            credit: PullCredit { batch, outstanding: 0, last: 0, idle_at: None },
            received: Vec::new(),
            end: None,
        })
    }

    /// The next messages, at least one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Vec<PulledMessage>, PullError> {
        loop {
            if let Some(end) = self.end.take() {
                return Err(end);
            }
            if self.credit.is_due() {
                self.nats.link.publish(&self.subject, Some(&self.inbox), &self.request)?;
                self.credit.requested();
            }
            let most = usize::try_from(self.credit.batch).unwrap_or(usize::MAX);
            let count = timeout(SILENCE, self.inlet.next_many(&mut self.received, most)).await;
            match count {
                Ok(0) => return Err(PullError::Link(LinkError::Closed)),
                Ok(_) => {}
                Err(_) => return Err(PullError::Silent),
            }
            let mut pulled = Vec::with_capacity(self.received.len());
            for message in self.received.drain(..) {
                match take(message, self.inbox.as_bytes(), &mut self.credit) {
                    Ok(Some(delivered)) => pulled.push(delivered),
                    Ok(None) => {}
                    Err(end) => {
                        self.end = Some(end);
                        break;
                    }
                }
            }
            if !pulled.is_empty() {
                return Ok(pulled);
            }
        }
    }

    /// When the server last reported that nothing was left to deliver, if it has.
    pub(crate) fn idle_at(&self) -> Option<Instant> {
        self.credit.idle_at
    }

    /// Deletes the consumer. Otherwise the server would do this by itself, later.
    pub(crate) async fn close(self) {
        let Self { nats, stream, name, inlet, .. } = self;
        drop(inlet);
        if !nats.is_connected() {
            return;
        }
        let deletion = nats.while_connected(nats.jetstream.delete_consumer_from_stream(&name, &stream));
        match timeout(CONSUMER_DEADLINE, deletion).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => debug!(name, %error, "consumer not deleted"),
            Ok(Err(error)) => debug!(name, %error, "consumer not deleted"),
            Err(late) => debug!(name, %late, "consumer not deleted"),
        }
    }
}

/// Classifies one received message: a message of the stream, or a status of the server.
fn take(message: NatsMessage, inbox: &[u8], credit: &mut PullCredit) -> Result<Option<PulledMessage>, PullError> {
    // A message of the stream has the subject that it is stored under, even if its producer wrote a status into it.
    if message.subject() != inbox {
        let delivery = message.reply().and_then(ConsumerDelivery::read);
        let delivery = delivery.ok_or_else(|| PullError::Unreadable(format!("{message:?}")))?;
        credit.delivered(delivery.number);
        return Ok(Some(PulledMessage { delivery, message }));
    }
    let number = |name: &str| message.header(name).and_then(|text| text.parse::<u64>().ok());
    let status = message.status().ok_or_else(|| PullError::Unreadable(format!("{message:?}")))?;
    match (status.code, number("Nats-Pending-Messages")) {
        (100, _) => match number("Nats-Last-Consumer") {
            Some(delivered) if delivered > credit.last => Err(PullError::Missed),
            _ => {
                credit.idle_at = Some(Instant::now());
                Ok(None)
            }
        },
        (408 | 409, Some(pending)) => credit.ended(pending, status).map(|()| None),
        (Status::NO_RESPONDERS, _) => Err(PullError::Ended("no server has the consumer".to_owned())),
        _ => Err(PullError::Ended(status.to_string())),
    }
}

impl PullCredit {
    /// Whether to request more, so that messages are always on their way.
    fn is_due(&self) -> bool {
        self.outstanding <= self.batch / 2
    }

    fn requested(&mut self) {
        self.outstanding += self.batch;
    }

    fn delivered(&mut self, number: u64) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.last = self.last.max(number);
    }

    /// A request has ended with `pending` messages not delivered.
    fn ended(&mut self, pending: u64, status: Status<'_>) -> Result<(), PullError> {
        self.outstanding = self.outstanding.saturating_sub(pending);
        // After an end at the limit of bytes the next request goes on, unless the first message is too large for any.
        let full = status.code == 409 && status.description.contains("MaxBytes");
        if full && pending >= self.batch { Err(PullError::Ended(status.to_string())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credit() -> PullCredit {
        PullCredit { batch: 100, outstanding: 0, last: 0, idle_at: None }
    }

    #[test]
    fn more_is_requested_when_half_was_received() {
        let mut credit = credit();
        assert!(credit.is_due());
        credit.requested();
        (1..50).for_each(|number| credit.delivered(number));
        assert!(!credit.is_due());
        credit.delivered(50);
        assert!(credit.is_due());
        credit.requested();
        assert_eq!(credit.outstanding, 150);
        let over = Status { code: 408, description: "Request Timeout" };
        credit.ended(50, over).unwrap();
        credit.ended(100, over).unwrap();
        assert_eq!(credit.outstanding, 0);
    }

    #[test]
    fn request_at_its_byte_limit_goes_on_but_a_too_large_message_ends_it() {
        let full = Status { code: 409, description: "Message Size Exceeds MaxBytes" };
        let mut credit = credit();
        credit.requested();
        credit.delivered(1);
        credit.ended(99, full).unwrap();
        credit.requested();
        assert!(matches!(credit.ended(100, full), Err(PullError::Ended(_))));
    }
}
