//! Whether the messages of a batch follow one another. Pure.
//!
//! The server says with each message which one it has sent before it, and at the end which was the last: one that was lost
//! on the way shows. What the server itself lacks shows in one of two ways.
//!
//! * Of the whole stream every sequence is there, so that one which is missing shows.
//! * Those of one partition are sparse. But a server removes from the front alone, so that one which still has the last
//!   message that we know has everything behind it, as long as it does not remove that very one while it answers. So
//!   this proves something only where the stream has one copy: the server is asked, afterwards, where it begins now.
//!
//! What does not follow proves nothing by itself. The server that leads the stream is asked what comes next.

use super::direct::DirectError;
use tickwire_core::ids::Seq;
use tickwire_node::direct::DirectMessage;

/// What a batch is asked for of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchScope {
    /// Of every message.
    Stream,
    /// Of those of one partition.
    Partition,
}

/// What became of a message of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchItem {
    /// It is the one that was known.
    Known,
    /// It comes next.
    Next,
    /// Something before it is not here. The batch is over.
    Break,
}

/// A batch behind the last known message.
#[derive(Debug)]
pub(crate) struct DirectBatch {
    of: BatchScope,
    known: Seq,
    /// Whether it begins right behind the last known message.
    follows: bool,
    /// The last message of the batch; 0 before the first.
    last: u64,
}

impl DirectBatch {
    /// Behind `known`.
    pub(crate) fn after(of: BatchScope, known: Seq) -> Self {
        Self { of, known, follows: false, last: 0 }
    }

    /// From which sequence on it is asked for. Of a partition it begins with the last known message.
    pub(crate) fn begin(&self) -> u64 {
        match self.of {
            BatchScope::Stream => self.known.0.saturating_add(1),
            BatchScope::Partition => self.known.0.max(1),
        }
    }

    /// Takes the next message.
    pub(crate) fn take(&mut self, got: &DirectMessage<'_>) -> Result<BatchItem, DirectError> {
        let before =
            got.before.ok_or_else(|| DirectError::Unreadable("it does not say what was sent before".to_owned()))?;
        if before != self.last || got.seq <= self.last {
            return Err(DirectError::Missed);
        }
        if self.of == BatchScope::Stream && before > 0 && got.seq != before + 1 {
            return Ok(BatchItem::Break);
        }
        self.last = got.seq;
        self.follows |= match self.of {
            BatchScope::Stream => got.seq == self.begin(),
            BatchScope::Partition => got.seq == self.known.0,
        };
        Ok(if got.seq > self.known.0 { BatchItem::Next } else { BatchItem::Known })
    }

    /// The server has sent all, `last` being the last.
    pub(crate) fn end(&self, last: Option<u64>) -> Result<(), DirectError> {
        match last {
            Some(last) if last == self.last => Ok(()),
            Some(_) => Err(DirectError::Missed),
            None => Err(DirectError::Unreadable("it does not say what was sent last".to_owned())),
        }
    }

    /// Whether what came follows the last known message. If not, the leader is to be asked.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }
}

/// Whether what the leader has next is to be taken, and not the batch which begins with `first`, if with anything: a server
/// that has nothing lags behind the leader, or has removed what the leader still keeps.
pub(crate) fn is_leaders(next: Option<Seq>, first: Option<Seq>) -> bool {
    next.is_some_and(|next| first.is_none_or(|first| next < first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn got(seq: u64, before: Option<u64>) -> DirectMessage<'static> {
        DirectMessage { seq, stored: "", subject: b"", headers: b"", pending: Some(1), before }
    }

    #[test]
    fn batch_from_the_known_message_to_the_last_is_complete() {
        let mut batch = DirectBatch::after(BatchScope::Partition, Seq(7));
        assert_eq!((batch.begin(), batch.take(&got(7, Some(0))).unwrap()), (7, BatchItem::Known));
        assert_eq!(batch.take(&got(12, Some(7))).unwrap(), BatchItem::Next);
        assert_eq!(batch.take(&got(13, Some(12))).unwrap(), BatchItem::Next);
        batch.end(Some(13)).unwrap();
        assert!(batch.follows());
    }

    #[test]
    fn copy_without_the_known_message_proves_nothing() {
        for (of, first) in [(BatchScope::Partition, 12), (BatchScope::Stream, 9)] {
            let mut batch = DirectBatch::after(of, Seq(7));
            assert_eq!(batch.take(&got(first, Some(0))).unwrap(), BatchItem::Next);
            batch.end(Some(first)).unwrap();
            assert!(!batch.follows());
        }
    }

    #[test]
    fn every_missing_sequence_of_the_stream_is_found() {
        let mut batch = DirectBatch::after(BatchScope::Stream, Seq(7));
        assert_eq!((batch.begin(), batch.take(&got(8, Some(0))).unwrap()), (8, BatchItem::Next));
        assert_eq!(batch.take(&got(9, Some(8))).unwrap(), BatchItem::Next);
        assert_eq!(batch.take(&got(11, Some(9))).unwrap(), BatchItem::Break);
        assert!(batch.follows());
    }

    #[test]
    fn message_lost_in_transit_is_detected() {
        for of in [BatchScope::Partition, BatchScope::Stream] {
            let mut first_lost = DirectBatch::after(of, Seq(7));
            assert!(matches!(first_lost.take(&got(12, Some(7))), Err(DirectError::Missed)));
            let mut batch = DirectBatch::after(of, Seq(7));
            batch.take(&got(8, Some(0))).unwrap();
            assert!(matches!(batch.take(&got(10, Some(9))), Err(DirectError::Missed)));
            assert!(matches!(batch.end(Some(9)), Err(DirectError::Missed)), "the last is lost");
            assert!(matches!(batch.take(&got(8, Some(8))), Err(DirectError::Missed)), "doubled");
            assert!(matches!(batch.take(&got(9, None)), Err(DirectError::Unreadable(_))));
            assert!(matches!(batch.end(None), Err(DirectError::Unreadable(_))));
        }
    }

    /// A copy of the stream on one server: all up to the end, but what was removed from the front, or is damaged.
    #[derive(Debug, Clone)]
    struct Copy {
        front: u64,
        damaged: BTreeSet<u64>,
    }

    const END: u64 = 60;

    impl Copy {
        fn next(&self, from: u64) -> Option<u64> {
            (from.max(self.front)..=END).find(|seq| !self.damaged.contains(seq))
        }
    }

    fn copy() -> impl Strategy<Value = Copy> {
        (1..=END, proptest::collection::btree_set(1..=END, 0..4)).prop_map(|(front, damaged)| Copy { front, damaged })
    }

    proptest! {
        /// Servers that have removed more than the leader, remove more while they answer, or have damaged disks: what is
        /// read is what the leader has.
        #[test]
        fn reading_from_skewed_copies_equals_the_leader(
            mut copies in proptest::collection::vec(copy(), 1..4),
            leader in 1..=END,
            from in 0..END,
            to_answer in proptest::collection::vec((0_usize..4, 1_u64..20, proptest::option::of((0_u64..20, 1_u64..10))), 1..8),
        ) {
            let leader = Copy { front: leader, damaged: BTreeSet::new() };
            let (mut read, mut after) = (Vec::new(), Seq(from));
            for (server, count, removal) in to_answer.iter().cycle().take(10_000) {
                if after.0 >= END {
                    break;
                }
                let number = server % copies.len();
                let copy = &mut copies[number];
                let (mut batch, mut run) = (DirectBatch::after(BatchScope::Stream, after), Vec::new());
                let (mut at, mut before) = (batch.begin(), 0);
                for number in 0..*count {
                    // It removes messages while it answers.
                    if let Some((when, many)) = removal && *when == number {
                        copy.front += many;
                    }
                    let Some(seq) = copy.next(at) else { break };
                    if batch.take(&got(seq, Some(before))).unwrap() == BatchItem::Break {
                        break;
                    }
                    run.push(seq);
                    (at, before) = (seq + 1, seq);
                }
                let next = leader.next(after.0 + 1).map(Seq);
                if !batch.follows() && is_leaders(next, run.first().copied().map(Seq)) {
                    run = next.into_iter().map(|next| next.0).collect();
                }
                read.extend(run.iter().copied());
                after = run.last().copied().map_or(after, Seq);
            }
            let has: Vec<u64> = (from + 1..=END).filter(|seq| *seq >= leader.front).collect();
            let lacks = has.iter().filter(|seq| !read.contains(seq)).count();
            prop_assert_eq!((lacks, read.is_sorted()), (0, true));
        }
    }
}
