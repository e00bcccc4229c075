//! Reads what a part of the stream holds, beginning anywhere: of one partition, or of all.
//!
//! There are two ways. A short part is asked for directly (`direct`). A long one is read by a consumer made for it,
//! which costs the server a third a message, but a few milliseconds to make.
//!
//! A server that lags ends early, which is for the caller to see: nothing here says that more is to come. A server that
//! has removed more than the leader of the stream, before it is asked or while it answers, is not believed. Where there
//! are several copies of the stream, what is asked for directly is read as it stands, so that each sequence which is
//! missing shows and is taken from the leader; and a consumer is one on the server that leads the stream, whose word on
//! where the stream begins is about what it has read itself. What proves it is compared by the caller, when all is
//! read: [`Proof::holds`].

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

/// A consumer that delivers nothing for so long is not waited for: damaged storage confuses it.
const STUCK: Duration = Duration::from_millis(500);

/// A consumer is made for more messages than this.
const LONG: u64 = 2_000;

/// So many sequences of the stream are read as they stand for the messages of one partition among them; for more of
/// them a consumer is made.
const WHOLE: u64 = 1_000;

/// A reading under way. Its messages come in order.
pub(crate) enum RangeReader {
    Direct(Box<DirectReader>),
    Consumer(Box<ConsumerReader>),
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

/// Why nothing could be read.
#[derive(Debug, Error)]
pub(crate) enum RangeError {
    #[error(transparent)]
    Direct(#[from] DirectError),
    #[error("a message was lost on its way")]
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
        let scope = if is_sparse && copies <= 1 && !is_short { AnswerScope::Partition } else { AnswerScope::Stream };
        let direct = DirectReader::new(nats, stream, span, scope);
        if is_long && let Some(pull) = ConsumerReader::open(&direct, name).await? {
            let (ended, reading) = (pull.pending == 0, Contiguity::after(span.from));
            return Ok(Self::Consumer(Box::new(ConsumerReader { instead: direct, pull, reading, ended })));
        }
        Ok(Self::Direct(Box::new(direct)))
    }

    /// The next messages; none when there are none.
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
        // What comes next is larger than any consumer delivers, for instance; or damaged storage makes it believe that
        // nothing follows.
        debug!(ended, "consumer delivers nothing, range read by direct gets");
        let mut direct = consumer.instead.continue_after(consumer.reading.last, consumer.proof());
        let next = direct.next().await;
        let consumer = std::mem::replace(self, Self::Direct(Box::new(direct)));
        consumer.close().await;
        Ok(next?)
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
    /// `None` if none comes to be where the stream is led.
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
