//! The backfill of one session: what it lacks, what it has received, and what waits to be sent. Pure.
//!
//! Backfill events are sent first, from an outbox of their own, while new events wait in the session's outbox. Both
//! have a bound. Events beyond it are dropped here and requested again later, so that nothing is lost, and no session
//! waits for one that reads slowly.

use std::sync::Arc;

use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, EpochId, Millis, Partition, Seq};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Id};

use crate::delivery::Delivery;
use crate::limits::backfill_slots::{BackfillSlot, CohortKey};
use crate::outbox::{Outbox, OutboxLimits, Target};

/// How often dropped new events become part of the backfill. After that they are dropped with a notice, as for any
/// session that reads too slowly.
const RENEWALS: u32 = 16;

/// What the backfill is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackfillTarget {
    /// All subscriptions of a session that resumes. The session's position moves with the backfill.
    Session,
    /// Only this subscription. The session gets new events as well, and its position does not depend on the backfill.
    Subscription(u32),
}

/// The progress of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackfillStage {
    /// The position of this time, where the backfill begins, is being searched for. `is_cut`: the client asked for
    /// older events too.
    Finding { time: Timestamp, is_cut: bool },
    /// Nothing is requested.
    Idle,
    /// The ranges are requested from the edge.
    Asked,
    /// The session is in this cohort.
    InCohort(u64),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackfillAction {
    /// Wait for the cohort, or for the client to read.
    Wait,
    /// Take more of this cohort: the outbox has room.
    Read(u64),
    /// Ask for what is still lacking.
    Ask,
    /// The backfill is complete.
    Done,
}

/// The backfill of one session.
#[derive(Debug)]
pub(crate) struct Backfill {
    /// The id of the client's frame that asked for it.
    pub(crate) id: Option<Id>,
    /// Whether nothing was lost so far.
    pub(crate) complete: bool,
    pub(crate) since: Millis,
    /// The events received for the backfill that wait to be sent.
    pub(crate) outbox: Outbox,
    target: BackfillTarget,
    /// The newest subscription that it includes.
    newest_subscription: u32,
    stage: BackfillStage,
    epoch_id: EpochId,
    /// Per partition, the sequence up to which it has received everything.
    reached: Vec<Seq>,
    /// Per partition, the sequence at which it ends. Later events are new.
    to: Vec<Seq>,
    /// Per partition, `to` at the time of the request. If `to` moves later, the cohort may already be beyond it.
    asked_to: Vec<Seq>,
    /// Whether it drops everything more from this cohort.
    is_full: bool,
    /// Whether new events were dropped, so that `to` must move beyond them.
    is_behind: bool,
    renewals: u32,
    /// Its slot among those of the user, while it is requested.
    slot: Option<BackfillSlot>,
    /// By how many sequences it has advanced since it has the slot, all partitions together.
    advanced: u64,
    /// Events that it has received and that are not paid for.
    unpaid_events: u64,
    /// What else is not paid for, in sequences.
    unpaid_sequences: u64,
    /// Whether it waits for a slot of its user, or for the user's budget.
    pub(crate) is_waiting_for_slot: bool,
}

/// Up to this many sequences are paid for at the request: routers read them even if the session leaves before they
/// arrive.
const PAID_AHEAD: u64 = 65_536;

/// A large event counts as one more event for each of these bytes.
const LARGE: usize = 4096;

/// This many events that a session receives cost as much as one sequence that is read for it.
const EVENTS_PER_SEQUENCE: u64 = 8;

impl Backfill {
    /// The backfill of the range `(reached, to]` of each partition.
    pub(crate) fn new(now: Millis, id: Option<Id>, target: BackfillTarget, reached: Vec<Seq>, to: &Position) -> Self {
        Self {
            id,
            complete: true,
            since: now,
            outbox: Outbox::new(),
            target,
            newest_subscription: u32::MAX,
            stage: BackfillStage::Idle,
            epoch_id: to.epoch_id,
            reached,
            to: to.seqs.clone(),
            asked_to: to.seqs.clone(),
            is_full: false,
            is_behind: false,
            renewals: 0,
            slot: None,
            advanced: 0,
            unpaid_events: 0,
            unpaid_sequences: 0,
            is_waiting_for_slot: false,
        }
    }

    /// Excludes subscriptions newer than `newest`.
    pub(crate) fn up_to(mut self, newest: u32) -> Self {
        self.newest_subscription = newest;
        self
    }

    /// It begins at this time, whose position must be searched for. `is_cut`: the client asked for older events too.
    pub(crate) fn finding(mut self, time: Timestamp, is_cut: bool) -> Self {
        self.stage = BackfillStage::Finding { time, is_cut };
        self
    }

    /// Everything up to `seq` is older than this time. If this backfill waits for that, returns where it begins, per
    /// partition, and whether the client asked for older events too.
    pub(crate) fn found(&mut self, time: Timestamp, seq: Seq) -> Option<(&[Seq], bool)> {
        let BackfillStage::Finding { time: awaited, is_cut } = self.stage else { return None };
        if time != awaited {
            return None;
        }
        self.stage = BackfillStage::Idle;
        self.reached = self.to.iter().map(|to| seq.min(*to)).collect();
        Some((&self.reached, is_cut))
    }

    /// What the backfill is for.
    pub(crate) fn of(&self) -> BackfillTarget {
        self.target
    }

    /// What it lacks: the epoch, and per partition the range `(from, to]`.
    pub(crate) fn ranges(&self) -> (EpochId, Vec<Seq>, Vec<Seq>) {
        let from = self.reached.iter().zip(&self.to).map(|(reached, to)| *reached.min(to)).collect();
        (self.epoch_id, from, self.to.clone())
    }

    /// How many sequences of the stream are read for what it lacks.
    fn length(&self) -> u64 {
        let lacking = self.reached.iter().zip(&self.to).map(|(reached, to)| to.0.saturating_sub(reached.0));
        lacking.max().unwrap_or(0)
    }

    /// The key of its cohort.
    pub(crate) fn class(&self) -> CohortKey {
        let (_, from, to) = self.ranges();
        CohortKey::of(&from, &to)
    }

    /// Takes this slot for a request. Returns what must be paid at once, in sequences.
    pub(crate) fn take_slot(&mut self, place: BackfillSlot) -> u64 {
        let due = place.pay(self.length().min(PAID_AHEAD));
        (self.slot, self.advanced) = (Some(place), 0);
        due
    }

    /// What was read and received for it and is not paid for yet, in sequences. It counts as paid then.
    pub(crate) fn unpaid(&mut self) -> u64 {
        self.settle();
        let events = self.unpaid_events / EVENTS_PER_SEQUENCE;
        self.unpaid_events %= EVENTS_PER_SEQUENCE;
        std::mem::take(&mut self.unpaid_sequences) + events
    }

    /// Adds what its slot must pay for the sequences that were read.
    fn settle(&mut self) {
        let read = self.advanced / (self.reached.len().max(1) as u64);
        self.unpaid_sequences += self.slot.as_ref().map_or(0, |slot| slot.pay(read));
    }

    /// It was requested from the edge.
    pub(crate) fn asked(&mut self) {
        (self.stage, self.is_full) = (BackfillStage::Asked, false);
        self.asked_to.clone_from(&self.to);
    }

    /// The session is in this cohort now.
    pub(crate) fn joined_cohort(&mut self, cohort: u64) {
        if self.stage == BackfillStage::Asked {
            self.stage = BackfillStage::InCohort(cohort);
            if let Some(slot) = &mut self.slot {
                slot.joined_cohort(cohort);
            }
        }
    }

    /// The cohort that the session is in.
    pub(crate) fn cohort(&self) -> Option<u64> {
        match self.stage {
            BackfillStage::InCohort(cohort) => Some(cohort),
            BackfillStage::Finding { .. } | BackfillStage::Idle | BackfillStage::Asked => None,
        }
    }

    /// This cohort has ended.
    pub(crate) fn ended(&mut self, cohort: u64) {
        if self.stage == BackfillStage::InCohort(cohort) {
            self.settle();
            (self.stage, self.slot) = (BackfillStage::Idle, None);
        }
    }

    /// Takes an event of a cohort that matches this subscription of the session. Returns whether it was lacking.
    pub(crate) fn take(
        &mut self,
        now: Millis,
        (cohort, target): (u64, Target),
        delivery: &Arc<Delivery>,
        encoding: Encoding,
        limits: &OutboxLimits,
    ) -> bool {
        let (at, seq) = (usize::from(delivery.partition.0), delivery.seq);
        let is_mine = self.stage == BackfillStage::InCohort(cohort) && !self.is_full;
        let is_wanted = match self.target {
            BackfillTarget::Session => target.subscription <= self.newest_subscription,
            BackfillTarget::Subscription(mine) => target.subscription == mine,
        };
        let is_lacking = self.reached[at] < seq && seq <= self.asked_to[at];
        if !(is_mine && is_wanted && is_lacking) {
            return false;
        }
        self.outbox.push(now, delivery, target, encoding, limits);
        self.unpaid_events += 1 + (delivery.bytes() / LARGE) as u64;
        true
    }

    /// Takes nothing more from its cohort, so that others need not wait for it. The rest is requested again later.
    pub(crate) fn pause(&mut self) {
        self.is_full = true;
    }

    /// The cohort has received everything up to `through`.
    pub(crate) fn reach(&mut self, cohort: u64, partition: Partition, through: Seq) {
        let at = usize::from(partition.0);
        if self.stage == BackfillStage::InCohort(cohort) && !self.is_full {
            let reached = self.reached[at].max(through.min(self.asked_to[at]));
            self.advanced += reached.0 - self.reached[at].0;
            self.reached[at] = reached;
        }
    }

    /// No router can give `(from, through]`. Returns the part of it that this backfill lacks.
    pub(crate) fn miss(&mut self, cohort: u64, partition: Partition, from: Seq, through: Seq) -> Option<(Seq, Seq)> {
        let at = usize::from(partition.0);
        let (from, through) = (from.max(self.reached[at]), through.min(self.asked_to[at]));
        if self.stage != BackfillStage::InCohort(cohort) || self.is_full || from >= through {
            return None;
        }
        (self.complete, self.reached[at]) = (false, through);
        Some((from, through))
    }

    /// The client may have been given this position. In partitions where the backfill lacks nothing, that position
    /// stays valid when new events become part of the backfill.
    pub(crate) fn come_to(&mut self, position: &Position) {
        for ((reached, to), at) in self.reached.iter_mut().zip(&self.to).zip(&position.seqs) {
            if *reached >= *to {
                *reached = (*at).max(*reached);
            }
        }
    }

    /// Too many new events wait. Returns whether to drop them, and further ones until [`Self::renew`]: then they become
    /// part of the backfill.
    pub(crate) fn fall_behind(&mut self) -> bool {
        if self.is_behind {
            return true;
        }
        if self.target != BackfillTarget::Session || self.renewals == RENEWALS {
            return false;
        }
        self.renewals += 1;
        self.is_behind = true;
        true
    }

    /// Whether new events are dropped now.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Extends the backfill up to `applied` if new events were dropped.
    pub(crate) fn renew(&mut self, applied: &Position) {
        if std::mem::take(&mut self.is_behind) {
            self.to.clone_from(&applied.seqs);
        }
    }

    /// A new epoch begins; the former one was received up to `ends`. What the stream keeps of the former epoch is still
    /// lacking, and the rest of it is lost. Nothing of the new epoch is lacking, because all of it arrives as new
    /// events. Returns the lost ranges.
    pub(crate) fn reset(&mut self, epoch: Epoch, ends: &[Seq]) -> Vec<(Partition, Seq, Seq)> {
        let is_unknown = matches!(self.stage, BackfillStage::Finding { .. });
        // Events that wait in the outbox are lacking again.
        let reached = Position { epoch_id: self.epoch_id, seqs: std::mem::take(&mut self.reached) };
        self.reached = self.outbox.hold_back(&reached).seqs;
        self.outbox.clear_events();
        let kept = epoch.common_through(self.epoch_id).filter(|_| !is_unknown);
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

    /// What to do next, after a change.
    pub(crate) fn next(&self, limits: &OutboxLimits) -> BackfillAction {
        let lacks = self.reached.iter().zip(&self.to).any(|(reached, to)| reached < to);
        let has_room = self.outbox.bytes() <= limits.bytes / 2;
        match self.stage {
            BackfillStage::InCohort(cohort) if has_room => BackfillAction::Read(cohort),
            BackfillStage::Idle if lacks && has_room => BackfillAction::Ask,
            BackfillStage::Idle if !lacks && !self.is_behind && !self.outbox.has_output() => BackfillAction::Done,
            BackfillStage::Finding { .. } | BackfillStage::Idle | BackfillStage::Asked | BackfillStage::InCohort(_) => {
                BackfillAction::Wait
            }
        }
    }

    /// Limits a position to what the client has received, if the position moves with this backfill.
    pub(crate) fn hold_back(&self, position: &mut Position) {
        if self.target != BackfillTarget::Session {
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
