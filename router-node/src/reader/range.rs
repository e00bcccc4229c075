//! Reads what a part of the stream holds, beginning anywhere: of one partition, or of all.
//!
//! There are two ways. A short part is asked for directly: one request, answered by one server with as many messages as
//! were asked for, and an end; the server takes requests for a batch since 2.11, and the client has no call for it. A
//! long one is read by a consumer made for it, which costs the server a third a message, but a few milliseconds to make.
//!
//! A server that lags ends early, which is for the caller to see: nothing here says that more is to come. A server that
//! has removed more than the leader of the stream, before it is asked or while it answers, is not believed. Where there
//! are several copies of the stream, what is asked for directly is read as it stands, so that each sequence which is
//! missing shows and is taken from the leader; and a consumer is one on the server that leads the stream, whose word on
//! where the stream begins is about what it has read itself. What proves it is compared by the caller, when all is read:
//! [`Proof::holds`].

use super::batch::{BatchItem, BatchScope, DirectBatch, is_leaders};
use crate::reader::on_leader;
use crate::reader::on_leader::PlaceError;
use crate::reader::pull::{Pull, PullError, PullPlan};
use crate::reader::{MessageHeaders, StreamMessage, leader};
use crate::stream::StreamView;
use serde::Serialize;
use std::fmt;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::coverage::builder::{Contiguity, Delivered};
use tickwire_core::ids::{Partition, Seq};
use tickwire_node::direct::{DirectAnswer, DirectMessage};
use tickwire_node::link::{LinkError, NatsMessage, Status};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;
use tracing::debug;

/// How long the server may take for a batch.
const DEADLINE: Duration = Duration::from_secs(1);

/// How many messages are taken at a time, at most: few, so that what is live does not wait behind many.
const BATCH: u64 = 200;

/// How many when nothing but their sequences matters.
const BATCH_OF_ALL: u64 = 1_000;

/// A consumer that delivers nothing for so long is not waited for: damaged storage confuses it.
const STUCK: Duration = Duration::from_millis(500);

/// How many bytes of messages the server sends for one direct request; it sends at least one message. A consumer may have
/// four times as many on their way.
const MOST_BYTES: usize = 1024 * 1024;

/// A batch that is to come past a known message which is as large as a batch.
const KNOWN_AND_NEXT: u64 = 2;

/// The largest message that a stream can hold: it may have been stored when the server took larger ones than now.
const LARGEST: usize = 65 * 1024 * 1024;

/// A consumer is made for more messages than this.
const LONG: u64 = 2_000;

/// So many sequences of the stream are read as they stand for the messages of one partition among them; for more of them
/// a consumer is made.
const WHOLE: u64 = 1_000;

/// What to read: what comes after `from`, up to `to`, of one partition or of all.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// It starts after this sequence.
    pub from: Seq,
    /// It ends with this sequence.
    pub to: Seq,
    /// Of this partition, or of all.
    pub partition: Option<Partition>,
    /// How many messages that is, about.
    pub messages: u64,
}

/// A reading under way. Its messages come in order.
pub(crate) enum RangeReader {
    Direct(Box<DirectReader>),
    Consumer(Box<ConsumerReader>),
}

/// Reads by one request after the other.
#[derive(Clone)]
pub(crate) struct DirectReader {
    nats: Nats,
    stream: String,
    span: Span,
    of: BatchScope,
    after: Seq,
    /// How many messages are taken at a time, at most.
    most: u64,
    /// What proves what a consumer has read before, if it began with one.
    before: Option<Proof>,
}

/// Reads by a consumer.
pub(crate) struct ConsumerReader {
    /// How it is read instead, from where the consumer delivers no more.
    instead: DirectReader,
    pull: Pull,
    reading: Contiguity,
    /// Whether nothing is left to come.
    ended: bool,
}

/// What proves that no message of what was read is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The sequences themselves, which have no missing ranges but those that the leader has as well.
    Sequences,
    /// It was read from the only copy.
    OneCopy,
    /// It was read from the copy of this server, which leads the stream; `None` where servers form no cluster.
    Leaders(Option<String>),
}

impl Proof {
    /// Whether it does, when the stream was looked at after the reading: then what the leader keeps now, it kept all the
    /// time.
    #[must_use]
    pub fn holds(&self, sight: &StreamView) -> bool {
        match self {
            Self::Sequences => true,
            Self::OneCopy => sight.facts.replicas <= 1,
            Self::Leaders(server) => *server == sight.leader,
        }
    }
}

/// Why nothing could be read.
#[derive(Debug, Error)]
pub(crate) enum RangeError {
    #[error("no answer within {DEADLINE:?}")]
    Late,
    #[error("nobody answers direct gets of the stream: is `allow_direct` set?")]
    Nobody,
    #[error("the server refuses: {0}")]
    Refused(String),
    #[error("a message was lost on its way")]
    Missed,
    #[error("an answer cannot be read: {0}")]
    Unreadable(String),
    #[error("the leader of the stream: {0}")]
    Leader(String),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What the server is asked for.
#[derive(Debug, Serialize)]
struct DirectRequest {
    seq: u64,
    batch: u64,
    max_bytes: usize,
    next_by_subj: String,
}

impl fmt::Debug for RangeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(direct) => f.debug_struct("Direct").field("span", &direct.span).finish_non_exhaustive(),
            Self::Consumer(consumer) => {
                f.debug_struct("Consumer").field("pull", &consumer.pull).finish_non_exhaustive()
            }
        }
    }
}

impl RangeReader {
    /// Begins to read a stream of which there are so many copies. `name` is that of the consumer, should there be one.
    pub(crate) async fn open(
        nats: &Nats,
        stream: &str,
        span: Span,
        copies: usize,
        name: &str,
    ) -> Result<Self, RangeError> {
        let is_sparse = span.partition.is_some();
        let is_long = match copies {
            0 | 1 => span.messages > LONG,
            _ if is_sparse => span.sequences() > WHOLE,
            _ => span.sequences() > LONG,
        };
        // A short range is read as it stands, so that what is missing shows at once.
        let is_short = span.sequences() <= WHOLE;
        let of = if is_sparse && copies <= 1 && !is_short { BatchScope::Partition } else { BatchScope::Stream };
        let (nats, stream, after) = (nats.clone(), stream.to_owned(), span.from);
        let direct = DirectReader { nats, stream, span, of, after, most: BATCH, before: None };
        if is_long && let Some(pull) = ConsumerReader::open(&direct, name).await? {
            let (ended, reading) = (pull.pending == 0, Contiguity::after(span.from));
            return Ok(Self::Consumer(Box::new(ConsumerReader { instead: direct, pull, reading, ended })));
        }
        Ok(Self::Direct(Box::new(direct)))
    }

    /// The next messages; none when there are none.
    pub(crate) async fn next(&mut self) -> Result<Vec<StreamMessage>, RangeError> {
        let consumer = match self {
            Self::Direct(direct) => return direct.next().await,
            Self::Consumer(consumer) => consumer,
        };
        let ended = match timeout(STUCK, consumer.next()).await {
            Ok(Err(RangeError::Pull(ended @ PullError::Ended(_)))) => ended.to_string(),
            Ok(Ok(messages)) if messages.is_empty() => "it has nothing left".to_owned(),
            Ok(other) => return other,
            Err(late) => late.to_string(),
        };
        // What comes next is larger than any consumer delivers, for instance; or damaged storage makes it believe that
        // nothing follows.
        debug!(ended, "read by gets what a consumer does not deliver");
        let (after, before) = (consumer.reading.last, Some(consumer.proof()));
        let mut direct = DirectReader { after, before, ..consumer.instead.clone() };
        let next = direct.next().await;
        let consumer = std::mem::replace(self, Self::Direct(Box::new(direct)));
        consumer.close().await;
        next
    }

    /// What proves together that nothing is missing of what it has read so far.
    pub(crate) fn proofs(&self) -> Vec<Proof> {
        match self {
            Self::Direct(direct) => direct.before.iter().cloned().chain([direct.proof()]).collect(),
            Self::Consumer(consumer) => vec![consumer.proof()],
        }
    }

    /// Whether it reads every message of the stream, one after the other.
    pub(crate) fn reads_all(&self) -> bool {
        match self {
            Self::Direct(direct) => direct.of == BatchScope::Stream,
            Self::Consumer(consumer) => consumer.instead.span.partition.is_none(),
        }
    }

    /// Ends the reading.
    pub(crate) async fn close(self) {
        if let Self::Consumer(consumer) = self {
            consumer.pull.close().await;
        }
    }
}

impl Span {
    fn sequences(&self) -> u64 {
        self.to.0.saturating_sub(self.from.0)
    }

    /// The subjects of what is to be read.
    fn filter(&self) -> String {
        self.partition.map_or_else(|| names::ALL.to_owned(), |partition| names::partition(u32::from(partition.0)))
    }
}

impl ConsumerReader {
    /// `None` if none comes to be where the stream is led.
    async fn open(direct: &DirectReader, name: &str) -> Result<Option<Pull>, RangeError> {
        let DirectReader { nats, stream, span, .. } = direct;
        let plan = |attempt: u32| PullPlan {
            stream,
            name: format!("{name}-{attempt}"),
            description: format!("reads {} to {} again", span.from, span.to),
            after: span.from,
            filter: if span.partition.is_some() { span.filter() } else { String::new() },
            batch: BATCH,
            bytes: 4 * MOST_BYTES,
        };
        Ok(on_leader::open(nats, stream, plan).await?)
    }

    fn proof(&self) -> Proof {
        Proof::Leaders(self.pull.server.clone())
    }

    async fn next(&mut self) -> Result<Vec<StreamMessage>, RangeError> {
        let mut held = Vec::new();
        while held.is_empty() && !self.ended {
            for message in self.pull.next().await? {
                match self.reading.accept(message.delivery.seq, message.delivery.number) {
                    Delivered::Known => continue,
                    Delivered::Missed => return Err(RangeError::Missed),
                    Delivered::Next => {}
                }
                self.ended = message.delivery.pending == 0;
                held.push(message.held());
            }
        }
        Ok(held)
    }
}

impl DirectReader {
    /// Reads every message of the stream, for the sake of its sequence.
    pub(crate) fn of_all(nats: &Nats, stream: &str, after: Seq, through: Seq) -> Self {
        let span = Span { from: after, to: through, partition: None, messages: through.0.saturating_sub(after.0) };
        let (nats, stream, of) = (nats.clone(), stream.to_owned(), BatchScope::Stream);
        Self { nats, stream, span, of, after, most: BATCH_OF_ALL, before: None }
    }

    pub(crate) fn proof(&self) -> Proof {
        if self.of == BatchScope::Stream { Proof::Sequences } else { Proof::OneCopy }
    }

    pub(crate) async fn next(&mut self) -> Result<Vec<StreamMessage>, RangeError> {
        let after = self.after;
        let mut held = timeout(DEADLINE, self.batch(self.most, MOST_BYTES)).await.map_err(|_| RangeError::Late)??;
        // Nothing follows, or the known message that the batch begins with is as large as a batch.
        if self.of == BatchScope::Partition && matches!(&held, (true, held) if held.is_empty()) {
            let again = timeout(DEADLINE, self.batch(KNOWN_AND_NEXT, MOST_BYTES + LARGEST)).await;
            held = again.map_err(|_| RangeError::Late)??;
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

    /// A batch of so many messages and bytes from one server: the messages behind the last known one, and whether they follow it.
    async fn batch(&self, most: u64, max_bytes: usize) -> Result<(bool, Vec<StreamMessage>), RangeError> {
        let Self { nats, stream, span, of, after, .. } = self;
        let mut batch = DirectBatch::after(*of, *after);
        let (count, next_by_subj) = match of {
            BatchScope::Stream => (span.to.0.saturating_sub(after.0), names::ALL.to_owned()),
            // About as many as there are: one that lies behind the span completes it, and one that is known begins it.
            BatchScope::Partition => (span.messages + 17, span.filter()),
        };
        let (seq, batch_size) = (batch.begin(), count.clamp(1, most));
        let request = DirectRequest { seq, batch: batch_size, max_bytes, next_by_subj };
        let request = serde_json::to_vec(&request).map_err(|error| RangeError::Unreadable(error.to_string()))?;
        let inbox = nats.link.new_inbox();
        // The last message may be a large one, and the end of the batch comes right behind it.
        let room = MOST_BYTES + max_bytes + LARGEST;
        let mut answers = nats.link.subscribe("direct_gets", &inbox, None, room)?;
        nats.link.publish(names::direct_get(stream), Some(&inbox), &request)?;
        let mut held = Vec::new();
        while let Some(answer) = answers.next().await {
            match DirectAnswer::read(&answer) {
                DirectAnswer::Message(got) => match batch.take(&got)? {
                    BatchItem::Known => {}
                    BatchItem::Next => held.push(as_held(&answer, &got)?),
                    // What comes before the break is proved; what comes behind it is asked for again.
                    BatchItem::Break => return Ok((batch.follows(), held)),
                },
                DirectAnswer::End { last, .. } => {
                    batch.end(last)?;
                    return Ok((batch.follows(), held));
                }
                DirectAnswer::Nothing => return Ok((false, Vec::new())),
                DirectAnswer::Refused(Status { code: Status::NO_RESPONDERS, .. }) => return Err(RangeError::Nobody),
                DirectAnswer::Refused(status) => return Err(RangeError::Refused(status.to_string())),
                DirectAnswer::Unreadable => return Err(RangeError::Unreadable(format!("{answer:?}"))),
            }
        }
        Err(LinkError::Closed.into())
    }

    /// What follows `after`, if a server begins with this. What the leader has before it is taken from the leader.
    async fn compare(&self, after: Seq, held: Vec<StreamMessage>) -> Result<Vec<StreamMessage>, RangeError> {
        let filter = if self.of == BatchScope::Stream { names::ALL.to_owned() } else { self.span.filter() };
        let next = leader::first_after(&self.nats, &self.stream, after, &filter).await.map_err(RangeError::Leader)?;
        let is_leaders = is_leaders(next.as_ref().map(|next| next.seq), held.first().map(|first| first.seq));
        Ok(if is_leaders { next.into_iter().collect() } else { held })
    }
}

fn as_held(answer: &NatsMessage, got: &DirectMessage<'_>) -> Result<StreamMessage, RangeError> {
    let share = |part: &[u8]| answer.share(part);
    Ok(StreamMessage {
        seq: Seq(got.seq),
        stored: leader::read_time(got.stored).map_err(RangeError::Unreadable)?,
        subject: share(got.subject),
        headers: MessageHeaders::Cut(share(got.headers)),
        payload: answer.payload_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::StreamFacts;
    use tickwire_core::ids::EpochId;

    #[test]
    fn proof_holds_only_for_the_server_that_was_read() {
        let sight = |replicas: usize, leader: Option<&str>| {
            let facts = StreamFacts { epoch_id: EpochId(1), before: Seq(0), first: Seq(1), last: Seq(9), replicas };
            StreamView { facts, leader: leader.map(str::to_owned) }
        };
        let read_from = |server: Option<&str>| Proof::Leaders(server.map(str::to_owned));
        let cases = [
            (Proof::Sequences, sight(3, Some("a")), true),
            (Proof::OneCopy, sight(1, Some("a")), true),
            (Proof::OneCopy, sight(3, Some("a")), false),
            (read_from(Some("a")), sight(3, Some("a")), true),
            (read_from(Some("a")), sight(3, Some("b")), false),
            (read_from(Some("a")), sight(3, None), false),
            (read_from(None), sight(1, None), true),
        ];
        for (proof, sight, holds) in cases {
            assert_eq!(proof.holds(&sight), holds, "{proof:?} of {sight:?}");
        }
    }
}
