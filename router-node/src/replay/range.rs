//! Reads some messages of a partition, or of all, from the stream, beginning anywhere: one request, answered by one server with as
//! many messages as were asked for, and an end.
//!
//! The server takes requests for a batch since 2.11; the client has no call for it. A replica that lags ends early,
//! which is for the caller to see: nothing here says that more is to come.

use crate::decode::StoredMessage;
use async_nats::header::{NATS_SEQUENCE, NATS_SUBJECT};
use async_nats::jetstream::message::StreamMessage;
use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Partition, Seq};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How long the server may take for a batch.
const DEADLINE: Duration = Duration::from_secs(1);

/// How many bytes of messages the server sends for one request; it sends at least one message.
const MOST_BYTES: usize = 1024 * 1024;

/// A message as the stream holds it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) seq: Seq,
    message: StreamMessage,
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
        let stored = i64::try_from(self.message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        StoredMessage {
            subject: &self.message.subject,
            headers: Some(&self.message.headers),
            payload: &self.message.payload,
            seq: self.seq,
            stored: Timestamp(stored),
        }
    }
}

/// Reads up to `count` messages that come after `after`, in order: of one partition, or all; none when there are none.
pub(super) async fn read(
    nats: &Nats,
    stream: &str,
    partition: Option<Partition>,
    after: Seq,
    count: u64,
) -> Result<Vec<Held>, RangeError> {
    let request = Request {
        seq: after.0 + 1,
        batch: count.max(1),
        max_bytes: MOST_BYTES,
        next_by_subj: partition.map_or_else(|| names::ALL.to_owned(), |number| names::partition(u32::from(number.0))),
    };
    timeout(DEADLINE, fetch(nats, stream, &request)).await.map_err(|_| RangeError::Late)?
}

async fn fetch(nats: &Nats, stream: &str, request: &Request) -> Result<Vec<Held>, RangeError> {
    let client = |error: &dyn std::fmt::Display| RangeError::Client(error.to_string());
    let request = serde_json::to_vec(request).map_err(|error| client(&error))?;
    let inbox = nats.client.new_inbox();
    let mut answers = nats.client.subscribe(inbox.clone()).await.map_err(|error| client(&error))?;
    let asked = nats.client.publish_with_reply(names::direct_get(stream), inbox, Bytes::from(request)).await;
    asked.map_err(|error| client(&error))?;
    let mut held = Vec::new();
    while let Some(answer) = answers.next().await {
        match end(&answer) {
            None => {
                let message = StreamMessage::try_from(answer).map_err(|error| client(&error))?;
                held.push(Held { seq: Seq(message.sequence), message });
            }
            Some(Ok(())) => return Ok(held),
            Some(Err(error)) => return Err(error),
        }
    }
    Err(RangeError::Client("the connection was closed".to_owned()))
}

/// Whether an answer is the end instead of a message. A message of the stream may carry a status of its producer's
/// making; only the server's own names no subject and sequence of the stream.
fn end(answer: &Message) -> Option<Result<(), RangeError>> {
    let of_stream = |headers: &async_nats::HeaderMap| {
        headers.get_last(NATS_SEQUENCE).is_some() && headers.get_last(NATS_SUBJECT).is_some()
    };
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
