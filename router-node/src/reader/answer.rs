//! Whether the answer to a direct get has every message after the last known one. Pure.
//!
//! Each message of an answer names the sequence of the message that the server sent before it, and the end of the
//! answer names the last one. So a message that is lost on the way shows. A message that the server itself lacks does
//! not show in this way; how it shows depends on the scope:
//!
//! * The whole stream has every sequence, so a missing sequence shows.
//! * A partition has only some of the sequences. But a server removes messages only from the front. So the request
//!   begins with the last known message: if the server still has it, the server has every message after it. The server
//!   could remove the known message while it answers. So this proves something only if the stream has one copy, and
//!   only together with a later look at where the stream begins.
//!
//! An answer that does not begin like this proves nothing. Then the reader asks the leader of the stream which message
//! comes next.

use super::direct::DirectError;
use tickwire_core::ids::Seq;
use tickwire_node::direct::DirectMessage;

/// The messages that are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerScope {
    /// Every message of the stream.
    Stream,
    /// Those of one partition.
    Partition,
}

/// What a message of the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerItem {
    /// The known message.
    Known,
    /// The next message.
    Next,
    /// The server lacks a message before this one. The answer is not read further.
    Break,
}

/// The check of one answer, which has messages after the last known one.
#[derive(Debug)]
pub(crate) struct AnswerCheck {
    scope: AnswerScope,
    known: Seq,
    /// Whether the answer begins right after the last known message.
    follows: bool,
    /// The last message so far; 0 before the first.
    last: u64,
}

impl AnswerCheck {
    /// Checks an answer to a request for messages after `known`.
    pub(crate) fn after(scope: AnswerScope, known: Seq) -> Self {
        Self { scope, known, follows: false, last: 0 }
    }

    /// The first sequence of the request. A request for a partition begins with the last known message.
    pub(crate) fn begin(&self) -> u64 {
        match self.scope {
            AnswerScope::Stream => self.known.0.saturating_add(1),
            AnswerScope::Partition => self.known.0.max(1),
        }
    }

    /// Takes the next message.
    pub(crate) fn take(&mut self, got: &DirectMessage<'_>) -> Result<AnswerItem, DirectError> {
        let before =
            got.before.ok_or_else(|| DirectError::Unreadable("it does not name the message before".to_owned()))?;
        if before != self.last || got.seq <= self.last {
            return Err(DirectError::Missed);
        }
        if self.scope == AnswerScope::Stream && before > 0 && got.seq != before + 1 {
            return Ok(AnswerItem::Break);
        }
        self.last = got.seq;
        self.follows |= match self.scope {
            AnswerScope::Stream => got.seq == self.begin(),
            AnswerScope::Partition => got.seq == self.known.0,
        };
        Ok(if got.seq > self.known.0 { AnswerItem::Next } else { AnswerItem::Known })
    }

    /// Takes the end of the answer, which names the `last` message.
    pub(crate) fn end(&self, last: Option<u64>) -> Result<(), DirectError> {
        match last {
            Some(last) if last == self.last => Ok(()),
            Some(_) => Err(DirectError::Missed),
            None => Err(DirectError::Unreadable("it does not name the last message".to_owned())),
        }
    }

    /// Whether the messages follow the last known one. If not, the leader must be asked.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }
}

/// Whether to take the leader's `next` message instead of the answer, which begins with `first`: if the answer begins
/// later, or is empty. Its server then lags behind the leader, or has removed what the leader still keeps.
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
    fn answer_from_the_known_message_to_the_last_is_complete() {
        let mut check = AnswerCheck::after(AnswerScope::Partition, Seq(7));
        assert_eq!((check.begin(), check.take(&got(7, Some(0))).unwrap()), (7, AnswerItem::Known));
        assert_eq!(check.take(&got(12, Some(7))).unwrap(), AnswerItem::Next);
        assert_eq!(check.take(&got(13, Some(12))).unwrap(), AnswerItem::Next);
        check.end(Some(13)).unwrap();
        assert!(check.follows());
    }

    #[test]
    fn copy_without_the_known_message_proves_nothing() {
        for (scope, first) in [(AnswerScope::Partition, 12), (AnswerScope::Stream, 9)] {
            let mut check = AnswerCheck::after(scope, Seq(7));
            assert_eq!(check.take(&got(first, Some(0))).unwrap(), AnswerItem::Next);
            check.end(Some(first)).unwrap();
            assert!(!check.follows());
        }
    }

    #[test]
    fn every_missing_sequence_of_the_stream_is_found() {
        let mut check = AnswerCheck::after(AnswerScope::Stream, Seq(7));
        assert_eq!((check.begin(), check.take(&got(8, Some(0))).unwrap()), (8, AnswerItem::Next));
        assert_eq!(check.take(&got(9, Some(8))).unwrap(), AnswerItem::Next);
        assert_eq!(check.take(&got(11, Some(9))).unwrap(), AnswerItem::Break);
        assert!(check.follows());
    }

    #[test]
    fn message_lost_in_transit_is_detected() {
        for scope in [AnswerScope::Partition, AnswerScope::Stream] {
            let mut first_lost = AnswerCheck::after(scope, Seq(7));
            assert!(matches!(first_lost.take(&got(12, Some(7))), Err(DirectError::Missed)));
            let mut check = AnswerCheck::after(scope, Seq(7));
            check.take(&got(8, Some(0))).unwrap();
            assert!(matches!(check.take(&got(10, Some(9))), Err(DirectError::Missed)));
            assert!(matches!(check.end(Some(9)), Err(DirectError::Missed)), "the last is lost");
            assert!(matches!(check.take(&got(8, Some(8))), Err(DirectError::Missed)), "duplicated");
            assert!(matches!(check.take(&got(9, None)), Err(DirectError::Unreadable(_))));
            assert!(matches!(check.end(None), Err(DirectError::Unreadable(_))));
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
        /// Servers that have removed more than the leader, remove more while they answer, or have damaged disks: what
        /// is read is what the leader has.
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
                let (mut check, mut run) = (AnswerCheck::after(AnswerScope::Stream, after), Vec::new());
                let (mut at, mut before) = (check.begin(), 0);
                for number in 0..*count {
                    // It removes messages while it answers.
                    if let Some((when, many)) = removal && *when == number {
                        copy.front += many;
                    }
                    let Some(seq) = copy.next(at) else { break };
                    if check.take(&got(seq, Some(before))).unwrap() == AnswerItem::Break {
                        break;
                    }
                    run.push(seq);
                    (at, before) = (seq + 1, seq);
                }
                let next = leader.next(after.0 + 1).map(Seq);
                if !check.follows() && is_leaders(next, run.first().copied().map(Seq)) {
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
