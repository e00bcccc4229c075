//! Delivery of backfills: chunks arrive for all sessions of a cohort, and their events find the sessions by the index,
//! as new events do. They are processed a little at a time, so that new events do not wait for them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, Millis, Partition, Seq};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::since::Since;
use tickwire_core::protocol::{CaughtUp, Gap, Id, ServerFrame};
use tickwire_node::clock::millis;

use super::Shard;
use super::gaps::gap;
use crate::backfill::request::{Backfill, BackfillAction, BackfillTarget};
use crate::delivery::Delivery;
use crate::messages::BackfillRanges;
use crate::messages::{BackfillChunk, ToEdge};
use crate::metrics;
use crate::outbox::{Outbox, OutboxLimits};
use crate::shard::session::BackfillBegin;
use crate::socket::Socket;

/// How long a shard processes chunks before new events have their turn.
const PROCESS_TIME: Duration = Duration::from_millis(1);

/// How long the sessions of a cohort wait for those whose outboxes are full, in milliseconds.
const PATIENCE_MS: u64 = 500;

/// After this time a cohort is abandoned if the outboxes of all its sessions are full, in milliseconds. Other cohorts
/// wait for its place.
const ABANDON_MS: u64 = 5_000;

/// How long a backfill that waits for its user waits at least before it tries again, in milliseconds.
const PUT_OFF_MS: u64 = 100;

/// How often a session gets its position during a backfill, in milliseconds. If its connection breaks again, it resumes
/// from there.
pub(super) const CATCH_UP_BEAT_MS: u64 = 1_000;

/// How many events are processed between two checks of the clock.
const PROCESS_EVENTS: usize = 32;

/// The sessions of a cohort in this shard, and the chunks that they have not processed.
#[derive(Debug, Default)]
pub(super) struct Cohort {
    sessions: BTreeSet<u64>,
    items: VecDeque<CohortItem>,
    /// The sessions whose outboxes are full, and since when all others wait for them.
    backpressured: BTreeSet<u64>,
    backpressured_since: Millis,
}

/// What a cohort must process, in order.
#[derive(Debug)]
pub(super) enum CohortItem {
    /// A chunk, from this event of this step on.
    Piece { past: Arc<BackfillChunk>, step: usize, event: usize },
    /// The end of the cohort.
    End,
}

impl Cohort {
    fn wants_items(&self) -> bool {
        self.backpressured.is_empty() && !self.items.is_empty()
    }
}

/// The limits of a backfill's outbox: no lanes and no budget for critical events, since the events are old anyway.
pub(super) fn backfill_limits(limits: &OutboxLimits) -> OutboxLimits {
    OutboxLimits { critical: u32::MAX, lanes: false, ..*limits }
}

impl<S: Socket> Shard<S> {
    /// A session resumes after `from`, where an earlier one ended. Returns the gaps that no backfill can close. They
    /// must be sent after the answer.
    pub(super) fn go_on(&mut self, now: Millis, number: u64, id: Option<Id>, from: &Position) -> Vec<Gap> {
        // What waits belongs to ended subscriptions. The client has everything up to `from`, and gets the rest.
        self.flush(now, number);
        let (backfill, gaps) = self.begin_at(now, id, BackfillTarget::Session, from, &self.applied);
        let applied = &self.applied;
        let Some(session) = self.sessions.get_mut(number) else { return Vec::new() };
        let is_ahead = gaps.is_empty() && from.seqs.iter().zip(&applied.seqs).any(|(from, applied)| from > applied);
        session.ahead = is_ahead.then(|| from.seqs.clone().into_boxed_slice());
        session.outbox = Outbox::new();
        session.backfill = Some(Box::new(backfill.up_to(session.last_subscription)));
        session.beat_at = session.beat_at.min(now.plus(CATCH_UP_BEAT_MS));
        self.set_next_timer(now, number);
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
        let (of, to) = (BackfillTarget::Subscription(subscription), self.end_of_past(number));
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
        gaps
    }

    /// The position up to which a session gets nothing as new events: the position of the gateway, or of the session if
    /// it was further when it resumed.
    fn end_of_past(&self, number: u64) -> Position {
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
        self.notify_gaps(now, number, gaps);
        self.continue_backfill(now, number);
    }

    /// These sessions form a cohort.
    pub(super) fn joined_cohort(&mut self, cohort: u64, sessions: Vec<u64>) {
        for number in &sessions {
            if let Some(backfill) = self.sessions.backfill_mut(*number) {
                backfill.joined_cohort(cohort);
            }
        }
        if !sessions.is_empty() {
            let sessions = sessions.into_iter().collect();
            self.cohorts.insert(cohort, Cohort { sessions, ..Cohort::default() });
        }
    }

    /// Removes a session from the cohort of its backfill.
    pub(super) fn leave_cohort(&mut self, number: u64, backfill: &Backfill) {
        let Some(number_of_cohort) = backfill.cohort() else { return };
        let Some(cohort) = self.cohorts.get_mut(&number_of_cohort) else { return };
        cohort.sessions.remove(&number);
        cohort.backpressured.remove(&number);
        if cohort.sessions.is_empty()
            && let Some(cohort) = self.cohorts.remove(&number_of_cohort)
        {
            for item in cohort.items {
                self.discard(number_of_cohort, &item);
            }
        }
    }

    /// Takes a chunk for a cohort, or its end.
    pub(super) fn enqueue_item(&mut self, cohort: u64, item: CohortItem) {
        match self.cohorts.get_mut(&cohort) {
            Some(cohort) => cohort.items.push_back(item),
            None => self.discard(cohort, &item),
        }
    }

    /// Discards an item that no session here takes. To the edge it counts as processed.
    fn discard(&self, cohort: u64, item: &CohortItem) {
        if let CohortItem::Piece { past, .. } = item {
            self.ask(ToEdge::Digested(cohort, past.steps.weight()));
        }
    }

    /// Whether a cohort has something to process.
    pub(crate) fn has_backfill(&self) -> bool {
        self.cohorts.values().any(Cohort::wants_items)
    }

    /// Processes items for about as long as new events may wait: a few of each cohort in turn.
    pub(crate) fn process(&mut self, now: Millis) {
        let begun = (self.settings.clocks.monotonic)();
        let mut ready: VecDeque<u64> =
            self.cohorts.iter().filter(|(_, cohort)| cohort.wants_items()).map(|(number, _)| *number).collect();
        while self.spent(begun) < PROCESS_TIME
            && let Some(number) = ready.pop_front()
        {
            self.process_item(now, number);
            if self.cohorts.get(&number).is_some_and(Cohort::wants_items) {
                ready.push_back(number);
            }
        }
    }

    /// Processes one step of a cohort, or a part of it.
    fn process_item(&mut self, now: Millis, number: u64) {
        let Some(cohort) = self.cohorts.get_mut(&number) else { return };
        let (past, step, event) = match cohort.items.pop_front() {
            Some(CohortItem::Piece { past, step, event }) => (past, step, event),
            Some(CohortItem::End) => return self.end_cohort(now, number),
            None => return,
        };
        let mut next = (step + 1, 0);
        match past.steps.steps.get(step) {
            None => return self.ask(ToEdge::Digested(number, past.steps.weight())),
            Some(CoverageEvent::Apply { partition, through, events, .. }) => {
                let end = events.len().min(event + PROCESS_EVENTS);
                self.deliver_to_cohort(now, number, &events[event..end]);
                let mut reached = *through;
                if end < events.len() {
                    next = (step, end);
                    reached = events[end - 1].0;
                }
                self.each_in_cohort(number, |_, backfill| backfill.reach(number, *partition, reached));
            }
            Some(CoverageEvent::Gap { partition, from, through, reason }) => {
                let mut gaps = Vec::new();
                self.each_in_cohort(number, |session, backfill| {
                    gaps.extend(backfill.miss(number, *partition, *from, *through).map(|missing| (session, missing)));
                });
                for (session, (from, to)) in gaps {
                    self.flush(now, session);
                    self.notify_gaps(now, session, vec![gap(reason.as_str(), *partition, from, to)]);
                }
            }
            Some(CoverageEvent::Adopt { .. } | CoverageEvent::Reset { .. }) => {}
        }
        if let Some(cohort) = self.cohorts.get_mut(&number) {
            cohort.items.push_front(CohortItem::Piece { past, step: next.0, event: next.1 });
        }
    }

    /// Sessions that made others of their cohort wait for too long leave it.
    pub(super) fn release_slow_sessions(&mut self, now: Millis) {
        self.abandon_stalled(now);
        for cohort in self.cohorts.values_mut() {
            let waits = cohort.backpressured.len() < cohort.sessions.len() && !cohort.backpressured.is_empty();
            if waits && now.since(cohort.backpressured_since) >= PATIENCE_MS {
                for number in std::mem::take(&mut cohort.backpressured) {
                    if let Some(backfill) = self.sessions.backfill_mut(number) {
                        backfill.pause();
                    }
                }
            }
        }
    }

    /// Abandons cohorts of which no session reads. The sessions ask again when they read again.
    fn abandon_stalled(&mut self, now: Millis) {
        let is_stalled = |cohort: &Cohort| {
            let all_backpressured =
                !cohort.backpressured.is_empty() && cohort.backpressured.len() >= cohort.sessions.len();
            all_backpressured && now.since(cohort.backpressured_since) >= ABANDON_MS
        };
        let stalled = self.cohorts.extract_if(.., |_, cohort| is_stalled(cohort));
        for (number, cohort) in stalled.collect::<Vec<_>>() {
            metrics::ABANDONED_GATHERINGS.increment(1);
            cohort.items.iter().for_each(|item| self.discard(number, item));
            for session in cohort.sessions {
                let backfill = self.sessions.backfill_mut(session);
                if let Some(backfill) = backfill.filter(|backfill| backfill.cohort() == Some(number)) {
                    backfill.ended(number);
                    self.ask(ToEdge::LeavePast(self.id(session)));
                    self.continue_backfill(now, session);
                }
            }
        }
    }

    fn end_cohort(&mut self, now: Millis, number: u64) {
        let sessions = self.cohorts.remove(&number).map(|cohort| cohort.sessions);
        for session in sessions.into_iter().flatten() {
            if let Some(backfill) = self.sessions.backfill_mut(session) {
                backfill.ended(number);
                self.continue_backfill(now, session);
            }
        }
    }

    /// Calls `act` for each session of a cohort, and removes those that are gone.
    fn each_in_cohort(&mut self, cohort: u64, mut act: impl FnMut(u64, &mut Backfill)) {
        let Self { cohorts, sessions, .. } = self;
        let Some(cohort) = cohorts.get_mut(&cohort) else { return };
        cohort.sessions.retain(|number| {
            let backfill = sessions.backfill_mut(*number);
            let is_here = backfill.is_some();
            if let Some(backfill) = backfill {
                act(*number, backfill);
            }
            is_here
        });
    }

    /// Puts events into the outboxes of those sessions of a cohort that lack them.
    fn deliver_to_cohort(&mut self, now: Millis, cohort: u64, events: &[(Seq, Arc<Delivery>)]) {
        let mut receivers = Vec::new();
        let limits = backfill_limits(&self.limits);
        for (_, delivery) in events {
            let Self { index, sessions, .. } = self;
            index.matching(&delivery.event, |subscriber| {
                let Some(session) = sessions.get_mut(subscriber.session) else { return };
                let encoding = session.socket.encoding();
                let source = (cohort, subscriber.subscription);
                if let Some(backfill) = &mut session.backfill
                    && backfill.take(now, source, delivery, encoding, &limits)
                {
                    receivers.push(subscriber.session);
                }
            });
        }
        receivers.sort_unstable();
        receivers.dedup();
        for number in receivers {
            self.flush(now, number);
            let backfill = self.sessions.get(number).and_then(|session| session.backfill.as_ref());
            let is_full = backfill.is_some_and(|backfill| backfill.outbox.bytes() > limits.bytes);
            if let Some(cohort) = self.cohorts.get_mut(&cohort).filter(|_| is_full) {
                if cohort.backpressured.is_empty() {
                    cohort.backpressured_since = now;
                }
                cohort.backpressured.insert(number);
            }
        }
    }

    /// Continues the backfill of a session: asks for what it still lacks or, if it is complete, ends it.
    pub(super) fn continue_backfill(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let Some(backfill) = &mut session.backfill else { return };
        match backfill.next(&self.limits) {
            BackfillAction::Wait => {}
            BackfillAction::Read(cohort) => {
                if let Some(cohort) = self.cohorts.get_mut(&cohort) {
                    cohort.backpressured.remove(&number);
                }
            }
            BackfillAction::Ask if backfill.is_waiting_for_slot => {}
            BackfillAction::Ask => {
                let account = &mut self.accounts[session.account];
                account.past.spend(now, self.backfill_rate.units(backfill.unpaid()));
                let free_at = account.past.free_at(&self.backfill_rate);
                let key = backfill.class();
                let slot = account.places.join(key);
                let slot = slot.or_else(|| if free_at <= now { account.places.take(key) } else { None });
                let Some(slot) = slot else {
                    metrics::PUT_OFF_CATCH_UPS.increment(1);
                    backfill.is_waiting_for_slot = true;
                    let again = self.backfill_retries.round(free_at.max(now.plus(PUT_OFF_MS)));
                    return self.backfill_retries.set(again, number);
                };
                account.past.spend(now, self.backfill_rate.units(backfill.take_slot(slot)));
                backfill.asked();
                let (epoch_id, from, to) = backfill.ranges();
                let of = backfill.of();
                let wants = |held: &&crate::shard::session::ActiveSubscription| {
                    of == BackfillTarget::Session || of == BackfillTarget::Subscription(held.number)
                };
                let held = session.subscriptions.iter().filter(wants);
                let filters = held.map(|held| Arc::clone(&held.subscription.filter)).collect();
                let ranges = BackfillRanges { epoch_id, from, to, user: session.user.clone(), filters };
                self.ask(ToEdge::CatchUp(self.id(number), Box::new(ranges)));
            }
            BackfillAction::Done => {
                let Some(mut backfill) = session.backfill.take() else { return };
                let account = &mut self.accounts[session.account];
                account.past.spend(now, self.backfill_rate.units(backfill.unpaid()));
                let Backfill { id, complete, since, .. } = *backfill;
                self.log_caught_up(now, number, since, complete);
                metrics::CAUGHT_UP.with(complete.to_string()).increment(1);
                metrics::CATCH_UP_SECONDS.record(now.since(since) as f64 / 1000.0);
                let position = self.position(number);
                self.reply(now, number, &ServerFrame::CaughtUp(CaughtUp { id, resumed: complete, position }));
                self.flush(now, number);
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
    Timestamp(i64::try_from(millis(wall.saturating_sub(ago))).unwrap_or(i64::MAX))
}
