//! Whether the stream is still the one that was read. Pure: what is known of it, and when a loss is believed.
//!
//! What identifies a message is its sequence together with the time at which the server stored it. Routers keep that of
//! the last message that they have read, and write it down with the floor. So a stream that has lost its tail is known
//! even after it was filled up again, and after every router was started again.

use super::tenancy::{Checkpoint, Mark};
use crate::stream::{Expected, StreamFacts, StreamLook};
use std::collections::BTreeSet;
use tickwire_core::ids::{EpochId, Millis, Seq};

/// For how long a stream that several servers keep may seem to lack what was read: a new leader comes to it.
const DOUBT: u64 = 3_000;

/// How many messages are remembered that were there. The last one is looked for again, the others tell from where on
/// something was lost.
const PROVEN: usize = 48;

/// How many messages are looked for at once, at most: of every source its last one, and more.
const UNPROVEN: usize = 2_048;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Continuity {
    epoch_id: EpochId,
    reached: Seq,
    /// Messages that were there at the last look.
    proven: BTreeSet<Mark>,
    /// Messages that were read, and that no look has found yet. The last one alone would not do: it may have been read
    /// after the others were lost.
    unproven: BTreeSet<Mark>,
    /// Those of them that are being looked for.
    sought: BTreeSet<Mark>,
    /// The life in which they are.
    sought_in: EpochId,
    /// Since when something has seemed to be lost.
    doubted: Option<Millis>,
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContinuityResult {
    /// The stream is as it should be, or lives another life, which is noted.
    Life(StreamFacts),
    /// It may have lost something: look again.
    Doubt,
    /// Another life is to be begun, after the one that is known, of what comes after this sequence.
    Begin { known: EpochId, before: Seq },
}

impl Continuity {
    /// The stream lives this life, or did. Returns whether that is a later one than was known.
    pub(super) fn hear_of(&mut self, epoch_id: EpochId) -> bool {
        let is_later = epoch_id > self.epoch_id;
        if is_later {
            *self = Self { epoch_id, ..Self::default() };
        }
        is_later
    }

    /// Something was read in a life of the stream, here or by whoever wrote this.
    pub(super) fn note(&mut self, Checkpoint { checkpoint, epoch_id, mark }: Checkpoint) {
        self.hear_of(epoch_id);
        if epoch_id == self.epoch_id {
            self.reached = self.reached.max(checkpoint);
            self.unproven.extend(mark.filter(|mark| !self.proven.contains(mark)));
            while self.unproven.len() > UNPROVEN {
                self.unproven.pop_last();
            }
        }
    }

    /// Whoever read this did not find it any more, or knows more than we do. It is looked for, also if it was there before.
    pub(super) fn doubt(&mut self, read: Checkpoint) {
        if read.epoch_id == self.epoch_id
            && let Some(mark) = &read.mark
        {
            self.proven.remove(mark);
        }
        self.note(read);
    }

    /// What a look is to compare with. It ends with [`see`](Self::see) or [`fail`](Self::fail).
    pub(super) fn expected(&mut self) -> Expected {
        self.sought.append(&mut self.unproven);
        self.sought_in = self.epoch_id;
        let mut sought: Vec<Mark> = self.sought.iter().chain(self.proven.last()).copied().collect();
        sought.sort_unstable_by(|a, b| b.cmp(a));
        Expected {
            epoch_id: self.epoch_id,
            reached: self.reached,
            sought,
            known: self.proven.iter().rev().copied().collect(),
        }
    }

    /// The stream could not be looked at.
    pub(super) fn fail(&mut self) {
        self.unproven.append(&mut self.sought);
    }

    /// The stream was looked at.
    pub(super) fn see(&mut self, now: Millis, look: StreamLook) -> ContinuityResult {
        match look {
            StreamLook::Whole(facts) => {
                self.doubted = None;
                self.proven.append(&mut self.sought);
                while self.proven.len() > PROVEN {
                    self.proven.pop_first();
                }
                self.hear_of(facts.epoch_id);
                ContinuityResult::Life(facts)
            }
            StreamLook::Lost { facts, before } => {
                self.fail();
                // A later life was heard of while the look was under way: whoever began it has seen the same loss.
                if self.sought_in != self.epoch_id {
                    return ContinuityResult::Doubt;
                }
                let since = *self.doubted.get_or_insert(now);
                if facts.replicas > 1 && now.since(since) < DOUBT {
                    return ContinuityResult::Doubt;
                }
                ContinuityResult::Begin { known: self.epoch_id, before }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(epoch_id: u64, replicas: usize) -> StreamFacts {
        StreamFacts { epoch_id: EpochId(epoch_id), before: Seq(0), first: Seq(1), last: Seq(9), replicas }
    }

    fn checkpoint(epoch_id: u64, seq: u64) -> Checkpoint {
        let mark = Some(Mark { seq: Seq(seq), stored: seq as i64 * 10 });
        Checkpoint { checkpoint: Seq(seq), epoch_id: EpochId(epoch_id), mark }
    }

    fn mark(seq: u64) -> Mark {
        Mark { seq: Seq(seq), stored: seq as i64 * 10 }
    }

    #[test]
    fn the_latest_life_counts_and_its_last_messages_are_kept() {
        let mut continuity = Continuity::default();
        continuity.note(checkpoint(2, 900));
        continuity.note(checkpoint(1, 950));
        assert_eq!(continuity.expected().reached, Seq(900));
        assert!(continuity.hear_of(EpochId(3)) && !continuity.hear_of(EpochId(3)));
        for seq in 1..100 {
            continuity.note(checkpoint(3, seq));
            continuity.expected();
            continuity.see(Millis(0), StreamLook::Whole(facts(3, 1)));
        }
        let Expected { epoch_id, reached, sought, known } = continuity.expected();
        assert_eq!((epoch_id, reached, sought), (EpochId(3), Seq(99), vec![mark(99)]));
        assert_eq!((known.len(), known[0], known[1]), (PROVEN, mark(99), mark(98)));
        assert_eq!(continuity.see(Millis(0), StreamLook::Whole(facts(4, 1))), ContinuityResult::Life(facts(4, 1)));
        assert_eq!(continuity.expected(), Expected { epoch_id: EpochId(4), ..Expected::default() });
    }

    #[test]
    fn every_message_that_was_read_is_looked_for_until_a_look_has_found_it() {
        let mut continuity = Continuity::default();
        for seq in [7, 5] {
            continuity.note(checkpoint(3, seq));
        }
        assert_eq!(continuity.expected().sought, [mark(7), mark(5)]);
        continuity.note(checkpoint(3, 6));
        continuity.fail();
        assert_eq!(continuity.expected().sought, [mark(7), mark(6), mark(5)]);
        continuity.note(checkpoint(3, 9));
        continuity.see(Millis(0), StreamLook::Whole(facts(3, 1)));
        assert_eq!(continuity.expected().sought, [mark(9), mark(7)]);
    }

    #[test]
    fn what_a_reader_does_not_find_any_more_is_looked_for_also_if_it_was_there_before() {
        let mut continuity = Continuity::default();
        for seq in [5, 7] {
            continuity.note(checkpoint(3, seq));
            continuity.expected();
            continuity.see(Millis(0), StreamLook::Whole(facts(3, 1)));
        }
        continuity.note(checkpoint(3, 5));
        assert_eq!(continuity.expected().sought, [mark(7)]);
        continuity.see(Millis(0), StreamLook::Whole(facts(3, 1)));
        continuity.doubt(checkpoint(3, 5));
        assert_eq!(continuity.expected().sought, [mark(7), mark(5)]);
        continuity.see(Millis(0), StreamLook::Whole(facts(3, 1)));
        continuity.doubt(checkpoint(2, 6));
        assert_eq!(continuity.expected().sought, [mark(7)], "of a former life");
    }

    #[test]
    fn a_loss_in_a_life_that_is_over_by_the_time_it_is_known_begins_no_other_one() {
        let lost = StreamLook::Lost { facts: facts(3, 1), before: Seq(7) };
        let mut continuity = Continuity::default();
        continuity.note(checkpoint(3, 90));
        continuity.expected();
        continuity.note(checkpoint(4, 8));
        assert_eq!(continuity.see(Millis(10), lost), ContinuityResult::Doubt);
        assert_eq!(continuity.expected().sought, [mark(8)]);
        let begin = ContinuityResult::Begin { known: EpochId(4), before: Seq(7) };
        assert_eq!(continuity.see(Millis(20), StreamLook::Lost { facts: facts(4, 1), before: Seq(7) }), begin);
    }

    #[test]
    fn a_loss_is_believed_at_once_of_one_server_and_after_a_while_of_several() {
        let begin = ContinuityResult::Begin { known: EpochId(3), before: Seq(7) };
        for (replicas, at_once) in [(1, begin), (3, ContinuityResult::Doubt)] {
            let mut continuity = Continuity::default();
            continuity.note(checkpoint(3, 90));
            continuity.expected();
            let lost = StreamLook::Lost { facts: facts(3, replicas), before: Seq(7) };
            assert_eq!(continuity.see(Millis(10), lost), at_once);
            assert_eq!(continuity.see(Millis(10 + DOUBT), lost), begin);
        }
        let mut continuity = Continuity::default();
        continuity.note(checkpoint(3, 90));
        continuity.expected();
        let lost = StreamLook::Lost { facts: facts(3, 3), before: Seq(7) };
        assert_eq!(continuity.see(Millis(10), lost), ContinuityResult::Doubt);
        assert_eq!(continuity.see(Millis(20), StreamLook::Whole(facts(3, 3))), ContinuityResult::Life(facts(3, 3)));
        assert_eq!(continuity.see(Millis(10 + DOUBT), lost), ContinuityResult::Doubt);
    }
}
