//! Reads a range of the stream: the messages of one partition, or all.
//!
//! There are two ways. A short range is read by direct gets (`direct`). A long one is read by a consumer that is
//! created for it. The consumer costs the server a third for each message, but a few milliseconds to create.
//!
//! The answer of a server that lags ends early. The caller has to notice this, because nothing here shows whether more
//! is to come. A server that has removed more than the leader of the stream, before the request or during the answer,
//! is not trusted. If there are several copies of the stream, direct gets read every message, so that each missing
//! sequence shows and is taken from the leader. A consumer must then be on the leader, which reports where its own copy
//! begins. The caller checks the proof after the reading: [`Proof::holds`].

use super::answer::AnswerScope;
use super::direct::{DirectError, DirectReader, MOST_BYTES, MOST_MESSAGES};
use super::span::{Proof, Span};
use crate::reader::StreamMessage;
use crate::reader::on_leader;
use crate::reader::on_leader::PlaceError;
use crate::reader::pull::{Pull, PullError, PullPlan};
use std::fmt;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::coverage::builder::{Contiguity, Delivered};
use tickwire_node::nats::Nats;
use tokio::time::timeout;
use tracing::debug;

/// How long a consumer may deliver nothing before it is given up: it does so if the storage is damaged.
const STUCK: Duration = Duration::from_millis(500);

/// A consumer is created for more messages than this.
const LONG: u64 = 2_000;

/// The longest range, in sequences, of which every message is read to get those of one partition. A consumer is created
/// for a longer one.
const WHOLE: u64 = 1_000;

/// A reading in progress. Its messages come in order.
pub(crate) enum RangeReader {
    Direct(Box<DirectReader>),
    Consumer(Box<ConsumerReader>),
}

/// Reads by a consumer.
pub(crate) struct ConsumerReader {
    /// The reader that takes over where the consumer delivers no more.
    instead: DirectReader,
    pull: Pull,
    reading: Contiguity,
    /// Whether all messages have come.
    ended: bool,
}

/// Why a range could not be read.
#[derive(Debug, Error)]
pub(crate) enum RangeError {
    #[error(transparent)]
    Direct(#[from] DirectError),
    #[error("a message from NATS was lost")]
    Missed,
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Pull(#[from] PullError),
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
    /// Starts to read a stream that has `copies` copies. `name` is the consumer's name, if there is one.
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
        // Of a short range every message is read, so that a missing one shows at once.
        let is_short = span.sequences() <= WHOLE;
        let scope = if is_sparse && copies <= 1 && !is_short { AnswerScope::Partition } else { AnswerScope::Stream };
        let direct = DirectReader::new(nats, stream, span, scope);
        if is_long && let Some(pull) = ConsumerReader::open(&direct, name).await? {
            let (ended, reading) = (pull.pending == 0, Contiguity::after(span.from));
            return Ok(Self::Consumer(Box::new(ConsumerReader { instead: direct, pull, reading, ended })));
        }
        Ok(Self::Direct(Box::new(direct)))
    }

    /// The next messages; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Vec<StreamMessage>, RangeError> {
        let consumer = match self {
            Self::Direct(direct) => return Ok(direct.next().await?),
            Self::Consumer(consumer) => consumer,
        };
        let ended = match timeout(STUCK, consumer.next()).await {
            Ok(Err(RangeError::Pull(ended @ PullError::Ended(_)))) => ended.to_string(),
            Ok(Ok(messages)) if messages.is_empty() => "it has nothing left".to_owned(),
            Ok(other) => return other,
            Err(late) => late.to_string(),
        };
        // For instance, the next message may be larger than any consumer delivers, or damaged storage hides it from the
        // consumer.
        debug!(ended, "consumer delivers nothing, range read by direct gets");
        let mut direct = consumer.instead.continue_after(consumer.reading.last, consumer.proof());
        let next = direct.next().await;
        let consumer = std::mem::replace(self, Self::Direct(Box::new(direct)));
        consumer.close().await;
        Ok(next?)
    }

    /// The proofs that together show that nothing is missing of what was read so far.
    pub(crate) fn proofs(&self) -> Vec<Proof> {
        match self {
            Self::Direct(direct) => direct.before.iter().cloned().chain([direct.proof()]).collect(),
            Self::Consumer(consumer) => vec![consumer.proof()],
        }
    }

    /// Whether it reads every message of the stream, one after the other.
    pub(crate) fn reads_all(&self) -> bool {
        match self {
            Self::Direct(direct) => direct.scope == AnswerScope::Stream,
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

impl ConsumerReader {
    /// Creates the consumer; `None` if none could be had on the leader of the stream.
    async fn open(direct: &DirectReader, name: &str) -> Result<Option<Pull>, RangeError> {
        let DirectReader { nats, stream, span, .. } = direct;
        let plan = |attempt: u32| PullPlan {
            stream,
            name: format!("{name}-{attempt}"),
            description: format!("reads {} to {} again", span.from, span.to),
            after: span.from,
            filter: if span.partition.is_some() { span.filter() } else { String::new() },
            batch: MOST_MESSAGES,
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
