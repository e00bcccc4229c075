//! A consumer that is pulled from over our own connection.
//!
//! What is asked for is bounded in messages and bytes, so that what is on its way fits into the queue that waits for it.
//! While there is nothing to deliver the server says once a second that it still looks: when it has been silent for twice
//! that, it is gone, or has forgotten the consumer. It also says how many it has delivered, so that the loss of the last
//! one shows.

use super::delivery::ConsumerDelivery;
use super::{MessageHeaders, StreamMessage};
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use serde::Serialize;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::Seq;
use tickwire_node::link::{LinkError, NatsMessage, Status, Subscriber};
use tickwire_node::nats::Nats;
use tokio::time::{Instant, timeout};
use tracing::debug;

/// How long making or deleting a consumer may take.
const CONSUMER_DEADLINE: Duration = Duration::from_secs(1);

/// After how long the server may delete a consumer that nobody pulls from, should we not do it.
const INACTIVE: Duration = Duration::from_secs(30);

/// How often the server says that it has nothing, and how long it may be silent.
const HEARTBEAT: Duration = Duration::from_secs(1);
pub(crate) const SILENCE: Duration = Duration::from_millis(2_200);

/// How long one request for messages is good for.
const EXPIRES: Duration = Duration::from_secs(30);

/// What a message may have beside what the server counts when it looks whether another fits.
const ROOM: usize = 64 * 1024;

/// What to read.
#[derive(Debug)]
pub(crate) struct PullPlan<'p> {
    pub(crate) stream: &'p str,
    /// The consumer's name, a new one for every consumer: one that is stuck must not stand in the way of the next.
    pub(crate) name: String,
    pub(crate) description: String,
    /// What comes behind this.
    pub(crate) after: Seq,
    /// Of which subjects; empty for all.
    pub(crate) filter: String,
    /// How many messages to ask for at a time, and how many bytes of them. One message may be larger.
    pub(crate) batch: u64,
    pub(crate) bytes: usize,
}

/// Why no more comes.
#[derive(Debug, Clone, Error)]
pub(crate) enum PullError {
    #[error("no consumer within {CONSUMER_DEADLINE:?}")]
    Late,
    #[error("no consumer: {0}")]
    NoConsumer(String),
    #[error("the server of the consumer says nothing any more")]
    Silent,
    #[error("the server has delivered more than came")]
    Missed,
    #[error("the server ends it: {0}")]
    Ended(String),
    #[error("a delivery cannot be read: {0}")]
    Unreadable(String),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct PulledMessage {
    pub(crate) delivery: ConsumerDelivery,
    message: NatsMessage,
}

impl PulledMessage {
    /// As the stream holds it.
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

/// A consumer, and what comes of it.
#[derive(Debug)]
pub(crate) struct Pull {
    nats: Nats,
    stream: String,
    name: String,
    /// How many messages the stream held for it when it was made.
    pub(crate) pending: u64,
    /// The server that has it; `None` where servers form no cluster.
    pub(crate) server: Option<String>,
    inbox: String,
    inlet: Subscriber,
    /// Where it is asked for messages, and with what.
    subject: String,
    request: Vec<u8>,
    asked: PullCredit,
    came: Vec<NatsMessage>,
    /// What ended it behind messages that were still given.
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

/// How many messages are on their way, and how many came.
#[derive(Debug, Clone, Copy)]
struct PullCredit {
    batch: u64,
    outstanding: u64,
    /// The last message's number.
    last: u64,
    /// When the server last said that it has nothing.
    idle_at: Option<Instant>,
}

impl Pull {
    /// Makes the consumer, and asks it for messages.
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
        let made = timeout(CONSUMER_DEADLINE, nats.jetstream.create_consumer_on_stream(config, stream)).await;
        let made: PullConsumer =
            made.map_err(|_| PullError::Late)?.map_err(|error| PullError::NoConsumer(error.to_string()))?;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let request = PullRequest { batch, max_bytes, expires: nanos(EXPIRES), idle_heartbeat: nanos(HEARTBEAT) };
        let request = serde_json::to_vec(&request).map_err(|error| PullError::NoConsumer(error.to_string()))?;
        Ok(Self {
            nats: nats.clone(),
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"),
            stream: stream.to_owned(),
            name,
            pending: made.cached_info().num_pending,
            server: made.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()),
            inbox,
            inlet,
            request,
            asked: PullCredit { batch, outstanding: 0, last: 0, idle_at: None },
            came: Vec::new(),
            end: None,
        })
    }

    /// The next messages, at least one. Nothing is lost if this is dropped.
    pub(crate) async fn next(&mut self) -> Result<Vec<PulledMessage>, PullError> {
        loop {
            if let Some(end) = self.end.take() {
                return Err(end);
            }
            if self.asked.is_due() {
                self.nats.link.publish(&self.subject, Some(&self.inbox), &self.request)?;
                self.asked.again();
            }
            let most = usize::try_from(self.asked.batch).unwrap_or(usize::MAX);
            let count = timeout(SILENCE, self.inlet.next_many(&mut self.came, most)).await;
            match count {
                Ok(0) => return Err(PullError::Link(LinkError::Closed)),
                Ok(_) => {}
                Err(_) => return Err(PullError::Silent),
            }
            let mut pulled = Vec::with_capacity(self.came.len());
            for message in self.came.drain(..) {
                match take(message, self.inbox.as_bytes(), &mut self.asked) {
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

    /// When the server last said that nothing was left to be delivered, if it has.
    pub(crate) fn idle_at(&self) -> Option<Instant> {
        self.asked.idle_at
    }

    /// Deletes the consumer. The server would do so by itself, if later.
    pub(crate) async fn close(self) {
        let Self { nats, stream, name, inlet, .. } = self;
        drop(inlet);
        if !nats.is_connected() {
            return;
        }
        let deletion = nats.jetstream.delete_consumer_from_stream(&name, &stream);
        match timeout(CONSUMER_DEADLINE, deletion).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(name, %error, "the consumer was not deleted"),
            Err(late) => debug!(name, %late, "the consumer was not deleted"),
        }
    }
}

/// What one message is: one of the stream, or a word of the server.
fn take(message: NatsMessage, inbox: &[u8], asked: &mut PullCredit) -> Result<Option<PulledMessage>, PullError> {
    // A message of the stream bears the subject that it is stored under, whatever status its producer wrote into it.
    if message.subject() != inbox {
        let delivery = message.reply().and_then(ConsumerDelivery::read);
        let delivery = delivery.ok_or_else(|| PullError::Unreadable(format!("{message:?}")))?;
        asked.delivered(delivery.number);
        return Ok(Some(PulledMessage { delivery, message }));
    }
    let number = |name: &str| message.header(name).and_then(|text| text.parse::<u64>().ok());
    let status = message.status().ok_or_else(|| PullError::Unreadable(format!("{message:?}")))?;
    match (status.code, number("Nats-Pending-Messages")) {
        (100, _) => match number("Nats-Last-Consumer") {
            Some(delivered) if delivered > asked.last => Err(PullError::Missed),
            _ => {
                asked.idle_at = Some(Instant::now());
                Ok(None)
            }
        },
        (408 | 409, Some(pending)) => asked.ended(pending, status).map(|()| None),
        (Status::NO_RESPONDERS, _) => Err(PullError::Ended("nobody has the consumer".to_owned())),
        _ => Err(PullError::Ended(status.to_string())),
    }
}

impl PullCredit {
    /// Whether more should be asked for, so that there is always something on its way.
    fn is_due(&self) -> bool {
        self.outstanding <= self.batch / 2
    }

    fn again(&mut self) {
        self.outstanding += self.batch;
    }

    fn delivered(&mut self, number: u64) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.last = self.last.max(number);
    }

    /// A request has ended with so many messages not delivered.
    fn ended(&mut self, pending: u64, status: Status<'_>) -> Result<(), PullError> {
        self.outstanding = self.outstanding.saturating_sub(pending);
        // One that ended at its limit of bytes goes on with the next, unless the first message is too large for any.
        let full = status.code == 409 && status.description.contains("MaxBytes");
        if full && pending >= self.batch { Err(PullError::Ended(status.to_string())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> PullCredit {
        PullCredit { batch: 100, outstanding: 0, last: 0, idle_at: None }
    }

    #[test]
    fn more_is_asked_for_when_half_of_it_came() {
        let mut asked = asked();
        assert!(asked.is_due());
        asked.again();
        (1..50).for_each(|number| asked.delivered(number));
        assert!(!asked.is_due());
        asked.delivered(50);
        assert!(asked.is_due());
        asked.again();
        assert_eq!(asked.outstanding, 150);
        let over = Status { code: 408, description: "Request Timeout" };
        asked.ended(50, over).unwrap();
        asked.ended(100, over).unwrap();
        assert_eq!(asked.outstanding, 0);
    }

    #[test]
    fn a_request_that_is_full_goes_on_and_a_message_that_fits_into_none_ends_it() {
        let full = Status { code: 409, description: "Message Size Exceeds MaxBytes" };
        let mut asked = asked();
        asked.again();
        asked.delivered(1);
        asked.ended(99, full).unwrap();
        asked.again();
        assert!(matches!(asked.ended(100, full), Err(PullError::Ended(_))));
    }
}
