//! Reads a part of the stream by direct gets: one request, answered by one server with as many messages as were asked
//! for, and an end. The server takes requests for several messages since 2.11, and the client has no call for it.

use super::answer::{AnswerCheck, AnswerItem, AnswerScope, is_leaders};
use super::span::{Proof, Span};
use crate::reader::{MessageHeaders, StreamMessage, leader};
use serde::Serialize;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::Seq;
use tickwire_node::direct::{DirectAnswer, DirectMessage};
use tickwire_node::link::{LinkError, NatsMessage, Status};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How long the server may take for an answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(1);

/// How many messages one answer has at most: few, so that live events do not wait behind many.
pub(super) const MOST_MESSAGES: u64 = 200;

/// How many if only their sequences matter.
const MOST_OF_ALL: u64 = 1_000;

/// How many bytes of messages the server sends for one direct request; it sends at least one message. A consumer may
/// have four times as many on their way.
pub(super) const MOST_BYTES: usize = 1024 * 1024;

/// How many messages are requested if the known one alone is as large as an answer: it and the next one.
const KNOWN_AND_NEXT: u64 = 2;

/// The largest message that a stream can hold: it may have been stored when the server took larger ones than now.
pub(super) const LARGEST: usize = 65 * 1024 * 1024;

/// Reads by one request after the other.
#[derive(Clone)]
pub(crate) struct DirectReader {
    pub(super) nats: Nats,
    pub(super) stream: String,
    pub(super) span: Span,
    pub(super) scope: AnswerScope,
    after: Seq,
    /// How many messages one answer has at most.
    most: u64,
    /// The proof of what a consumer has read before, if there was one.
    pub(super) before: Option<Proof>,
}

/// Why a range could not be read.
#[derive(Debug, Error)]
pub(crate) enum DirectError {
    #[error("no answer within {DEADLINE:?}")]
    Late,
    #[error("no server answers direct gets of the stream; set `allow_direct`")]
    Nobody,
    #[error("the server refuses: {0}")]
    Refused(String),
    #[error("a message from NATS was lost")]
    Missed,
    #[error("an answer cannot be read: {0}")]
    Unreadable(String),
    #[error("the leader of the stream: {0}")]
    Leader(String),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A request to the server.
#[derive(Debug, Serialize)]
struct DirectRequest {
    seq: u64,
    batch: u64,
    max_bytes: usize,
    next_by_subj: String,
}

impl DirectReader {
    /// Reads this span by requests of this scope.
    pub(super) fn new(nats: &Nats, stream: &str, span: Span, scope: AnswerScope) -> Self {
        let (nats, stream, after) = (nats.clone(), stream.to_owned(), span.from);
        Self { nats, stream, span, scope, after, most: MOST_MESSAGES, before: None }
    }

    /// Continues after `after`. `before` is the proof of what a consumer has read up to there.
    pub(super) fn continue_after(&self, after: Seq, before: Proof) -> Self {
        Self { after, before: Some(before), ..self.clone() }
    }

    /// Reads every message of a range, for the sake of its sequence.
    pub(crate) fn of_all(nats: &Nats, stream: &str, after: Seq, through: Seq) -> Self {
        let span = Span { from: after, to: through, partition: None, messages: through.0.saturating_sub(after.0) };
        Self { most: MOST_OF_ALL, ..Self::new(nats, stream, span, AnswerScope::Stream) }
    }

    pub(crate) fn proof(&self) -> Proof {
        if self.scope == AnswerScope::Stream { Proof::Sequences } else { Proof::OneCopy }
    }

    pub(crate) async fn next(&mut self) -> Result<Vec<StreamMessage>, DirectError> {
        let after = self.after;
        let mut held =
            timeout(DEADLINE, self.request(self.most, MOST_BYTES)).await.map_err(|_| DirectError::Late)??;
        // Nothing follows, or the known message alone is as large as an answer.
        if self.scope == AnswerScope::Partition && matches!(&held, (true, held) if held.is_empty()) {
            let again = timeout(DEADLINE, self.request(KNOWN_AND_NEXT, MOST_BYTES + LARGEST)).await;
            held = again.map_err(|_| DirectError::Late)??;
        }
        let held = match held {
            (true, held) => held,
            (false, held) => self.compare(after, held).await?,
        };
        if let Some(last) = held.last() {
            self.after = last.seq;
        }
        Ok(held)
    }

    /// Requests at most `most` messages and `max_bytes` bytes from one server. Returns the messages after the last
    /// known one, and whether they follow it.
    async fn request(&self, most: u64, max_bytes: usize) -> Result<(bool, Vec<StreamMessage>), DirectError> {
        let Self { nats, stream, span, scope, after, .. } = self;
        let mut check = AnswerCheck::after(*scope, *after);
        let (count, next_by_subj) = match scope {
            AnswerScope::Stream => (span.to.0.saturating_sub(after.0), names::ALL.to_owned()),
            // About as many as there are, with the known one before the span, and one after it, which completes it.
            AnswerScope::Partition => (span.messages + 17, span.filter()),
        };
        let request = DirectRequest { seq: check.begin(), batch: count.clamp(1, most), max_bytes, next_by_subj };
        // The last message may be a large one, and the end of the answer comes right after it.
        let room = MOST_BYTES + max_bytes + LARGEST;
        let held = exchange(nats, stream, &request, room, &mut check).await?;
        Ok(held.map_or_else(|| (false, Vec::new()), |held| (check.follows(), held)))
    }

    /// The messages after `after`. If the leader has an earlier one than a server has sent, it is taken from the
    /// leader.
    async fn compare(&self, after: Seq, held: Vec<StreamMessage>) -> Result<Vec<StreamMessage>, DirectError> {
        let filter = if self.scope == AnswerScope::Stream { names::ALL.to_owned() } else { self.span.filter() };
        let next = leader::first_after(&self.nats, &self.stream, after, &filter).await.map_err(DirectError::Leader)?;
        let is_leaders = is_leaders(next.as_ref().map(|next| next.seq), held.first().map(|first| first.seq));
        Ok(if is_leaders { next.into_iter().collect() } else { held })
    }
}

/// Sends a request for several messages, and reads the answer of one server; `room` is how many bytes of it may wait.
/// Returns the messages after the last known one, and stops where the server lacks a message of the stream. `None` if
/// the server has none of those requested.
pub(super) async fn exchange(
    nats: &Nats,
    stream: &str,
    request: &(impl Serialize + Sync),
    room: usize,
    check: &mut AnswerCheck,
) -> Result<Option<Vec<StreamMessage>>, DirectError> {
    let request = serde_json::to_vec(request).map_err(|error| DirectError::Unreadable(error.to_string()))?;
    let inbox = nats.link.new_inbox();
    let mut answers = nats.link.subscribe("direct_gets", &inbox, None, room)?;
    nats.link.publish(nats.api(&names::direct_get(stream)), Some(&inbox), &request)?;
    let mut held = Vec::new();
    while let Some(answer) = answers.next().await {
        match DirectAnswer::read(&answer) {
            DirectAnswer::Message(got) => match check.take(&got)? {
                AnswerItem::Known => {}
                AnswerItem::Next => held.push(as_held(&answer, &got)?),
                // Messages before the break are proved. Those after it are requested again.
                AnswerItem::Break => return Ok(Some(held)),
            },
            DirectAnswer::End { last, .. } => return check.end(last).map(|()| Some(held)),
            DirectAnswer::Nothing => return Ok(None),
            DirectAnswer::Refused(Status { code: Status::NO_RESPONDERS, .. }) => return Err(DirectError::Nobody),
            DirectAnswer::Refused(status) => return Err(DirectError::Refused(status.to_string())),
            DirectAnswer::Unreadable => return Err(DirectError::Unreadable(format!("{answer:?}"))),
        }
    }
    Err(LinkError::Closed.into())
}

fn as_held(answer: &NatsMessage, got: &DirectMessage<'_>) -> Result<StreamMessage, DirectError> {
    let share = |part: &[u8]| answer.share(part);
    Ok(StreamMessage {
        seq: Seq(got.seq),
        stored: leader::read_time(got.stored).map_err(DirectError::Unreadable)?,
        subject: share(got.subject),
        headers: MessageHeaders::Cut(share(got.headers)),
        payload: answer.payload_bytes(),
    })
}
