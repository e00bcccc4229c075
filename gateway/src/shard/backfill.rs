//! Backfills of sessions: where one begins, what it asks for, and its end. The cohort that it joins delivers its
//! events.

use std::sync::Arc;
use std::time::Duration;

use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, Millis, Partition, Seq};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::since::Since;
use tickwire_core::protocol::{CaughtUp, Gap, Id, ServerFrame};

use super::Shard;
use super::gaps::gap;
use crate::backfill::request::{Backfill, BackfillAction, BackfillTarget};
use crate::messages::{BackfillRanges, ToEdge};
use crate::metrics;
use crate::outbox::{Outbox, OutboxLimits};
use crate::shard::clocks::timestamp;
use crate::shard::session::BackfillBegin;
use crate::socket::Socket;

/// How long a backfill that waits for its user waits at least before it tries again, in milliseconds.
const PUT_OFF_MS: u64 = 100;

/// How often a session gets its position during a backfill, in milliseconds. If its connection breaks again, it resumes
/// from there.
pub(super) const BACKFILL_HEARTBEAT_MS: u64 = 1_000;

/// The limits of a backfill's outbox: no lanes and no budget for urgent events, since the events are old anyway.
pub(super) fn backfill_limits(limits: &OutboxLimits) -> OutboxLimits {
    OutboxLimits { critical: u32::MAX, lanes: false, ..*limits }
}

impl<S: Socket> Shard<S> {
    /// A session resumes after `from`, where an earlier one ended. Returns the gaps that no backfill can close. They
    /// must be sent after the answer.
    pub(super) fn go_on(&mut self, now: Millis, number: u64, id: Option<Id>, from: &Position) -> Vec<Gap> {
        // The events that wait belong to ended subscriptions. The client has everything up to `from`, and gets what
        // comes after it.
        self.flush(now, number);
        let (backfill, gaps) = self.begin_at(now, id, BackfillTarget::Session, from, &self.applied);
        let applied = &self.applied;
        let Some(session) = self.sessions.get_mut(number) else { return Vec::new() };
        let is_ahead = gaps.is_empty() && from.seqs.iter().zip(&applied.seqs).any(|(from, applied)| from > applied);
        session.ahead = is_ahead.then(|| from.seqs.clone().into_boxed_slice());
        session.outbox = Outbox::new();
        session.backfill = Some(Box::new(backfill.up_to(session.last_subscription)));
        session.beat_at = session.beat_at.min(now.plus(BACKFILL_HEARTBEAT_MS));
        self.set_next_timer(now, number);
        self.owe_reminders_before_backfill(number);
        gaps
    }

    /// Where the backfill begins that a client asks for now. It is fixed now, since it may start much later.
    pub(super) fn backfill_begin(&self, since: Since) -> BackfillBegin {
        // The time of day is read once: with a later reading for `oldest` an `ago` equal to the history would be cut.
        let wall = (self.settings.clocks.wall)();
        let oldest = before(wall, self.settings.config.history);
        let from = |time: Timestamp| BackfillBegin::From { time: time.max(oldest), is_cut: time < oldest };
        match since {
            Since::Position(position) => BackfillBegin::At(position),
            Since::Ago(ago) => from(before(wall, ago)),
            Since::Time(time) => from(time),
        }
    }

    /// Begins the backfill of a subscription. Returns the gaps that it cannot close.
    pub(super) fn start_backfill(
        &mut self,
        now: Millis,
        (number, subscription): (u64, u32),
        id: Option<Id>,
        begin: &BackfillBegin,
    ) -> Vec<Gap> {
        let (of, to) = (BackfillTarget::Subscription(subscription), self.backfill_end(number));
        let (backfill, gaps) = match begin {
            BackfillBegin::At(position) => self.begin_at(now, id, of, position, &to),
            BackfillBegin::From { time, is_cut } => {
                self.ask(ToEdge::Find(self.id(number), *time));
                let backfill = Backfill::new(now, id, of, to.seqs.clone(), &to).finding(*time, *is_cut);
                (backfill, Vec::new())
            }
        };
        if let Some(session) = self.sessions.get_mut(number) {
            session.backfill = Some(Box::new(backfill));
        }
        // A position that is searched for is not known yet.
        if matches!(begin, BackfillBegin::At(_)) {
            self.owe_reminders_before_backfill(number);
        }
        gaps
    }

    /// The position up to which a session gets nothing as new events: the position of the gateway, or of the session if
    /// it was further when it resumed.
    pub(super) fn backfill_end(&self, number: u64) -> Position {
        let mut end = self.applied.clone();
        if let Some(session) = self.sessions.get(number) {
            session.raise(&mut end);
        }
        end
    }

    /// The backfill from a position up to `to`. If the position is of an earlier epoch, the backfill has what the
    /// stream keeps of it and all of this epoch. What the earlier epoch had beyond that is unknown: returned as gaps.
    fn begin_at(
        &self,
        now: Millis,
        id: Option<Id>,
        of: BackfillTarget,
        from: &Position,
        to: &Position,
    ) -> (Backfill, Vec<Gap>) {
        if from.epoch_id == to.epoch_id && from.seqs.len() == to.seqs.len() {
            return (Backfill::new(now, id, of, from.seqs.clone(), to), Vec::new());
        }
        let epoch = Epoch { epoch_id: to.epoch_id, before: self.before };
        let kept = epoch.common_through(from.epoch_id).filter(|_| from.seqs.len() == to.seqs.len());
        let begins = to.seqs.iter().enumerate().map(|(at, seq)| {
            let begin = kept.map_or(self.before, |kept| kept.min(from.seqs[at]));
            begin.min(*seq)
        });
        let mut backfill = Backfill::new(now, id, of, begins.collect(), to);
        backfill.complete = false;
        let reset = |(p, seq): (u16, &Seq)| {
            let unknown = kept.unwrap_or_default().max(*seq);
            gap("reset", Partition(p), unknown, unknown)
        };
        (backfill, (0..).zip(&from.seqs).map(reset).collect())
    }

    /// The time that a session asked for is after `found`; `None` if NATS did not answer for too long.
    pub(super) fn found(&mut self, now: Millis, number: u64, time: Timestamp, found: Option<Seq>) {
        let Some(backfill) = self.sessions.backfill_mut(number) else { return };
        let Some((begins, is_cut)) = backfill.found(time, found.unwrap_or(Seq(u64::MAX))) else { return };
        let reason = match found {
            None => Some("lost"),
            Some(_) if is_cut => Some("too_long"),
            Some(_) => None,
        };
        // A partition without earlier events has no gap.
        let missing = (0..).zip(begins).filter(|(_, to)| **to > Seq(0));
        let to_gaps = |reason| missing.map(|(p, to)| gap(reason, Partition(p), Seq(0), *to)).collect();
        let gaps: Vec<Gap> = reason.map(to_gaps).unwrap_or_default();
        backfill.complete = gaps.is_empty();
        self.owe_reminders_before_backfill(number);
        self.notify_gaps(now, number, gaps);
        self.continue_backfill(now, number);
    }

    /// Continues the backfill of a session: asks for what it still lacks or, if it is complete, ends it.
    pub(super) fn continue_backfill(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let Some(backfill) = &mut session.backfill else { return };
        match backfill.next(&self.limits) {
            BackfillAction::Wait => {}
            BackfillAction::Read(cohort) => {
                if let Some(cohort) = self.cohorts.get_mut(&cohort) {
                    cohort.reads_again(number);
                }
            }
            BackfillAction::Ask if backfill.is_waiting_for_slot => {}
            BackfillAction::Ask => {
                let account = &mut self.accounts[session.account];
                account.backfill_budget.spend(now, self.backfill_rate.units(backfill.unpaid()));
                let free_at = account.backfill_budget.free_at(&self.backfill_rate);
                let key = backfill.class();
                let slot = account.backfill_slots.join(key);
                let slot = slot.or_else(|| if free_at <= now { account.backfill_slots.take(key) } else { None });
                let Some(slot) = slot else {
                    metrics::DELAYED_BACKFILLS.increment(1);
                    backfill.is_waiting_for_slot = true;
                    let again = self.backfill_retries.round(free_at.max(now.plus(PUT_OFF_MS)));
                    return self.backfill_retries.set(again, number);
                };
                account.backfill_budget.spend(now, self.backfill_rate.units(backfill.take_slot(slot)));
                backfill.asked();
                let (epoch_id, from, to) = backfill.ranges();
                let of = backfill.of();
                let wants = |held: &&crate::shard::session::ActiveSubscription| {
                    of == BackfillTarget::Session || of == BackfillTarget::Subscription(held.number)
                };
                let held = session.subscriptions.iter().filter(wants);
                let filters = held.map(|held| Arc::clone(&held.subscription.filter)).collect();
                let ranges = BackfillRanges { epoch_id, from, to, user: session.user.clone(), filters };
                self.ask(ToEdge::Backfill(self.id(number), Box::new(ranges)));
            }
            BackfillAction::Done => {
                let Some(mut backfill) = session.backfill.take() else { return };
                let account = &mut self.accounts[session.account];
                account.backfill_budget.spend(now, self.backfill_rate.units(backfill.unpaid()));
                let Backfill { id, complete, since, .. } = *backfill;
                self.log_caught_up(now, number, since, complete);
                metrics::BACKFILLS.with(complete.to_string()).increment(1);
                metrics::BACKFILL_SECONDS.record(now.since(since) as f64 / 1000.0);
                let position = self.position(number);
                self.reply(now, number, &ServerFrame::CaughtUp(CaughtUp { id, resumed: complete, position }));
                self.flush(now, number);
                self.ask_for_reminders(now, number);
            }
        }
    }

    /// Backfills that waited for their users try again.
    pub(super) fn retry_backfills(&mut self, now: Millis) {
        while let Some((_, numbers)) = self.backfill_retries.pop_due(now) {
            for number in numbers {
                if let Some(backfill) = self.sessions.backfill_mut(number) {
                    backfill.is_waiting_for_slot = false;
                    self.continue_backfill(now, number);
                }
            }
        }
    }

    /// Extends the backfills of sessions that dropped new events, so that they include these events.
    pub(super) fn renew(&mut self, now: Millis) {
        for number in std::mem::take(&mut self.behind) {
            if let Some(backfill) = self.sessions.backfill_mut(number) {
                backfill.renew(&self.applied);
                self.continue_backfill(now, number);
            }
        }
    }
}

/// The time that is `ago` before `wall`.
fn before(wall: Duration, ago: Duration) -> Timestamp {
    timestamp(wall.saturating_sub(ago))
}
