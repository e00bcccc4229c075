//! Reads what a part of the stream holds, beginning anywhere: of one partition, or of all.
//!
//! There are two ways. A short part is asked for directly: one request, answered by one server with as many messages as
//! were asked for, and an end; the server takes requests for a batch since 2.11, and the client has no call for it. A
//! long one is read by a consumer made for it, which costs the server a third a message, but a few milliseconds to make.
//!
//! A server that lags ends early, which is for the caller to see: nothing here says that more is to come.

use crate::decode::StoredMessage;
use async_nats::header::{NATS_SEQUENCE, NATS_SUBJECT};
use async_nats::jetstream::consumer::pull::{self, MessagesError};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::message::StreamMessage;
use async_nats::{HeaderMap, Message, StatusCode, Subject, jetstream};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::claims::{Delivered, Reading};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Partition, Seq};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;
use tracing::debug;

/// How long the server may take for a batch, or to make a consumer.
const DEADLINE: Duration = Duration::from_secs(1);

/// How many messages are taken at a time, at most: few, so that what is live does not wait behind many.
const BATCH: u64 = 200;

/// How many bytes of messages the server sends for one direct request; it sends at least one message. A consumer may have
/// four times as many on their way.
const MOST_BYTES: usize = 1024 * 1024;

/// A consumer is made for more messages than this.
const LONG: u64 = 2_000;

/// After how long the server may delete a consumer that nobody pulls from, should we not do it.
const INACTIVE: Duration = Duration::from_secs(30);

/// A message as the stream holds it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) seq: Seq,
    stored: Timestamp,
    subject: Subject,
    headers: Option<HeaderMap>,
    payload: Bytes,
}

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
    Direct(Direct),
    Consumer(Consumer),
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
    name: String,
    chunks: Chunks,
    reading: Reading,
    /// Whether nothing is left to come.
    ended: bool,
}

type Chunks = Pin<Box<dyn Stream<Item = Vec<Result<jetstream::Message, MessagesError>>> + Send>>;

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
    #[error("{0}")]
    Client(String),
}

/// What the server is asked for.
#[derive(Debug, Serialize)]
struct Request {
    seq: u64,
    batch: u64,
    max_bytes: usize,
    next_by_subj: String,
}

impl Held {
    /// For the decoder.
    pub(super) fn as_stored(&self) -> StoredMessage<'_> {
        let Self { seq, stored, subject, headers, payload } = self;
        StoredMessage { subject, headers: headers.as_ref(), payload, seq: *seq, stored: *stored }
    }

    /// From the answer to a direct get.
    fn got(answer: Message) -> Result<Self, RangeError> {
        let StreamMessage { subject, sequence, headers, payload, time } =
            StreamMessage::try_from(answer).map_err(|error| client(&error))?;
        let stored = millis(time.unix_timestamp_nanos());
        Ok(Self { seq: Seq(sequence), stored, subject, headers: Some(headers), payload })
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(direct) => f.debug_struct("Direct").field("span", &direct.span).finish_non_exhaustive(),
            Self::Consumer(consumer) => {
                f.debug_struct("Consumer").field("name", &consumer.name).finish_non_exhaustive()
            }
        }
    }
}

impl Reader {
    /// Begins to read. `name` is that of the consumer, should there be one.
    pub(super) async fn open(nats: &Nats, stream: &str, span: Span, name: String) -> Result<Self, RangeError> {
        if span.messages > LONG {
            return Ok(Self::Consumer(Consumer::open(nats, stream, span, name).await?));
        }
        Ok(Self::Direct(Direct { nats: nats.clone(), stream: stream.to_owned(), span, after: span.from }))
    }

    /// The next messages; none when there are none.
    pub(super) async fn next(&mut self) -> Result<Vec<Held>, RangeError> {
        match self {
            Self::Direct(direct) => timeout(DEADLINE, direct.next()).await.map_err(|_| RangeError::Late)?,
            Self::Consumer(consumer) => consumer.next().await,
        }
    }

    /// Ends the reading.
    pub(super) async fn close(self) {
        if let Self::Consumer(consumer) = self {
            consumer.close().await;
        }
    }
}

impl Consumer {
    async fn open(nats: &Nats, stream: &str, span: Span, name: String) -> Result<Self, RangeError> {
        let config = pull::Config {
            name: Some(name.clone()),
            description: Some(format!("reads {} to {} again", span.from, span.to)),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: span.from.0 + 1 },
            ack_policy: AckPolicy::None,
            filter_subject: span.partition.map(subject_of).unwrap_or_default(),
            inactive_threshold: INACTIVE,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let made = timeout(DEADLINE, nats.jetstream.create_consumer_on_stream(config, stream)).await;
        let consumer: PullConsumer = made.map_err(|_| RangeError::Late)?.map_err(|error| client(&error))?;
        let ended = consumer.cached_info().num_pending == 0;
        let batch = BATCH as usize;
        let stream_of = consumer.stream().max_messages_per_batch(batch).max_bytes_per_batch(4 * MOST_BYTES);
        let messages = stream_of.messages().await.map_err(|error| client(&error))?;
        Ok(Self {
            nats: nats.clone(),
            stream: stream.to_owned(),
            name,
            chunks: Box::pin(messages.ready_chunks(batch)),
            reading: Reading::after(span.from),
            ended,
        })
    }

    async fn next(&mut self) -> Result<Vec<Held>, RangeError> {
        let mut held = Vec::new();
        while held.is_empty() && !self.ended {
            let chunk = timeout(DEADLINE, self.chunks.next()).await.map_err(|_| RangeError::Late)?;
            let chunk = chunk.ok_or_else(|| RangeError::Client("the consumer has ended".to_owned()))?;
            for message in chunk {
                held.extend(self.accept(message.map_err(|error| client(&error))?)?);
            }
        }
        Ok(held)
    }

    fn accept(&mut self, message: jetstream::Message) -> Result<Option<Held>, RangeError> {
        let info = message.info().map_err(|error| client(&error))?;
        let (seq, stored) = (Seq(info.stream_sequence), millis(info.published.unix_timestamp_nanos()));
        match self.reading.accept(seq, info.consumer_sequence) {
            Delivered::Known => return Ok(None),
            Delivered::Hole => return Err(RangeError::Hole),
            Delivered::Next => {}
        }
        self.ended = info.pending == 0;
        let Message { subject, headers, payload, .. } = message.split().0;
        Ok(Some(Held { seq, stored, subject, headers, payload }))
    }

    /// The server deletes it by itself, if later.
    async fn close(self) {
        let Self { nats, stream, name, chunks, .. } = self;
        drop(chunks);
        let deletion = nats.jetstream.delete_consumer_from_stream(&name, &stream);
        match timeout(DEADLINE, deletion).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(name, %error, "the consumer was not deleted"),
            Err(late) => debug!(name, %late, "the consumer was not deleted"),
        }
    }
}

impl Direct {
    async fn next(&mut self) -> Result<Vec<Held>, RangeError> {
        let Self { nats, stream, span, after } = self;
        // About as many as there are: one that lies behind the span completes it.
        let count = span.messages + 16;
        let request = Request {
            seq: after.0 + 1,
            batch: count.min(BATCH),
            max_bytes: MOST_BYTES,
            next_by_subj: span.partition.map_or_else(|| names::ALL.to_owned(), subject_of),
        };
        let request = serde_json::to_vec(&request).map_err(|error| client(&error))?;
        let inbox = nats.client.new_inbox();
        let mut answers = nats.client.subscribe(inbox.clone()).await.map_err(|error| client(&error))?;
        let asked = nats.client.publish_with_reply(names::direct_get(stream), inbox, Bytes::from(request)).await;
        asked.map_err(|error| client(&error))?;
        let mut held = Vec::new();
        while let Some(answer) = answers.next().await {
            match end(&answer) {
                None => {
                    let message = Held::got(answer)?;
                    *after = message.seq;
                    held.push(message);
                }
                Some(Ok(())) => return Ok(held),
                Some(Err(error)) => return Err(error),
            }
        }
        Err(RangeError::Client("the connection was closed".to_owned()))
    }
}

/// Whether an answer is the end instead of a message. A message of the stream may carry a status of its producer's
/// making; only the server's own names no subject and sequence of the stream.
fn end(answer: &Message) -> Option<Result<(), RangeError>> {
    let of_stream =
        |headers: &HeaderMap| headers.get_last(NATS_SEQUENCE).is_some() && headers.get_last(NATS_SUBJECT).is_some();
    if answer.headers.as_ref().is_some_and(of_stream) {
        return None;
    }
    let refused = || RangeError::Refused(answer.description.clone().unwrap_or_else(|| format!("{:?}", answer.status)));
    Some(match answer.status {
        Some(StatusCode::NO_RESPONDERS) => Err(RangeError::Nobody),
        Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => Ok(()),
        _ => Err(refused()),
    })
}

fn subject_of(partition: Partition) -> String {
    names::partition(u32::from(partition.0))
}

fn millis(nanos: i128) -> Timestamp {
    Timestamp(i64::try_from(nanos / 1_000_000).unwrap_or_default())
}

fn client(error: &dyn fmt::Display) -> RangeError {
    RangeError::Client(error.to_string())
}
