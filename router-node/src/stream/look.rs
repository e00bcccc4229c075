//! Whether the stream still has the messages that were read, and if not, up to where it is unchanged. The leader of the
//! stream is asked.

use crate::checkpoint::Mark;
use crate::stream::{Leader, StreamError, StreamFacts};
use tickwire_core::ids::{EpochId, Seq};
use tickwire_node::stored::MessageSelector;

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
        /// Who knows of it.
        witness: Witness,
    },
}

/// Who knows what the stream has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// Routers, which have read it.
    Routers,
    /// Only gateways, by their reports.
    Gateways {
        /// The earliest lost message that they report. Without one, their epoch or their coverage shows the loss.
        lost: Option<Mark>,
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
        // The epoch of a report does not count beside what was read: somebody else may have sent it.
        let known = if is_lost { expected.epoch_id } else { expected.epoch_id.max(reported.epoch_id) };
        let before = if facts.epoch_id < known {
            // The stream was created again while a clock was behind, or has lost the record of its epoch.
            facts.agreed(leader, expected, None).await?
        } else {
            let mut before: Option<Seq> = None;
            for lost in read_lost.into_iter().chain(reported_lost) {
                let agreed = facts.agreed(leader, expected, Some(lost)).await?;
                let bound = facts.last_stored_before(leader, agreed, lost).await?;
                before = Some(before.map_or(bound, |before| before.min(bound)));
            }
            // If there is none, the stream ends before a sequence that was read, and the time of that message is not
            // known. So any message that is there now may have been stored later.
            before.unwrap_or_default()
        };
        let witness = if is_lost { Witness::Routers } else { Witness::Gateways { lost: reported_lost } };
        Ok(Self::Lost { facts, before, witness })
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
            StreamLook::Lost { before, witness, .. } => {
                assert_eq!(witness, Witness::Routers);
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
                StreamLook::Lost { before, witness, .. } => Some((before, witness)),
            }
        };
        let reported = |reached, to_check| Reported { epoch_id: EpochId(1), reached: Seq(reached), to_check };
        let later = Reported { epoch_id: EpochId(2), ..Reported::default() };
        let gateways = |before, lost| Some((Seq(before), Witness::Gateways { lost }));
        assert_eq!(look(4, reported(4, vec![mark(4, 140), mark(2, 20)])).await, None);
        assert_eq!(look(4, reported(5, vec![])).await, gateways(0, None));
        assert_eq!(look(4, reported(4, vec![mark(4, 40)])).await, gateways(3, Some(mark(4, 40))));
        assert_eq!(look(4, later.clone()).await, gateways(3, None));
        assert_eq!(look(5, reported(4, vec![mark(4, 40)])).await, Some((Seq(3), Witness::Routers)));
        assert_eq!(look(5, later).await, Some((Seq(0), Witness::Routers)));
    }

    #[tokio::test]
    async fn report_hides_nothing_of_a_loss_that_was_read() {
        let log = Log(vec![mark(1, 10), mark(2, 20), mark(3, 30), mark(4, 140)]);
        for (reported, kept) in [(vec![], 2), (vec![mark(4, 999)], 2), (vec![mark(2, 15)], 1)] {
            let reported = Reported { epoch_id: EpochId(9), reached: Seq(4), to_check: reported };
            let to_check = vec![mark(4, 25)];
            let expected = Expected { epoch_id: EpochId(1), reached: Seq(4), to_check, known: vec![], reported };
            let StreamLook::Lost { before, witness, .. } = StreamLook::at(&log, &expected).await.unwrap() else {
                panic!("it is lost");
            };
            assert_eq!((before, witness), (Seq(kept), Witness::Routers));
        }
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
