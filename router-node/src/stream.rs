//! The stream of events as it is now: its epoch, its first and last sequence; whether it still has the messages that
//! were read; and how a new epoch begins.

use crate::checkpoint::Mark;
use async_nats::jetstream::stream::Info;
use std::fmt::Display;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::{Epoch, EpochId, Seq};
use tickwire_node::epoch;
use tickwire_node::nats::Nats;
use tickwire_node::stored::{self, MessageSelector};
use tokio::time::timeout;

/// How long one request may take.
pub(crate) const LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// The stream at the time of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamFacts {
    /// Its epoch.
    pub epoch_id: EpochId,
    /// The last sequence of the epoch before.
    pub before: Seq,
    /// The sequence of the oldest message that is kept; one past the last if there is none.
    pub first: Seq,
    /// The sequence of the last message, even if it is not kept.
    pub last: Seq,
    /// How many servers keep it.
    pub replicas: usize,
}

/// The stream, and the server that answered: the one that leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamView {
    /// The facts, as that server has them.
    pub(crate) facts: StreamFacts,
    /// The server's name; `None` if servers form no cluster.
    pub(crate) leader: Option<String>,
}

/// The stream could not be read.
#[derive(Debug, Error)]
#[error("cannot read the state of the stream {stream}: {reason}")]
pub(crate) struct StreamError {
    stream: String,
    reason: String,
}

impl StreamError {
    /// It took too long.
    pub(crate) fn late(stream: &str, deadline: Duration) -> Self {
        Self { stream: stream.to_owned(), reason: format!("no answer within {deadline:?}") }
    }
}

impl StreamView {
    /// Asks the server.
    pub(crate) async fn look(nats: &Nats, stream: &str) -> Result<Self, StreamError> {
        let info = info(nats, stream).await?;
        Ok(Self { facts: StreamFacts::of(&info), leader: info.cluster.and_then(|cluster| cluster.leader) })
    }
}

impl StreamFacts {
    /// Asks the server.
    pub(crate) async fn look(nats: &Nats, stream: &str) -> Result<Self, StreamError> {
        Ok(Self::of(&info(nats, stream).await?))
    }

    /// Begins a new epoch, for messages after `before`, unless one later than `known` has begun. Its number is the next
    /// one. It does not depend on a clock, so it grows with any clocks of servers and nodes, and routers that begin an
    /// epoch at the same time begin the same one.
    pub(crate) async fn begin_epoch(
        nats: &Nats,
        stream: &str,
        known: EpochId,
        before: Seq,
    ) -> Result<Self, StreamError> {
        let info = info(nats, stream).await?;
        let facts = Self::of(&info);
        if facts.epoch_id > known {
            return Ok(facts);
        }
        let epoch_id = EpochId(known.0.saturating_add(1));
        let mut config = info.config;
        config.metadata.insert(epoch::METADATA.to_owned(), epoch::noted(Epoch { epoch_id, before }));
        let updated = in_time(stream, nats.jetstream.update_stream(config)).await?;
        Ok(Self::of(&updated))
    }

    fn of(info: &Info) -> Self {
        let Epoch { epoch_id, before } = epoch::of(info);
        Self {
            epoch_id,
            before,
            first: Seq(info.state.first_sequence),
            last: Seq(info.state.last_sequence),
            replicas: info.config.num_replicas,
        }
    }

    /// Its epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch { epoch_id: self.epoch_id, before: self.before }
    }

    /// Up to where the stream has removed everything, of any epoch.
    pub(crate) fn removed(&self) -> Seq {
        Seq(self.first.0.saturating_sub(1))
    }

    /// The sequence before the oldest kept message of this epoch: nothing can be read at or below it.
    pub(crate) fn least_checkpoint(&self) -> Seq {
        self.removed().max(self.before)
    }
}

/// What a check compares the stream with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// The latest known epoch.
    pub(crate) epoch_id: EpochId,
    /// A sequence that this epoch has reached.
    pub(crate) reached: Seq,
    /// Messages of this epoch that were read and must be in the stream, the last one first.
    pub(crate) to_check: Vec<Mark>,
    /// Messages that were found before, the last one first: if something is lost, they tell from where on.
    pub(crate) known: Vec<Mark>,
}

/// The result of a check of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamLook {
    /// Everything that was read is in the stream, or was removed by retention; or a new epoch has begun and is
    /// recorded.
    Whole(StreamFacts),
    /// Something that was read is not in the stream.
    Lost {
        /// The stream as it is.
        facts: StreamFacts,
        /// Messages after this sequence were not read.
        before: Seq,
    },
}

impl StreamLook {
    /// Reads the stream, and compares the messages that were read with those that have their sequences now.
    pub(crate) async fn at(nats: &Nats, stream: &str, expected: &Expected) -> Result<Self, StreamError> {
        let facts = StreamFacts::look(nats, stream).await?;
        if facts.epoch_id > expected.epoch_id {
            return Ok(Self::Whole(facts));
        }
        let mut lost: Option<Mark> = None;
        for mark in &expected.to_check {
            if facts.has(nats, stream, *mark).await? == Some(false) {
                // They are in descending order: this one is the earliest so far.
                lost = Some(*mark);
            }
        }
        let is_former = facts.epoch_id < expected.epoch_id;
        if lost.is_none() && !is_former {
            let before = facts.last;
            return Ok(if before < expected.reached { Self::Lost { facts, before } } else { Self::Whole(facts) });
        }
        let mut agreed = None;
        for mark in
            expected.to_check.iter().chain(&expected.known).filter(|mark| lost.is_none_or(|lost| mark.seq < lost.seq))
        {
            if agreed < Some(mark.seq) && facts.has(nats, stream, *mark).await? == Some(true) {
                agreed = Some(mark.seq);
            }
        }
        let agreed = agreed.unwrap_or_default();
        let before = match lost {
            // A stream that was created again under an older clock, or has lost the record of its epoch.
            _ if is_former => agreed,
            Some(lost) => facts.last_stored_before(nats, stream, agreed, lost).await?,
            None => facts.last,
        };
        Ok(Self::Lost { facts, before })
    }
}

impl StreamFacts {
    /// Whether the stream has this message; `None` if it was removed.
    pub(crate) async fn has(&self, nats: &Nats, stream: &str, mark: Mark) -> Result<Option<bool>, StreamError> {
        if mark.seq < self.first {
            return Ok(None);
        }
        if mark.seq > self.last {
            return Ok(Some(false));
        }
        let found = in_time(stream, stored::get(&nats.jetstream, stream, MessageSelector::At(mark.seq.0))).await?;
        Ok(found.map(|found| found.stored == mark.stored))
    }

    /// The last message after `agreed` that was stored no later than `lost`, which is no longer there. Messages behind
    /// it were stored when `lost` was gone.
    async fn last_stored_before(&self, nats: &Nats, stream: &str, agreed: Seq, lost: Mark) -> Result<Seq, StreamError> {
        let mut low = agreed.0.max(self.first.0.saturating_sub(1));
        let mut high = self.last.0.min(lost.seq.0.saturating_sub(1));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let found =
                in_time(stream, stored::get(&nats.jetstream, stream, MessageSelector::from(Seq(middle)))).await?;
            match found {
                Some(found) if found.seq.0 <= high && found.stored <= lost.stored => low = found.seq.0,
                _ => high = middle - 1,
            }
        }
        Ok(Seq(low))
    }
}

async fn info(nats: &Nats, stream: &str) -> Result<Info, StreamError> {
    let found = in_time(stream, nats.jetstream.get_stream(stream)).await?;
    Ok(found.cached_info().clone())
}

async fn in_time<T, E: Display>(stream: &str, response: impl Future<Output = Result<T, E>>) -> Result<T, StreamError> {
    let answer = timeout(LOOK_DEADLINE, response).await.map_err(|_| StreamError::late(stream, LOOK_DEADLINE))?;
    answer.map_err(|error| StreamError { stream: stream.to_owned(), reason: error.to_string() })
}
