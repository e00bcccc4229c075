//! Whether the stream is still the one that was read. Pure: the known facts, and when a loss counts as sure.
//!
//! A message is identified by its sequence and the time at which the server stored it. Routers keep these of the last
//! message that they have read, and store them with the checkpoint. So a stream that has lost its end is detected even
//! after new messages have filled it up again, and after every router was restarted. What gateways report is believed
//! later: who can send reports in the name of a gateway could otherwise begin an epoch at will.

use crate::checkpoint::{Checkpoint, Mark};
use crate::stream::{Expected, Reported, StreamFacts, StreamLook};
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
    /// The coverage of each gateway, as it was last reported, of any epoch.
    reports: BTreeMap<NodeRef, Checkpoint>,
    /// Messages that gateways report, of this epoch, and that no check has found yet.
    reported: BTreeSet<(Mark, NodeRef)>,
    /// The part of `reported` that is being checked.
    reported_to_check: BTreeSet<(Mark, NodeRef)>,
    /// How long a loss must show that only gateways report, in milliseconds.
    report_grace: u64,
    /// Since when a message seems to be lost.
    suspected_since: Option<Millis>,
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
            let reports = std::mem::take(&mut self.reports);
            *self = Self::new(epoch_id, self.report_grace);
            self.set_reports(reports);
        }
        is_later
    }

    /// Takes the coverage of each gateway whose reports are believed. What others have reported does not count any more.
    pub(super) fn set_reports(&mut self, reports: BTreeMap<NodeRef, Checkpoint>) {
        for marks in [&mut self.reported, &mut self.reported_to_check] {
            marks.retain(|(_, gateway)| reports.contains_key(gateway));
        }
        // What another one reports has to show for as long again.
        if self.reports.keys().any(|gateway| !reports.contains_key(gateway)) {
            self.suspected_since = None;
        }
        let is_new = |(gateway, report): &(&NodeRef, &Checkpoint)| self.reports.get(*gateway) != Some(*report);
        for (gateway, report) in reports.iter().filter(is_new).filter(|(_, report)| report.epoch_id == self.epoch_id) {
            let mark = report.mark.filter(|mark| !self.confirmed.contains(mark));
            self.reported.extend(mark.map(|mark| (mark, gateway.clone())));
        }
        while self.reported.len() > MAX_UNCHECKED {
            self.reported.pop_last();
        }
        self.reports = reports;
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
        self.reported_to_check.append(&mut self.reported);
        let current = self.reports.values().filter(|report| report.epoch_id == self.epoch_id);
        let mut reported_marks: Vec<Mark> = self.reported_to_check.iter().rev().map(|(mark, _)| *mark).collect();
        reported_marks.dedup();
        let reported = Reported {
            epoch_id: self.reported_epoch(),
            reached: current.map(|report| report.checkpoint).max().unwrap_or_default(),
            to_check: reported_marks,
        };
        Expected {
            epoch_id: self.epoch_id,
            reached: self.reached,
            to_check,
            known: self.confirmed.iter().rev().copied().collect(),
            reported,
        }
    }

    /// The latest epoch that a gateway reports.
    fn reported_epoch(&self) -> EpochId {
        self.reports.values().map(|report| report.epoch_id).max().unwrap_or_default()
    }

    /// The stream could not be read.
    pub(super) fn fail(&mut self) {
        self.unchecked.append(&mut self.to_check);
        self.reported.append(&mut self.reported_to_check);
    }

    /// Takes the result of a check.
    pub(super) fn take_look(&mut self, now: Millis, look: StreamLook) -> ContinuityResult {
        match look {
            StreamLook::Whole(facts) => {
                self.suspected_since = None;
                self.confirmed.append(&mut self.to_check);
                self.confirmed.extend(std::mem::take(&mut self.reported_to_check).into_iter().map(|(mark, _)| mark));
                while self.confirmed.len() > MAX_CONFIRMED {
                    self.confirmed.pop_first();
                }
                self.note_epoch(facts.epoch_id);
                ContinuityResult::Epoch(facts)
            }
            StreamLook::Lost { facts, before, is_only_reported } => {
                self.fail();
                // A later epoch was noted during the check: the router that began it has seen the same loss.
                if self.checked_epoch != self.epoch_id {
                    return ContinuityResult::Recheck;
                }
                let since = *self.suspected_since.get_or_insert(now);
                let catching_up = if facts.replicas > 1 { LOSS_GRACE_MS } else { 0 };
                let reported = if is_only_reported { self.report_grace } else { 0 };
                if now.since(since) < catching_up.max(reported) {
                    return ContinuityResult::Recheck;
                }
                ContinuityResult::Begin { known: self.epoch_id.max(self.reported_epoch()), before }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let lost = StreamLook::Lost { facts: facts(3, 1), before: Seq(7), is_only_reported: false };
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
                StreamLook::Lost { facts: facts(4, 1), before: Seq(7), is_only_reported: false }
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
            let lost = StreamLook::Lost { facts: facts(3, replicas), before: Seq(7), is_only_reported: false };
            assert_eq!(continuity.take_look(Millis(10), lost), at_once);
            assert_eq!(continuity.take_look(Millis(10 + LOSS_GRACE_MS), lost), begin);
        }
        let mut continuity = Continuity::default();
        continuity.note(checkpoint(3, 90));
        continuity.expected();
        let lost = StreamLook::Lost { facts: facts(3, 3), before: Seq(7), is_only_reported: false };
        assert_eq!(continuity.take_look(Millis(10), lost), ContinuityResult::Recheck);
        assert_eq!(
            continuity.take_look(Millis(20), StreamLook::Whole(facts(3, 3))),
            ContinuityResult::Epoch(facts(3, 3))
        );
        assert_eq!(continuity.take_look(Millis(10 + LOSS_GRACE_MS), lost), ContinuityResult::Recheck);
    }

    #[test]
    fn loss_that_only_gateways_report_is_sure_when_none_of_them_takes_it_back() {
        let lost = StreamLook::Lost { facts: facts(3, 1), before: Seq(7), is_only_reported: true };
        let begin = ContinuityResult::Begin { known: EpochId(3), before: Seq(7) };
        let mut continuity = Continuity::new(EpochId(3), 5_000);
        continuity.set_reports(reports([(1, checkpoint(3, 90)), (2, checkpoint(3, 8))]));
        let reported = continuity.expected().reported;
        assert_eq!((reported.reached, reported.to_check), (Seq(90), vec![mark(90), mark(8)]));
        assert_eq!(continuity.take_look(Millis(10), lost), ContinuityResult::Recheck);

        continuity.set_reports(reports([(2, checkpoint(3, 90))]));
        assert_eq!(continuity.take_look(Millis(5_010), lost), ContinuityResult::Recheck, "that of another one is new");
        continuity.set_reports(reports([(2, checkpoint(3, 95))]));
        assert_eq!(continuity.expected().reported.to_check, [mark(95), mark(90), mark(8)], "until they are found");
        assert_eq!(continuity.take_look(Millis(10_009), lost), ContinuityResult::Recheck);
        assert_eq!(continuity.take_look(Millis(10_010), lost), begin);

        continuity.set_reports(reports([]));
        assert_eq!(continuity.expected().reported, Reported::default());
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

        let lost = StreamLook::Lost { facts: facts(3, 1), before: Seq(7), is_only_reported: true };
        continuity.take_look(Millis(0), lost);
        let begin = ContinuityResult::Begin { known: EpochId(4), before: Seq(7) };
        assert_eq!(continuity.take_look(Millis(5_000), lost), begin, "after the epoch that was reported");
        continuity.note_epoch(EpochId(4));
        let told = Reported { epoch_id: EpochId(4), reached: Seq(5), to_check: vec![mark(5)] };
        assert_eq!(continuity.expected().reported, told);
    }
}
