//! A session that catches up: what it lacks of the past, what of it has come, and what waits meanwhile. Pure.
//!
//! The past comes first, in an outbox of its own, while new events wait in the session's. Either has a bound: what
//! exceeds it is let go here and asked for again, so that nothing is lost and nobody waits for one who reads slowly.

use std::sync::Arc;

use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, EpochId, Millis, Partition, Seq};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Id};

use crate::backfill::ranges::CohortKey;
use crate::delivery::Delivery;
use crate::outbox::{Outbox, OutboxLimits};

pub(crate) use crate::backfill::slots::{BackfillSlot, BackfillSlots};

/// How often new events that were too many are asked for again. After that they are let go and told, as those of any
/// session that does not keep up.
const RENEWALS: u32 = 16;

/// Whose past it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackfillTarget {
    /// Of all subscriptions: the session goes on where another one ended, and its position moves with what it gets.
    Session,
    /// Of this subscription alone, beside what the session gets anyway.
    Subscription(u32),
}

/// How far the asking is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackfillStage {
    /// Where the past begins is not known yet: where this time stands in the stream. What is older than that was wanted as
    /// well if it `is_cut`.
    Finding { time: Timestamp, is_cut: bool },
    /// Nothing is under way.
    Idle,
    /// It was asked for.
    Asked,
    /// It comes with this gathering.
    Gathered(u64),
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackfillAction {
    /// Wait: for what was asked for, or for the client to read.
    Wait,
    /// There is room for more of this gathering.
    Read(u64),
    /// Ask for what is still lacking.
    Ask,
    /// The session has caught up.
    Done,
}

/// The state of it.
#[derive(Debug)]
pub(crate) struct Backfill {
    /// The id of the frame that asked.
    pub(crate) id: Option<Id>,
    /// Whether nothing of the past is missing so far.
    pub(crate) complete: bool,
    pub(crate) since: Millis,
    /// What of the past has come and is on its way to the client.
    pub(crate) outbox: Outbox,
    of: BackfillTarget,
    /// The newest subscription that it is for.
    newest: u32,
    stage: BackfillStage,
    epoch_id: EpochId,
    /// Per partition, up to where it has come.
    reached: Vec<Seq>,
    /// Per partition, where it ends and what is new begins.
    to: Vec<Seq>,
    /// Per partition, where it ended when it was asked for. What has become past since may have gone by in its gathering.
    asked_to: Vec<Seq>,
    /// What else comes of this gathering is let go.
    is_full: bool,
    /// New events were let go: the past is to reach beyond them.
    is_behind: bool,
    renewals: u32,
    /// Its place among those of its user that are asked for, while it is.
    place: Option<BackfillSlot>,
    /// Sequences that it has come on by since then, all partitions together.
    come_on: u64,
    /// Events that it was given and that are not paid for.
    given: u64,
    /// What is to be paid beside that, in sequences.
    owed: u64,
    /// Whether it waits for its user to have a place again, or to have read less of late.
    pub(crate) is_put_off: bool,
}

/// So much of the past is paid for when it is asked for, in sequences of the stream: whoever leaves before it comes has
/// had it read all the same.
const PAID_AHEAD: u64 = 65_536;

/// Of a large event so many bytes count as an event more.
const LARGE: usize = 4096;

/// So many events that a session is given of the past cost as much as one sequence that is read for it.
const GIVEN_PER_SEQUENCE: u64 = 8;

impl Backfill {
    /// A session that was given everything up to `reached`, and is to get what comes from there up to `to`.
    pub(crate) fn new(now: Millis, id: Option<Id>, of: BackfillTarget, reached: Vec<Seq>, to: &Position) -> Self {
        Self {
            id,
            complete: true,
            since: now,
            outbox: Outbox::new(),
            of,
            newest: u32::MAX,
            stage: BackfillStage::Idle,
            epoch_id: to.epoch_id,
            reached,
            to: to.seqs.clone(),
            asked_to: to.seqs.clone(),
            is_full: false,
            is_behind: false,
            renewals: 0,
            place: None,
            come_on: 0,
            given: 0,
            owed: 0,
            is_put_off: false,
        }
    }

    /// Subscriptions that come later have no part in it.
    pub(crate) fn up_to(mut self, newest: u32) -> Self {
        self.newest = newest;
        self
    }

    /// Where it begins is not known yet: where this time stands. What is older was wanted as well if it `is_cut`.
    pub(crate) fn finding(mut self, time: Timestamp, is_cut: bool) -> Self {
        self.stage = BackfillStage::Finding { time, is_cut };
        self
    }

    /// Everything up to `seq` is older than this time. If that was waited for, returns where the past begins, per partition,
    /// and whether what is older was wanted as well.
    pub(crate) fn found(&mut self, time: Timestamp, seq: Seq) -> Option<(&[Seq], bool)> {
        let BackfillStage::Finding { time: awaited, is_cut } = self.stage else { return None };
        if time != awaited {
            return None;
        }
        self.stage = BackfillStage::Idle;
        self.reached = self.to.iter().map(|to| seq.min(*to)).collect();
        Some((&self.reached, is_cut))
    }

    /// Whose past it is.
    pub(crate) fn of(&self) -> BackfillTarget {
        self.of
    }

    /// What is lacking, per partition: the life of the stream, after which sequence, and up to which.
    pub(crate) fn ranges(&self) -> (EpochId, Vec<Seq>, Vec<Seq>) {
        let from = self.reached.iter().zip(&self.to).map(|(reached, to)| *reached.min(to)).collect();
        (self.epoch_id, from, self.to.clone())
    }

    /// How much of the stream is read for what is lacking, in sequences.
    fn length(&self) -> u64 {
        let lacking = self.reached.iter().zip(&self.to).map(|(reached, to)| to.0.saturating_sub(reached.0));
        lacking.max().unwrap_or(0)
    }

    /// With whom it would be asked for.
    pub(crate) fn class(&self) -> CohortKey {
        let (_, from, to) = self.ranges();
        CohortKey::of(&from, &to)
    }

    /// It is asked for at this place. Returns what is to be paid for at once, in sequences.
    pub(crate) fn take_place(&mut self, place: BackfillSlot) -> u64 {
        let due = place.pay(self.length().min(PAID_AHEAD));
        (self.place, self.come_on) = (Some(place), 0);
        due
    }

    /// What was read and given for it and is not paid for, in sequences.
    pub(crate) fn unpaid(&mut self) -> u64 {
        self.settle();
        let given = self.given / GIVEN_PER_SEQUENCE;
        self.given %= GIVEN_PER_SEQUENCE;
        std::mem::take(&mut self.owed) + given
    }

    /// Takes over from its place what is to be paid for what was read.
    fn settle(&mut self) {
        let read = self.come_on / (self.reached.len().max(1) as u64);
        self.owed += self.place.as_ref().map_or(0, |place| place.pay(read));
    }

    /// It was asked for.
    pub(crate) fn asked(&mut self) {
        (self.stage, self.is_full) = (BackfillStage::Asked, false);
        self.asked_to.clone_from(&self.to);
    }

    /// It comes with this gathering.
    pub(crate) fn gathered(&mut self, cohort: u64) {
        if self.stage == BackfillStage::Asked {
            self.stage = BackfillStage::Gathered(cohort);
            if let Some(place) = &mut self.place {
                place.gathered(cohort);
            }
        }
    }

    /// The gathering with which it comes.
    pub(crate) fn cohort(&self) -> Option<u64> {
        match self.stage {
            BackfillStage::Gathered(cohort) => Some(cohort),
            BackfillStage::Finding { .. } | BackfillStage::Idle | BackfillStage::Asked => None,
        }
    }

    /// No more of this gathering comes.
    pub(crate) fn ended(&mut self, cohort: u64) {
        if self.stage == BackfillStage::Gathered(cohort) {
            self.settle();
            (self.stage, self.place) = (BackfillStage::Idle, None);
        }
    }

    /// Takes an event of a gathering that this subscription of the session wants. Returns whether it was lacking.
    pub(crate) fn take(
        &mut self,
        now: Millis,
        (cohort, subscription): (u64, u32),
        delivery: &Arc<Delivery>,
        encoding: Encoding,
        limits: &OutboxLimits,
    ) -> bool {
        let (at, seq) = (usize::from(delivery.partition.0), delivery.seq);
        let is_mine = self.stage == BackfillStage::Gathered(cohort) && !self.is_full;
        let is_wanted = match self.of {
            BackfillTarget::Session => subscription <= self.newest,
            BackfillTarget::Subscription(mine) => subscription == mine,
        };
        let is_lacking = self.reached[at] < seq && seq <= self.asked_to[at];
        if !(is_mine && is_wanted && is_lacking) {
            return false;
        }
        self.outbox.push(now, delivery, subscription, 0, encoding, limits);
        self.given += 1 + (delivery.bytes() / LARGE) as u64;
        true
    }

    /// Takes no more of its gathering, which others wait for; what it lacks then is asked for again.
    pub(crate) fn give_way(&mut self) {
        self.is_full = true;
    }

    /// Everything of a gathering up to `through` has come.
    pub(crate) fn reach(&mut self, cohort: u64, partition: Partition, through: Seq) {
        let at = usize::from(partition.0);
        if self.stage == BackfillStage::Gathered(cohort) && !self.is_full {
            let reached = self.reached[at].max(through.min(self.asked_to[at]));
            self.come_on += reached.0 - self.reached[at].0;
            self.reached[at] = reached;
        }
    }

    /// Nobody can give `(from, through]`. Returns the part of it that is lacking here.
    pub(crate) fn miss(&mut self, cohort: u64, partition: Partition, from: Seq, through: Seq) -> Option<(Seq, Seq)> {
        let at = usize::from(partition.0);
        let (from, through) = (from.max(self.reached[at]), through.min(self.asked_to[at]));
        if self.stage != BackfillStage::Gathered(cohort) || self.is_full || from >= through {
            return None;
        }
        (self.complete, self.reached[at]) = (false, through);
        Some((from, through))
    }

    /// More new events wait than may. Returns whether they are to be let go, and with them what comes until
    /// [`Self::renew`]: they will come as the past does.
    pub(crate) fn fall_behind(&mut self) -> bool {
        if self.is_behind {
            return true;
        }
        if self.of != BackfillTarget::Session || self.renewals == RENEWALS {
            return false;
        }
        self.renewals += 1;
        self.is_behind = true;
        true
    }

    /// Whether new events are let go at the moment.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// The past reaches up to `applied` from now on, if new events were let go.
    pub(crate) fn renew(&mut self, applied: &Position) {
        if std::mem::take(&mut self.is_behind) {
            self.to.clone_from(&applied.seqs);
        }
    }

    /// Another life of the stream begins, when the former was given up to `ends`. What it keeps of the former is lacking
    /// still; the rest of that cannot be had any more. Of the new one nothing is lacking, for all of it comes as new. Returns
    /// what is lost.
    pub(crate) fn reset(&mut self, epoch: Epoch, ends: &[Seq]) -> Vec<(Partition, Seq, Seq)> {
        let is_unknown = matches!(self.stage, BackfillStage::Finding { .. });
        // What has come and not left is lacking again.
        let reached = Position { epoch_id: self.epoch_id, seqs: std::mem::take(&mut self.reached) };
        self.reached = self.outbox.hold_back(&reached).seqs;
        self.outbox.forget_events();
        let kept = epoch.keeps_of(self.epoch_id).filter(|_| !is_unknown);
        let lost = (0..).map(Partition).zip(self.reached.iter().zip(&self.to).zip(ends)).filter_map(|(p, range)| {
            let ((reached, to), end) = range;
            let from = if is_unknown { Seq(0) } else { kept.unwrap_or_default().max(*reached) };
            let to = if self.is_behind { *end } else { *to };
            (from < to).then_some((p, from, to))
        });
        let lost = lost.collect();
        (self.stage, self.complete, self.is_behind) = (BackfillStage::Idle, false, false);
        self.epoch_id = epoch.epoch_id;
        for reached in &mut self.reached {
            *reached = kept.map_or(epoch.before, |kept| kept.min(*reached));
        }
        for seqs in [&mut self.to, &mut self.asked_to] {
            seqs.fill(epoch.before);
        }
        lost
    }

    /// What is to be done, now that something has changed.
    pub(crate) fn next(&self, limits: &OutboxLimits) -> BackfillAction {
        let lacks = self.reached.iter().zip(&self.to).any(|(reached, to)| reached < to);
        let has_room = self.outbox.bytes() <= limits.bytes / 2;
        match self.stage {
            BackfillStage::Gathered(cohort) if has_room => BackfillAction::Read(cohort),
            BackfillStage::Idle if lacks && has_room => BackfillAction::Ask,
            BackfillStage::Idle if !lacks && !self.is_behind && !self.outbox.wants_out() => BackfillAction::Done,
            BackfillStage::Finding { .. } | BackfillStage::Idle | BackfillStage::Asked | BackfillStage::Gathered(_) => {
                BackfillAction::Wait
            }
        }
    }

    /// Holds a position back to what has come of the past, if positions move with it.
    pub(crate) fn hold_back(&self, position: &mut Position) {
        if self.of != BackfillTarget::Session {
            return;
        }
        *position = self.outbox.hold_back(position);
        for ((seq, reached), to) in position.seqs.iter_mut().zip(&self.reached).zip(&self.to) {
            if reached < to {
                *seq = (*seq).min(*reached);
            }
        }
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
