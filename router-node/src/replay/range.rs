//! Reads what a part of the stream holds, beginning anywhere: of one partition, or of all.
//!
//! There are two ways. A short part is asked for directly: one request, answered by one server with as many messages as
//! were asked for, and an end; the server takes requests for a batch since 2.11, and the client has no call for it. A
//! long one is read by a consumer made for it, which costs the server a third a message, but a few milliseconds to make.
//!
//! A server that lags ends early, which is for the caller to see: nothing here says that more is to come. A server that
//! has removed more than the leader of the stream would begin late, and is not believed: each batch begins with the last
//! message that is known already, and where there is none, with what the leader says is next.

use super::batch::Batch;
use crate::reader::pull::{Plan, Pull, PullError};
use crate::reader::{Headers, Held, leader};
use serde::Serialize;
use std::fmt;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::claims::{Delivered, Reading};
use tickwire_core::ids::{Partition, Seq};
use tickwire_node::direct::{Answer, Got};
use tickwire_node::link::{LinkError, Message, Status};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How long the server may take for a batch.
const DEADLINE: Duration = Duration::from_secs(1);

/// How many messages are taken at a time, at most: few, so that what is live does not wait behind many.
const BATCH: u64 = 200;

/// How many bytes of messages the server sends for one direct request; it sends at least one message. A consumer may have
/// four times as many on their way.
const MOST_BYTES: usize = 1024 * 1024;

/// A consumer is made for more messages than this.
const LONG: u64 = 2_000;

/// What to read: what comes after `from`, up to `to`, of one partition or of all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Seq,
    pub(super) to: Seq,
    pub(super) partition: Option<Partition>,
    /// How many messages that is, about.
    pub(super) messages: u64,
}

/// A reading under way. Its messages come in order.
pub(super) enum Reader {
    Direct(Box<Direct>),
    Consumer(Box<Consumer>),
}

/// Reads by one request after the other.
pub(super) struct Direct {
    nats: Nats,
    stream: String,
    span: Span,
    after: Seq,
}

/// Reads by a consumer.
pub(super) struct Consumer {
    nats: Nats,
    stream: String,
    filter: String,
    pull: Pull,
    reading: Reading,
    /// Whether the first message was compared with what the leader has.
    compared: bool,
    /// Whether nothing is left to come.
    ended: bool,
}

/// Why nothing could be read.
#[derive(Debug, Error)]
pub(super) enum RangeError {
    #[error("no answer within {DEADLINE:?}")]
    Late,
    #[error("nobody answers direct gets of the stream: is `allow_direct` set?")]
    Nobody,
    #[error("the server refuses: {0}")]
    Refused(String),
    #[error("a message was lost on its way")]
    Hole,
    #[error("a server has removed what the leader of the stream still keeps")]
    Behind,
    #[error("an answer cannot be read: {0}")]
    Unreadable(String),
    #[error("the leader of the stream: {0}")]
    Leader(String),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What the server is asked for.
#[derive(Debug, Serialize)]
struct Request {
    seq: u64,
    batch: u64,
    max_bytes: usize,
    next_by_subj: String,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(direct) => f.debug_struct("Direct").field("span", &direct.span).finish_non_exhaustive(),
            Self::Consumer(consumer) => {
                f.debug_struct("Consumer").field("pull", &consumer.pull).finish_non_exhaustive()
            }
        }
    }
}

impl Reader {
    /// Begins to read. `name` is that of the consumer, should there be one.
    pub(super) async fn open(nats: &Nats, stream: &str, span: Span, name: String) -> Result<Self, RangeError> {
        if span.messages > LONG {
            return Ok(Self::Consumer(Box::new(Consumer::open(nats, stream, span, name).await?)));
        }
        let (nats, stream, after) = (nats.clone(), stream.to_owned(), span.from);
        Ok(Self::Direct(Box::new(Direct { nats, stream, span, after })))
    }

    /// The next messages; none when there are none.
    pub(super) async fn next(&mut self) -> Result<Vec<Held>, RangeError> {
        match self {
            Self::Direct(direct) => direct.next().await,
            Self::Consumer(consumer) => consumer.next().await,
        }
    }

    /// Ends the reading.
    pub(super) async fn close(self) {
        if let Self::Consumer(consumer) = self {
            consumer.pull.close().await;
        }
    }
}

impl Consumer {
    async fn open(nats: &Nats, stream: &str, span: Span, name: String) -> Result<Self, RangeError> {
        let filter = span.partition.map(subject_of).unwrap_or_default();
        let plan = Plan {
            stream,
            name,
            description: format!("reads {} to {} again", span.from, span.to),
            after: span.from,
            filter: filter.clone(),
            batch: BATCH,
            bytes: 4 * MOST_BYTES,
        };
        let pull = Pull::open(nats, plan).await?;
        let ended = pull.pending == 0;
        let (nats, stream, reading) = (nats.clone(), stream.to_owned(), Reading::after(span.from));
        let filter = if filter.is_empty() { names::ALL.to_owned() } else { filter };
        Ok(Self { nats, stream, filter, pull, reading, compared: false, ended })
    }

    async fn next(&mut self) -> Result<Vec<Held>, RangeError> {
        let (mut held, from) = (Vec::new(), self.reading.last);
        while held.is_empty() && !self.ended {
            for message in self.pull.next().await? {
                match self.reading.accept(message.delivery.seq, message.delivery.number) {
                    Delivered::Known => continue,
                    Delivered::Hole => return Err(RangeError::Hole),
                    Delivered::Next => {}
                }
                self.ended = message.delivery.pending == 0;
                held.push(message.held());
            }
        }
        if let Some(first) = held.first()
            && !self.compared
        {
            let next = leader::first_after(&self.nats, &self.stream, from, &self.filter).await;
            if next.map_err(RangeError::Leader)?.is_some_and(|next| next.seq < first.seq) {
                return Err(RangeError::Behind);
            }
            self.compared = true;
        }
        Ok(held)
    }
}

impl Direct {
    async fn next(&mut self) -> Result<Vec<Held>, RangeError> {
        let after = self.after;
        let held = timeout(DEADLINE, self.batch()).await.map_err(|_| RangeError::Late)??;
        // The last known message came first, so that the server has everything behind it.
        let held = match held {
            (true, held) => held,
            (false, held) => self.compare(after, held).await?,
        };
        if let Some(last) = held.last() {
            self.after = last.seq;
        }
        Ok(held)
    }

    /// A batch from one server: the messages behind the last known one, and whether that one came before them.
    async fn batch(&self) -> Result<(bool, Vec<Held>), RangeError> {
        let Self { nats, stream, span, after } = self;
        // About as many as there are: one that lies behind the span completes it, and one that is known begins it.
        let count = span.messages + 17;
        let request = Request {
            seq: after.0.max(1),
            batch: count.min(BATCH),
            max_bytes: MOST_BYTES,
            next_by_subj: span.partition.map_or_else(|| names::ALL.to_owned(), subject_of),
        };
        let request = serde_json::to_vec(&request).map_err(|error| RangeError::Unreadable(error.to_string()))?;
        let inbox = nats.link.new_inbox();
        // The last message may be a large one.
        let most = 2 * (MOST_BYTES + nats.link.max_payload());
        let mut answers = nats.link.subscribe("direct_gets", &inbox, None, most)?;
        nats.link.publish(names::direct_get(stream), Some(&inbox), &request)?;
        let (mut batch, mut held) = (Batch::after(*after), Vec::new());
        while let Some(answer) = answers.next().await {
            match Answer::read(&answer) {
                Answer::Message(got) => {
                    if batch.take(&got)? {
                        held.push(as_held(&answer, &got)?);
                    }
                }
                Answer::End { last, .. } => {
                    batch.end(last)?;
                    return Ok((batch.has_known(), held));
                }
                Answer::Nothing => return Ok((false, Vec::new())),
                Answer::Refused(Status { code: Status::NO_RESPONDERS, .. }) => return Err(RangeError::Nobody),
                Answer::Refused(status) => return Err(RangeError::Refused(status.to_string())),
                Answer::Unreadable => return Err(RangeError::Unreadable(format!("{answer:?}"))),
            }
        }
        Err(LinkError::Closed.into())
    }

    /// What follows `after`, if a server begins with this. What the leader has before it is taken from the leader.
    async fn compare(&self, after: Seq, held: Vec<Held>) -> Result<Vec<Held>, RangeError> {
        let filter = self.span.partition.map_or_else(|| names::ALL.to_owned(), subject_of);
        let next = leader::first_after(&self.nats, &self.stream, after, &filter).await.map_err(RangeError::Leader)?;
        match (next, held.first()) {
            (Some(next), Some(first)) if next.seq < first.seq => Ok(vec![next]),
            // A server that has nothing lags behind the leader, or has removed what the leader still keeps.
            (Some(next), None) => Ok(vec![next]),
            _ => Ok(held),
        }
    }
}

fn as_held(answer: &Message, got: &Got<'_>) -> Result<Held, RangeError> {
    let share = |part: &[u8]| answer.share(part);
    Ok(Held {
        seq: Seq(got.seq),
        stored: leader::read_time(got.stored).map_err(RangeError::Unreadable)?,
        subject: share(got.subject),
        headers: Headers::Cut(share(got.headers)),
        payload: answer.payload_bytes(),
    })
}

fn subject_of(partition: Partition) -> String {
    names::partition(u32::from(partition.0))
}
