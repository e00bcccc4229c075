//! The stream of events as it is now: its epoch, its first and last sequence; whether it still has the messages that
//! were read; and how a new epoch begins.

use crate::checkpoint::Mark;
use async_nats::jetstream::stream::Info;
use std::fmt::Display;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::context::StreamEnd;
use tickwire_core::event::Timestamp;
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
pub struct StreamState {
    /// Its state, as that server has it.
    pub facts: StreamFacts,
    /// The server's name; `None` where servers form no cluster.
    pub leader: Option<String>,
}

/// The stream, with the times of its oldest and its last message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamExtent {
    pub(crate) facts: StreamFacts,
    /// When the oldest message was stored; `None` if there is no message.
    pub(crate) oldest: Option<Timestamp>,
    /// The most that anybody can know of it.
    pub(crate) end: StreamEnd,
}

/// The server that leads the stream, and answers requests about it.
pub trait Leader {
    /// The state of the stream.
    fn facts(&self) -> impl Future<Output = Result<StreamFacts, StreamError>> + Send;

    /// One message of it, if there is one.
    fn message(
        &self,
        wanted: MessageSelector<'static>,
    ) -> impl Future<Output = Result<Option<Mark>, StreamError>> + Send;
}

/// The leader of a stream, over NATS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamLeader<'s> {
    pub(crate) nats: &'s Nats,
    pub(crate) stream: &'s str,
}

impl Leader for StreamLeader<'_> {
    async fn facts(&self) -> Result<StreamFacts, StreamError> {
        Ok(StreamFacts::of(&info(self.nats, self.stream).await?))
    }

    async fn message(&self, wanted: MessageSelector<'static>) -> Result<Option<Mark>, StreamError> {
        let found = in_time(self.stream, stored::get(&self.nats.jetstream, self.stream, wanted)).await?;
        Ok(found.map(|found| Mark { seq: found.seq, stored: found.stored }))
    }
}

/// The stream could not be read.
#[derive(Debug, Error)]
#[error("the stream {stream} cannot be read: {reason}")]
pub struct StreamError {
    stream: String,
    reason: String,
}

impl StreamError {
    /// It took too long.
    pub(crate) fn late(stream: &str, deadline: Duration) -> Self {
        Self { stream: stream.to_owned(), reason: format!("no answer within {deadline:?}") }
    }
}

impl StreamState {
    /// Asks the server.
    pub(crate) async fn look(nats: &Nats, stream: &str) -> Result<Self, StreamError> {
        let info = info(nats, stream).await?;
        Ok(Self { facts: StreamFacts::of(&info), leader: info.cluster.and_then(|cluster| cluster.leader) })
    }
}

impl StreamExtent {
    /// Asks the server.
    pub(crate) async fn look(nats: &Nats, stream: &str) -> Result<Self, StreamError> {
        let info = info(nats, stream).await?;
        let facts = StreamFacts::of(&info);
        // Without messages these times mean nothing.
        let has_messages = info.state.messages > 0;
        let time = |nanos: i128| i64::try_from(nanos.div_euclid(1_000_000)).ok().filter(|_| has_messages);
        let oldest = time(info.state.first_timestamp.unix_timestamp_nanos()).map(Timestamp);
        let stored = time(info.state.last_timestamp.unix_timestamp_nanos()).map_or(Timestamp(i64::MAX), Timestamp);
        Ok(Self { facts, oldest, end: StreamEnd { epoch_id: facts.epoch_id, last: facts.last, stored } })
    }
}

impl StreamFacts {
    /// Begins a new epoch after `before`, unless one later than `known` has begun. Its id is the next one: no clock
    /// decides it, so it grows whatever the clocks of servers and nodes say, and routers that begin it at the
    /// same time begin the same one.
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

    /// The stream has removed everything up to here, of any epoch.
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
    /// Messages that were found before, the last one first. If something is lost, they show where the loss begins.
    pub(crate) known: Vec<Mark>,
    /// What gateways report beside that.
    pub(crate) reported: Reported,
}

/// What gateways report of the stream. Somebody else may have sent such a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    /// The latest epoch.
    pub(crate) epoch_id: EpochId,
    /// A sequence that the known epoch has reached.
    pub(crate) reached: Seq,
    /// Messages of the known epoch that were given to clients, the last one first.
    pub(crate) to_check: Vec<Mark>,
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
        /// Whether only gateways report that.
        is_only_reported: bool,
    },
}

impl StreamLook {
    /// Looks, and compares the messages that were read with those that have their sequences now.
    ///
    /// # Errors
    /// When the leader does not answer.
    pub async fn at(leader: &impl Leader, expected: &Expected) -> Result<Self, StreamError> {
        let facts = leader.facts().await?;
        if facts.epoch_id > expected.epoch_id {
            return Ok(Self::Whole(facts));
        }
        let reported = &expected.reported;
        let read_lost = facts.earliest_lost(leader, &expected.to_check).await?;
        let reported_lost = facts.earliest_lost(leader, &reported.to_check).await?;
        let is_lost = facts.epoch_id < expected.epoch_id || read_lost.is_some() || expected.reached > facts.last;
        let is_reported_lost =
            facts.epoch_id < reported.epoch_id || reported_lost.is_some() || reported.reached > facts.last;
        if !is_lost && !is_reported_lost {
            return Ok(Self::Whole(facts));
        }
        let is_former = facts.epoch_id < expected.epoch_id.max(reported.epoch_id);
        let before = match read_lost.into_iter().chain(reported_lost).min() {
            // The stream was created again while a clock was behind, or has lost the record of its epoch.
            _ if is_former => facts.agreed(leader, expected, None).await?,
            Some(lost) => {
                let agreed = facts.agreed(leader, expected, Some(lost)).await?;
                facts.last_stored_before(leader, agreed, lost).await?
            }
            // The stream ends before a sequence that was read, and the time of that message is not known. So any
            // message that is there now may have been stored later.
            None => Seq(0),
        };
        Ok(Self::Lost { facts, before, is_only_reported: !is_lost })
    }
}

impl StreamFacts {
    /// Whether the stream has this message; `None` if it was removed.
    ///
    /// # Errors
    /// When the leader does not answer.
    pub async fn has(&self, leader: &impl Leader, mark: Mark) -> Result<Option<bool>, StreamError> {
        if mark.seq < self.first {
            return Ok(None);
        }
        if mark.seq > self.last {
            return Ok(Some(false));
        }
        let found = leader.message(MessageSelector::At(mark.seq.0)).await?;
        Ok(found.map(|found| found.stored == mark.stored))
    }

    /// The earliest of these messages that the stream has not. They are ordered, the last one first.
    async fn earliest_lost(&self, leader: &impl Leader, marks: &[Mark]) -> Result<Option<Mark>, StreamError> {
        let mut lost = None;
        for mark in marks {
            if self.has(leader, *mark).await? == Some(false) {
                lost = Some(*mark);
            }
        }
        Ok(lost)
    }

    /// The last message that was there before and is still there. One that was stored later than `lost` does not count,
    /// because it may have been read after the loss.
    async fn agreed(&self, leader: &impl Leader, expected: &Expected, lost: Option<Mark>) -> Result<Seq, StreamError> {
        let mut agreed = None;
        let is_before = |mark: &&Mark| lost.is_none_or(|lost| mark.seq < lost.seq && mark.stored <= lost.stored);
        let marks = expected.to_check.iter().chain(&expected.reported.to_check).chain(&expected.known);
        for mark in marks.filter(is_before) {
            if agreed < Some(mark.seq) && self.has(leader, *mark).await? == Some(true) {
                agreed = Some(mark.seq);
            }
        }
        Ok(agreed.unwrap_or_default())
    }

    /// The last message after `agreed` that was stored no later than `lost`, a message that is gone. Messages after it
    /// were stored after the loss.
    async fn last_stored_before(&self, leader: &impl Leader, agreed: Seq, lost: Mark) -> Result<Seq, StreamError> {
        let mut low = agreed.0.max(self.first.0.saturating_sub(1));
        let mut high = self.last.0.min(lost.seq.0.saturating_sub(1));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let found = leader.message(MessageSelector::from(Seq(middle))).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::ready;

    /// A stream that ends with its last message.
    struct Log(Vec<Mark>);

    impl Leader for Log {
        fn facts(&self) -> impl Future<Output = Result<StreamFacts, StreamError>> + Send {
            let last = self.0.last().map_or(Seq(0), |last| last.seq);
            let facts = StreamFacts { epoch_id: EpochId(1), before: Seq(0), first: Seq(1), last, replicas: 1 };
            ready(Ok(facts))
        }

        fn message(
            &self,
            wanted: MessageSelector<'static>,
        ) -> impl Future<Output = Result<Option<Mark>, StreamError>> + Send {
            let found = self.0.iter().find(|mark| match wanted {
                MessageSelector::At(seq) => mark.seq.0 == seq,
                MessageSelector::From { seq, .. } => mark.seq.0 >= seq,
                MessageSelector::LastOf(_) | MessageSelector::Since { .. } => false,
            });
            ready(Ok(found.copied()))
        }
    }

    fn mark(seq: u64, stored: i64) -> Mark {
        Mark { seq: Seq(seq), stored }
    }

    /// Five messages were stored by 50, of which two were lost; after that, two others.
    async fn before(reached: u64, to_check: Vec<Mark>, known: Vec<Mark>) -> Option<Seq> {
        let log = Log(vec![mark(1, 10), mark(2, 20), mark(3, 30), mark(4, 140)]);
        let expected = Expected { epoch_id: EpochId(1), reached: Seq(reached), to_check, known, ..Expected::default() };
        match StreamLook::at(&log, &expected).await.unwrap() {
            StreamLook::Whole(_) => None,
            StreamLook::Lost { before, is_only_reported, .. } => {
                assert!(!is_only_reported);
                Some(before)
            }
        }
    }

    #[tokio::test]
    async fn loss_that_only_gateways_report_is_told_from_one_that_was_read() {
        let log = Log(vec![mark(1, 10), mark(2, 20), mark(3, 30), mark(4, 140)]);
        let look = async |reached, reported: Reported| {
            let to_check = vec![mark(3, 30)];
            let expected = Expected { epoch_id: EpochId(1), reached: Seq(reached), to_check, known: vec![], reported };
            match StreamLook::at(&log, &expected).await.unwrap() {
                StreamLook::Whole(_) => None,
                StreamLook::Lost { before, is_only_reported, .. } => Some((before, is_only_reported)),
            }
        };
        let reported = |reached, to_check| Reported { epoch_id: EpochId(1), reached: Seq(reached), to_check };
        assert_eq!(look(4, reported(4, vec![mark(4, 140), mark(2, 20)])).await, None);
        assert_eq!(look(4, reported(5, vec![])).await, Some((Seq(0), true)));
        assert_eq!(look(4, reported(4, vec![mark(4, 40)])).await, Some((Seq(3), true)));
        assert_eq!(look(4, Reported { epoch_id: EpochId(2), ..Reported::default() }).await, Some((Seq(3), true)));
        assert_eq!(look(5, reported(4, vec![mark(4, 40)])).await, Some((Seq(3), false)));
    }

    #[tokio::test]
    async fn messages_stored_after_a_loss_are_not_taken_for_the_lost_ones() {
        assert_eq!(before(4, vec![mark(2, 20)], vec![]).await, None);
        assert_eq!(before(5, vec![mark(5, 50)], vec![mark(2, 20)]).await, Some(Seq(3)));
        // Another reader has read the fourth since the loss, and the stream has it.
        assert_eq!(before(5, vec![mark(5, 50), mark(4, 140)], vec![mark(2, 20)]).await, Some(Seq(3)));
        // The time of the fifth is not known, so it is not known either which of the others were stored before it.
        assert_eq!(before(5, vec![mark(4, 140)], vec![mark(2, 20)]).await, Some(Seq(0)));
    }
}
