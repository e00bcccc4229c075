//! The past for sessions that catch up: it comes in pieces for all sessions of a gathering, finds them by the index as
//! new events do, and is digested a little at a time, so that what is new does not wait behind it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};
use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, Millis, Partition, Seq};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::since::Since;
use tickwire_core::protocol::{CaughtUp, Gap, Id, ServerFrame};
use tickwire_node::clock::millis;
use tickwire_node::declare_counter;

use super::Shard;
use super::gaps::gap;
use crate::backfill::ranges::BackfillRanges;
use crate::backfill::request::{Backfill, BackfillAction, BackfillTarget};
use crate::delivery::Delivery;
use crate::messages::{BackfillChunk, ToEdge};
use crate::outbox::{Outbox, OutboxLimits};
use crate::shard::session::BackfillBegin;
use crate::socket::Socket;

/// How long a shard digests before what is new has its turn.
const BITE: Duration = Duration::from_millis(1);

/// How long the sessions of a gathering wait for those that have enough to read, in milliseconds.
const PATIENCE_MS: u64 = 500;

/// How long the sessions of a gathering that all have enough to read keep it, in milliseconds. Others wait for its place.
const SLEEP_MS: u64 = 5_000;

/// When one that waits for its user looks again, in milliseconds.
const PUT_OFF_MS: u64 = 100;

/// How often a session that goes on after a break is told its position while it is given the past, in milliseconds: if it
/// breaks again, it goes on from there.
pub(super) const CATCH_UP_BEAT_MS: u64 = 1_000;

/// How many events are looked at between two looks at the clock.
const BITE_EVENTS: usize = 32;

/// Sessions that are given the past together, and what of it has come.
#[derive(Debug, Default)]
pub(super) struct Cohort {
    sessions: BTreeSet<u64>,
    items: VecDeque<CohortItem>,
    /// Those of them that have enough to read for now, and since when all others wait for them.
    backpressured: BTreeSet<u64>,
    backpressured_since: Millis,
}

/// What is to be digested, in order.
#[derive(Debug)]
pub(super) enum CohortItem {
    /// A piece, from this event of this step on.
    Piece { past: Arc<BackfillChunk>, step: usize, event: usize },
    /// The end.
    End,
}

impl Cohort {
    fn wants_items(&self) -> bool {
        self.backpressured.is_empty() && !self.items.is_empty()
    }
}

/// What the past is held to: no lanes, no budgets, no rates. It was due long ago.
pub(super) fn limits_of_past(limits: &OutboxLimits) -> OutboxLimits {
    OutboxLimits { critical: u32::MAX, lanes: false, ..*limits }
}

impl<S: Socket> Shard<S> {
    /// A session goes on after `from`, where an earlier one ended. What cannot be given is told to it once it has its
    /// answer.
    pub(super) fn go_on(&mut self, now: Millis, number: u64, id: Option<Id>, from: &Position) -> Vec<Gap> {
        // What waits belongs to subscriptions that have ended. From `from` on all is given; before it, the client has it.
        self.flush(now, number);
        let (backfill, gaps) = self.begin_at(now, id, BackfillTarget::Session, from, &self.applied);
        let applied = &self.applied;
        let Some(session) = self.sessions.get_mut(number) else { return Vec::new() };
        let is_ahead = gaps.is_empty() && from.seqs.iter().zip(&applied.seqs).any(|(from, applied)| from > applied);
        session.ahead = is_ahead.then(|| from.seqs.clone().into_boxed_slice());
        session.outbox = Outbox::new();
        session.backfill = Some(Box::new(backfill.up_to(session.last_subscription)));
        session.beat_at = session.beat_at.min(now.plus(CATCH_UP_BEAT_MS));
        self.remind_of_next(now, number);
        gaps
    }

    /// Where the past begins that somebody asks for now. It may be long until it is given.
    pub(super) fn begin_of(&self, since: Since) -> BackfillBegin {
        // The time of day is read once: by a later one the history would begin after as long a time ago.
        let wall = (self.settings.clocks.wall)();
        let oldest = before(wall, self.settings.config.history);
        let from = |time: Timestamp| BackfillBegin::From { time: time.max(oldest), is_cut: time < oldest };
        match since {
            Since::Position(position) => BackfillBegin::At(position),
            Since::Ago(ago) => from(before(wall, ago)),
            Since::Time(time) => from(time),
        }
    }

    /// A subscription of a session wants what was stored before it.
    pub(super) fn look_back(
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

    /// Up to where nothing comes to a session as new: its gateway has come so far, or the session was further when it came,
    /// and is given nothing of what it had.
    fn end_of_past(&self, number: u64) -> Position {
        let mut end = self.applied.clone();
        if let Some(session) = self.sessions.get(number) {
            session.raise(&mut end);
        }
        end
    }

    /// The past from a position on, up to `to`. Of one of another life of the stream what this life keeps is given, and
    /// nobody knows what came after that; this life is given from its beginning.
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
        let kept = epoch.keeps_of(from.epoch_id).filter(|_| from.seqs.len() == to.seqs.len());
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

    /// The time that a session asked for stands behind `found`; `None` if NATS did not say for too long.
    pub(super) fn found(&mut self, now: Millis, number: u64, time: Timestamp, found: Option<Seq>) {
        let Some(backfill) = self.sessions.backfill_mut(number) else { return };
        let Some((begins, is_cut)) = backfill.found(time, found.unwrap_or(Seq(u64::MAX))) else { return };
        let reason = match found {
            None => Some("lost"),
            Some(_) if is_cut => Some("too_long"),
            Some(_) => None,
        };
        // Where nothing was stored before, nothing is missing.
        let missing = (0..).zip(begins).filter(|(_, to)| **to > Seq(0));
        let tell = |reason| missing.map(|(p, to)| gap(reason, Partition(p), Seq(0), *to)).collect();
        let gaps: Vec<Gap> = reason.map(tell).unwrap_or_default();
        backfill.complete = gaps.is_empty();
        self.tell_gaps(now, number, gaps);
        self.catch_on(now, number);
    }

    /// These sessions are given what they lack together.
    pub(super) fn gathered(&mut self, cohort: u64, sessions: Vec<u64>) {
        for number in &sessions {
            if let Some(backfill) = self.sessions.backfill_mut(*number) {
                backfill.gathered(cohort);
            }
        }
        if !sessions.is_empty() {
            let sessions = sessions.into_iter().collect();
            self.cohorts.insert(cohort, Cohort { sessions, ..Cohort::default() });
        }
    }

    /// A session no longer takes what comes.
    pub(super) fn leave_cohort(&mut self, number: u64, backfill: &Backfill) {
        let Some(number_of_cohort) = backfill.cohort() else { return };
        let Some(cohort) = self.cohorts.get_mut(&number_of_cohort) else { return };
        cohort.sessions.remove(&number);
        cohort.backpressured.remove(&number);
        if cohort.sessions.is_empty()
            && let Some(cohort) = self.cohorts.remove(&number_of_cohort)
        {
            for item in cohort.items {
                self.pass_over(number_of_cohort, &item);
            }
        }
    }

    /// A piece of the past has come, or the end of it.
    pub(super) fn enqueue_item(&mut self, cohort: u64, item: CohortItem) {
        match self.cohorts.get_mut(&cohort) {
            Some(cohort) => cohort.items.push_back(item),
            None => self.pass_over(cohort, &item),
        }
    }

    /// Nobody here takes this.
    fn pass_over(&self, cohort: u64, item: &CohortItem) {
        if let CohortItem::Piece { past, .. } = item {
            self.ask(ToEdge::Digested(cohort, past.steps.weight()));
        }
    }

    /// Whether there is something to digest.
    pub(crate) fn has_past(&self) -> bool {
        self.cohorts.values().any(Cohort::wants_items)
    }

    /// Digests the past for about as long as what is new may wait: a little of each gathering in turn.
    pub(crate) fn process(&mut self, now: Millis) {
        let begun = (self.settings.clocks.monotonic)();
        let mut hungry: VecDeque<u64> =
            self.cohorts.iter().filter(|(_, cohort)| cohort.wants_items()).map(|(number, _)| *number).collect();
        while self.spent(begun) < BITE
            && let Some(number) = hungry.pop_front()
        {
            self.bite(now, number);
            if self.cohorts.get(&number).is_some_and(Cohort::wants_items) {
                hungry.push_back(number);
            }
        }
    }

    /// Digests a little of a gathering.
    fn bite(&mut self, now: Millis, number: u64) {
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
                let end = events.len().min(event + BITE_EVENTS);
                self.give_again(now, number, &events[event..end]);
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
                    self.tell_gaps(now, session, vec![gap(reason.as_str(), *partition, from, to)]);
                }
            }
            Some(CoverageEvent::Adopt { .. } | CoverageEvent::Reset { .. }) => {}
        }
        if let Some(cohort) = self.cohorts.get_mut(&number) {
            cohort.items.push_front(CohortItem::Piece { past, step: next.0, event: next.1 });
        }
    }

    /// Whoever has had others wait for too long gives way to them.
    pub(super) fn hurry_past(&mut self, now: Millis) {
        self.wake_sleepers(now);
        for cohort in self.cohorts.values_mut() {
            let waits = cohort.backpressured.len() < cohort.sessions.len() && !cohort.backpressured.is_empty();
            if waits && now.since(cohort.backpressured_since) >= PATIENCE_MS {
                for number in std::mem::take(&mut cohort.backpressured) {
                    if let Some(backfill) = self.sessions.backfill_mut(number) {
                        backfill.give_way();
                    }
                }
            }
        }
    }

    /// A gathering of which nobody reads is given up: what they lack they ask for when they read again.
    fn wake_sleepers(&mut self, now: Millis) {
        let sleeps = |cohort: &Cohort| {
            let all_backpressured =
                !cohort.backpressured.is_empty() && cohort.backpressured.len() >= cohort.sessions.len();
            all_backpressured && now.since(cohort.backpressured_since) >= SLEEP_MS
        };
        let asleep = self.cohorts.extract_if(.., |_, cohort| sleeps(cohort));
        for (number, cohort) in asleep.collect::<Vec<_>>() {
            counter!("tickwire_gateway_abandoned_gatherings_total").increment(1);
            cohort.items.iter().for_each(|item| self.pass_over(number, item));
            for session in cohort.sessions {
                let backfill = self.sessions.backfill_mut(session);
                if let Some(backfill) = backfill.filter(|backfill| backfill.cohort() == Some(number)) {
                    backfill.ended(number);
                    self.ask(ToEdge::LeavePast(self.id(session)));
                    self.catch_on(now, session);
                }
            }
        }
    }

    fn end_cohort(&mut self, now: Millis, number: u64) {
        let sessions = self.cohorts.remove(&number).map(|cohort| cohort.sessions);
        for session in sessions.into_iter().flatten() {
            if let Some(backfill) = self.sessions.backfill_mut(session) {
                backfill.ended(number);
                self.catch_on(now, session);
            }
        }
    }

    /// Does something with each session of a gathering; those that are gone are forgotten.
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

    /// Gives events to those sessions of a gathering that lack them.
    fn give_again(&mut self, now: Millis, cohort: u64, events: &[(Seq, Arc<Delivery>)]) {
        let mut fed = Vec::new();
        let limits = limits_of_past(&self.limits);
        for (_, delivery) in events {
            let Self { index, sessions, .. } = self;
            index.matching(&delivery.event, |subscriber| {
                let Some(session) = sessions.get_mut(subscriber.session) else { return };
                let encoding = session.socket.encoding();
                let asker = (cohort, subscriber.subscription);
                if let Some(backfill) = &mut session.backfill
                    && backfill.take(now, asker, delivery, encoding, &limits)
                {
                    fed.push(subscriber.session);
                }
            });
        }
        fed.sort_unstable();
        fed.dedup();
        for number in fed {
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

    /// Goes on with a session that catches up: asks for what it still lacks, or lets what is new come.
    pub(super) fn catch_on(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let Some(backfill) = &mut session.backfill else { return };
        match backfill.next(&self.limits) {
            BackfillAction::Wait => {}
            BackfillAction::Read(cohort) => {
                if let Some(cohort) = self.cohorts.get_mut(&cohort) {
                    cohort.backpressured.remove(&number);
                }
            }
            BackfillAction::Ask if backfill.is_put_off => {}
            BackfillAction::Ask => {
                let account = &mut self.accounts[session.account];
                account.past.spend(now, self.past_rate.units(backfill.unpaid()));
                let free_at = account.past.free_at(&self.past_rate);
                let class = backfill.class();
                let place = account.places.join(class);
                let place = place.or_else(|| if free_at <= now { account.places.take(class) } else { None });
                let Some(place) = place else {
                    counter!("tickwire_gateway_put_off_catch_ups_total").increment(1);
                    backfill.is_put_off = true;
                    let again = self.put_off.round(free_at.max(now.plus(PUT_OFF_MS)));
                    return self.put_off.set(again, number);
                };
                account.past.spend(now, self.past_rate.units(backfill.take_place(place)));
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
                account.past.spend(now, self.past_rate.units(backfill.unpaid()));
                let Backfill { id, complete, since, .. } = *backfill;
                counter!("tickwire_gateway_caught_up_total", "resumed" => complete.to_string()).increment(1);
                histogram!("tickwire_gateway_catch_up_seconds").record(now.since(since) as f64 / 1000.0);
                let position = self.position(number);
                self.reply(now, number, &ServerFrame::CaughtUp(CaughtUp { id, resumed: complete, position }));
                self.flush(now, number);
            }
        }
    }

    /// Those that waited for their users look again whether they may be given the past.
    pub(super) fn end_put_off(&mut self, now: Millis) {
        while let Some((_, numbers)) = self.put_off.pop_due(now) {
            for number in numbers {
                if let Some(backfill) = self.sessions.backfill_mut(number) {
                    backfill.is_put_off = false;
                    self.catch_on(now, number);
                }
            }
        }
    }

    /// New events that were too many for sessions that catch up belong to the past of these from now on.
    pub(super) fn renew(&mut self, now: Millis) {
        for number in std::mem::take(&mut self.behind) {
            if let Some(backfill) = self.sessions.backfill_mut(number) {
                backfill.renew(&self.applied);
                self.catch_on(now, number);
            }
        }
    }
}

/// The time that was so long before `wall`.
fn before(wall: Duration, ago: Duration) -> Timestamp {
    Timestamp(i64::try_from(millis(wall.saturating_sub(ago))).unwrap_or(i64::MAX))
}

pub(crate) fn describe() {
    describe_counter!(
        "tickwire_gateway_caught_up_total",
        "Sessions that have caught up, by whether nothing was missing"
    );
    declare_counter!(
        "tickwire_gateway_put_off_catch_ups_total",
        "Times that a session had to wait for the past since its user had too much of it read of late"
    );
    declare_counter!(
        "tickwire_gateway_abandoned_gatherings_total",
        "Groups of sessions that were given up since none of them read what had come"
    );
    describe_histogram!(
        "tickwire_gateway_catch_up_seconds",
        "From a resume, or a look back, until all of it was given"
    );
}
