//! Whether the stream is still the one that was read. Pure: the known facts, and when a loss counts as sure.
//!
//! A message is identified by its sequence and the time at which the server stored it. Routers keep these of the last
//! message that they have read, and store them with the checkpoint. So a stream that has lost its end is detected even
//! after new messages have filled it up again, and after every router was restarted. What only [`gateways`] report is
//! believed later.

mod gateways;

use crate::checkpoint::{Checkpoint, Mark};
use crate::stream::{Expected, StreamFacts, StreamLook, Witness};
use gateways::GatewayReports;
use std::collections::{BTreeMap, BTreeSet};
use tickwire_core::ids::{EpochId, Millis, NodeRef, Seq};

/// How long a stream on several servers may seem to lack read messages: a new leader catches up meanwhile.
const LOSS_GRACE_MS: u64 = 3_000;

/// How many messages are remembered that a check has found. The last one is checked again. The others show where a loss
/// begins.
const MAX_CONFIRMED: usize = 48;

/// How many messages are checked at once, at most: the last one of every source, and more.
const MAX_UNCHECKED: usize = 2_048;

/// The state.
#[derive(Debug, Default)]
pub(super) struct Continuity {
    epoch_id: EpochId,
    reached: Seq,
    /// Messages that the last check has found.
    confirmed: BTreeSet<Mark>,
    /// Messages that were read, and that no check has found yet. The last one alone would not be enough: it may have
    /// been read after the others were lost.
    unchecked: BTreeSet<Mark>,
    /// The part of `unchecked` that is being checked.
    to_check: BTreeSet<Mark>,
    /// The epoch of these.
    checked_epoch: EpochId,
    /// Since when a message that was read seems to be lost.
    suspected_since: Option<Millis>,
    /// What gateways report.
    reports: GatewayReports,
    /// For how long a gateway must stand by a report that shows a loss, in milliseconds.
    report_grace: u64,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContinuityResult {
    /// Nothing is lost. The stream has this epoch, which may be a new one.
    Epoch(StreamFacts),
    /// A message may be lost: check again.
    Recheck,
    /// Begin a new epoch after the known one, for messages after this sequence.
    Begin { known: EpochId, before: Seq },
}

impl Continuity {
    /// Nothing is known yet. A gateway sends a beat within `member_timeout` milliseconds, or is no member any more. So
    /// if somebody else has reported a loss in its name, its own report has replaced that by then.
    pub(super) fn new(epoch_id: EpochId, member_timeout: u64) -> Self {
        Self { epoch_id, report_grace: member_timeout, ..Self::default() }
    }

    /// Notes an epoch of the stream. Returns whether it is later than the known one.
    pub(super) fn note_epoch(&mut self, epoch_id: EpochId) -> bool {
        let is_later = epoch_id > self.epoch_id;
        if is_later {
            let mut reports = std::mem::take(&mut self.reports);
            reports.enter(epoch_id);
            *self = Self { reports, ..Self::new(epoch_id, self.report_grace) };
        }
        is_later
    }

    /// Takes the coverage of each gateway whose reports are believed.
    pub(super) fn set_reports(&mut self, reports: BTreeMap<NodeRef, Checkpoint>) {
        self.reports.set(self.epoch_id, reports, |mark| self.confirmed.contains(mark));
    }

    /// Notes a message that was read in an epoch, by this router or another one.
    pub(super) fn note(&mut self, Checkpoint { checkpoint, epoch_id, mark }: Checkpoint) {
        self.note_epoch(epoch_id);
        if epoch_id == self.epoch_id {
            self.reached = self.reached.max(checkpoint);
            self.unchecked.extend(mark.filter(|mark| !self.confirmed.contains(mark)));
            while self.unchecked.len() > MAX_UNCHECKED {
                self.unchecked.pop_last();
            }
        }
    }

    /// A reader did not find this message any more, or knows more than we do. It is checked, even if it was found
    /// before.
    pub(super) fn recheck(&mut self, read: Checkpoint) {
        if read.epoch_id == self.epoch_id
            && let Some(mark) = &read.mark
        {
            self.confirmed.remove(mark);
        }
        self.note(read);
    }

    /// What a check compares with. It ends with [`take_look`](Self::take_look) or [`fail`](Self::fail).
    pub(super) fn expected(&mut self) -> Expected {
        self.to_check.append(&mut self.unchecked);
        self.checked_epoch = self.epoch_id;
        let mut to_check: Vec<Mark> = self.to_check.iter().chain(self.confirmed.last()).copied().collect();
        to_check.sort_unstable_by(|a, b| b.cmp(a));
        Expected {
            epoch_id: self.epoch_id,
            reached: self.reached,
            to_check,
            known: self.confirmed.iter().rev().copied().collect(),
            reported: self.reports.expected(self.epoch_id),
        }
    }

    /// The stream could not be read.
    pub(super) fn fail(&mut self) {
        self.unchecked.append(&mut self.to_check);
        self.reports.fail();
    }

    /// Takes the result of a check.
    pub(super) fn take_look(&mut self, now: Millis, look: StreamLook) -> ContinuityResult {
        match look {
            StreamLook::Whole(facts) => {
                self.suspected_since = None;
                self.confirmed.append(&mut self.to_check);
                self.confirmed.append(&mut self.reports.take_found());
                while self.confirmed.len() > MAX_CONFIRMED {
                    self.confirmed.pop_first();
                }
                self.note_epoch(facts.epoch_id);
                ContinuityResult::Epoch(facts)
            }
            StreamLook::Lost { facts, before, witness } => {
                self.fail();
                // A later epoch was noted during the check: the router that began it has seen the same loss.
                if self.checked_epoch != self.epoch_id {
                    return ContinuityResult::Recheck;
                }
                let catching_up = if facts.replicas > 1 { LOSS_GRACE_MS } else { 0 };
                let (known, shown_for, grace) = match witness {
                    Witness::Routers => {
                        self.reports.trust();
                        let since = *self.suspected_since.get_or_insert(now);
                        (self.epoch_id, now.since(since), catching_up)
                    }
                    Witness::Gateways { lost } => {
                        self.suspected_since = None;
                        // A gateway may have learned of an epoch since the check.
                        let reported = self.reports.checked_epoch();
                        let known = if facts.epoch_id < reported { reported } else { self.epoch_id };
                        (known, self.reports.shown_for(now, &facts, lost), catching_up.max(self.report_grace))
                    }
                };
                if shown_for < grace {
                    return ContinuityResult::Recheck;
                }
                ContinuityResult::Begin { known, before }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Reported;
    use tickwire_core::ids::{NodeId, Nonce};

    fn facts(epoch_id: u64, replicas: usize) -> StreamFacts {
        StreamFacts { epoch_id: EpochId(epoch_id), before: Seq(0), first: Seq(1), last: Seq(9), replicas }
    }

    fn checkpoint(epoch_id: u64, seq: u64) -> Checkpoint {
        let mark = Some(Mark { seq: Seq(seq), stored: seq as i64 * 10 });
        Checkpoint { checkpoint: Seq(seq), epoch_id: EpochId(epoch_id), mark }
    }

    /// What gateways report, each by the number in its name.
    fn reports<const N: usize>(reports: [(u8, Checkpoint); N]) -> BTreeMap<NodeRef, Checkpoint> {
        let gateway = |number| NodeRef { id: NodeId::new(&format!("g{number}")).unwrap(), nonce: Nonce(1) };
        reports.into_iter().map(|(number, report)| (gateway(number), report)).collect()
    }

    /// Gateways report more than there is, and the message 90.
    fn reported_lost(replicas: usize) -> StreamLook {
        let witness = Witness::Gateways { lost: Some(mark(90)) };
        StreamLook::Lost { facts: facts(3, replicas), before: Seq(7), witness }
    }

    fn mark(seq: u64) -> Mark {
        Mark { seq: Seq(seq), stored: seq as i64 * 10 }
    }

    #[test]
    fn latest_epoch_counts_and_its_last_messages_are_kept() {
        let mut continuity = Continuity::default();
        continuity.note(checkpoint(2, 900));
        continuity.note(checkpoint(1, 950));
        assert_eq!(continuity.expected().reached, Seq(900));
        assert!(continuity.note_epoch(EpochId(3)) && !continuity.note_epoch(EpochId(3)));
        for seq in 1..100 {
            continuity.note(checkpoint(3, seq));
            continuity.expected();
            continuity.take_look(Millis(0), StreamLook::Whole(facts(3, 1)));
        }
        let Expected { epoch_id, reached, to_check, known, .. } = continuity.expected();
        assert_eq!((epoch_id, reached, to_check), (EpochId(3), Seq(99), vec![mark(99)]));
        assert_eq!((known.len(), known[0], known[1]), (MAX_CONFIRMED, mark(99), mark(98)));
        assert_eq!(
            continuity.take_look(Millis(0), StreamLook::Whole(facts(4, 1))),
            ContinuityResult::Epoch(facts(4, 1))
        );
        assert_eq!(continuity.expected(), Expected { epoch_id: EpochId(4), ..Expected::default() });
    }

    #[test]
    fn read_message_is_checked_until_a_check_has_found_it() {
        let mut continuity = Continuity::default();
        for seq in [7, 5] {
            continuity.note(checkpoint(3, seq));
        }
        assert_eq!(continuity.expected().to_check, [mark(7), mark(5)]);
        continuity.note(checkpoint(3, 6));
        continuity.fail();
        assert_eq!(continuity.expected().to_check, [mark(7), mark(6), mark(5)]);
        continuity.note(checkpoint(3, 9));
        continuity.take_look(Millis(0), StreamLook::Whole(facts(3, 1)));
        assert_eq!(continuity.expected().to_check, [mark(9), mark(7)]);
    }

    #[test]
    fn message_that_a_reader_misses_is_checked_again() {
        let mut continuity = Continuity::default();
        for seq in [5, 7] {
            continuity.note(checkpoint(3, seq));
            continuity.expected();
            continuity.take_look(Millis(0), StreamLook::Whole(facts(3, 1)));
        }
        continuity.note(checkpoint(3, 5));
        assert_eq!(continuity.expected().to_check, [mark(7)]);
        continuity.take_look(Millis(0), StreamLook::Whole(facts(3, 1)));
        continuity.recheck(checkpoint(3, 5));
        assert_eq!(continuity.expected().to_check, [mark(7), mark(5)]);
        continuity.take_look(Millis(0), StreamLook::Whole(facts(3, 1)));
        continuity.recheck(checkpoint(2, 6));
        assert_eq!(continuity.expected().to_check, [mark(7)], "of a former epoch");
    }

    #[test]
    fn loss_in_a_former_epoch_begins_no_new_epoch() {
        let lost = StreamLook::Lost { facts: facts(3, 1), before: Seq(7), witness: Witness::Routers };
        let mut continuity = Continuity::default();
        continuity.note(checkpoint(3, 90));
        continuity.expected();
        continuity.note(checkpoint(4, 8));
        assert_eq!(continuity.take_look(Millis(10), lost), ContinuityResult::Recheck);
        assert_eq!(continuity.expected().to_check, [mark(8)]);
        let begin = ContinuityResult::Begin { known: EpochId(4), before: Seq(7) };
        assert_eq!(
            continuity.take_look(
                Millis(20),
                StreamLook::Lost { facts: facts(4, 1), before: Seq(7), witness: Witness::Routers }
            ),
            begin
        );
    }

    #[test]
    fn loss_is_sure_at_once_with_one_server_and_after_a_while_with_several() {
        let begin = ContinuityResult::Begin { known: EpochId(3), before: Seq(7) };
        for (replicas, at_once) in [(1, begin), (3, ContinuityResult::Recheck)] {
            let mut continuity = Continuity::default();
            continuity.note(checkpoint(3, 90));
            continuity.expected();
            let lost = StreamLook::Lost { facts: facts(3, replicas), before: Seq(7), witness: Witness::Routers };
            assert_eq!(continuity.take_look(Millis(10), lost), at_once);
            assert_eq!(continuity.take_look(Millis(10 + LOSS_GRACE_MS), lost), begin);
        }
        let mut continuity = Continuity::default();
        continuity.note(checkpoint(3, 90));
        continuity.expected();
        let lost = StreamLook::Lost { facts: facts(3, 3), before: Seq(7), witness: Witness::Routers };
        assert_eq!(continuity.take_look(Millis(10), lost), ContinuityResult::Recheck);
        assert_eq!(
            continuity.take_look(Millis(20), StreamLook::Whole(facts(3, 3))),
            ContinuityResult::Epoch(facts(3, 3))
        );
        assert_eq!(continuity.take_look(Millis(10 + LOSS_GRACE_MS), lost), ContinuityResult::Recheck);
    }

    #[test]
    fn loss_that_only_gateways_report_is_sure_when_one_of_them_has_stood_by_it() {
        let begin = ContinuityResult::Begin { known: EpochId(3), before: Seq(7) };
        let mut continuity = Continuity::new(EpochId(3), 5_000);
        continuity.set_reports(reports([(1, checkpoint(3, 90)), (2, checkpoint(3, 8))]));
        let reported = continuity.expected().reported;
        assert_eq!((reported.reached, reported.to_check), (Seq(90), vec![mark(90), mark(8)]));
        assert_eq!(continuity.take_look(Millis(10), reported_lost(1)), ContinuityResult::Recheck);

        continuity.set_reports(reports([(2, checkpoint(3, 90))]));
        continuity.expected();
        let look = continuity.take_look(Millis(5_010), reported_lost(1));
        assert_eq!(look, ContinuityResult::Recheck, "that of another one is new");
        continuity.set_reports(reports([(1, checkpoint(3, 8)), (2, checkpoint(3, 95))]));
        assert_eq!(continuity.expected().reported.to_check, [mark(95), mark(90), mark(8)], "until they are found");
        assert_eq!(continuity.take_look(Millis(10_009), reported_lost(1)), ContinuityResult::Recheck);
        // One that leaves, and has reported nothing that is lost, does not matter.
        continuity.set_reports(reports([(2, checkpoint(3, 95))]));
        continuity.expected();
        assert_eq!(continuity.take_look(Millis(10_010), reported_lost(1)), begin);

        continuity.set_reports(reports([]));
        assert_eq!(continuity.expected().reported, Reported::default());
    }

    #[test]
    fn reports_neither_shorten_nor_lengthen_the_wait_for_a_leader_that_catches_up() {
        let read_lost = StreamLook::Lost { facts: facts(3, 3), before: Seq(7), witness: Witness::Routers };
        let begin = ContinuityResult::Begin { known: EpochId(3), before: Seq(7) };
        let mut continuity = Continuity::new(EpochId(3), 5_000);
        continuity.set_reports(reports([(1, checkpoint(3, 90))]));
        continuity.expected();
        assert_eq!(continuity.take_look(Millis(0), reported_lost(3)), ContinuityResult::Recheck);
        assert_eq!(continuity.take_look(Millis(4_000), read_lost), ContinuityResult::Recheck);
        continuity.set_reports(reports([]));
        assert_eq!(continuity.take_look(Millis(3_999 + LOSS_GRACE_MS), read_lost), ContinuityResult::Recheck);
        assert_eq!(continuity.take_look(Millis(4_000 + LOSS_GRACE_MS), read_lost), begin);
    }

    #[test]
    fn epoch_that_has_begun_since_the_check_is_not_followed_by_another_one() {
        let mut continuity = Continuity::new(EpochId(3), 5_000);
        continuity.set_reports(reports([(1, checkpoint(3, 90))]));
        continuity.expected();
        assert_eq!(continuity.take_look(Millis(0), reported_lost(1)), ContinuityResult::Recheck);
        continuity.expected();
        continuity.set_reports(reports([(1, checkpoint(4, 8))]));
        let begin = ContinuityResult::Begin { known: EpochId(3), before: Seq(7) };
        assert_eq!(continuity.take_look(Millis(5_000), reported_lost(1)), begin, "after 3, which 4 has done already");
    }

    #[test]
    fn messages_that_gateways_report_are_checked_once() {
        let mut continuity = Continuity::new(EpochId(3), 5_000);
        continuity.set_reports(reports([(1, checkpoint(3, 9)), (2, checkpoint(3, 9)), (3, checkpoint(4, 5))]));
        let Expected { epoch_id, reached, to_check, reported, .. } = continuity.expected();
        assert_eq!((epoch_id, reached, to_check), (EpochId(3), Seq(0), vec![]));
        let told = Reported { epoch_id: EpochId(4), reached: Seq(9), to_check: vec![mark(9)] };
        assert_eq!(reported, told);
        continuity.take_look(Millis(0), StreamLook::Whole(facts(3, 1)));
        assert_eq!(continuity.expected().reported, Reported { to_check: vec![], ..told });

        let witness = Witness::Gateways { lost: None };
        let lost = StreamLook::Lost { facts: facts(3, 1), before: Seq(7), witness };
        continuity.take_look(Millis(0), lost);
        let begin = ContinuityResult::Begin { known: EpochId(4), before: Seq(7) };
        assert_eq!(continuity.take_look(Millis(5_000), lost), begin, "after the epoch that was reported");
        continuity.note_epoch(EpochId(4));
        let told = Reported { epoch_id: EpochId(4), reached: Seq(5), to_check: vec![mark(5)] };
        assert_eq!(continuity.expected().reported, told);
    }
}
