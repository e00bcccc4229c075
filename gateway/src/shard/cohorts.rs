//! The cohorts with sessions in this shard. Chunks arrive for all sessions of a cohort, and their events find the
//! sessions by the index, as new events do. They are processed a little at a time, so that new events do not wait for
//! them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tickwire_core::coverage::CoverageEvent;
use tickwire_core::ids::{Millis, Seq};

use super::Shard;
use super::gaps::gap;
use crate::backfill::request::Backfill;
use crate::delivery::Delivery;
use crate::messages::{BackfillChunk, ToEdge};
use crate::metrics;
use crate::outbox::Target;
use crate::shard::backfill::backfill_limits;
use crate::socket::Socket;

/// How long a shard processes chunks before new events have their turn.
const PROCESS_TIME: Duration = Duration::from_millis(1);

/// How long the sessions of a cohort wait for those whose outboxes are full, in milliseconds.
const PATIENCE_MS: u64 = 500;

/// After this time a cohort is abandoned if the outboxes of all its sessions are full, in milliseconds. Other cohorts
/// wait for its place.
const ABANDON_MS: u64 = 5_000;

/// How many events are processed between two checks of the clock.
const PROCESS_EVENTS: usize = 32;

/// How many bytes these events have at most, unless it is one event. The time that filters take grows with them.
const PROCESS_BYTES: usize = 64 * 1024;

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
    /// A chunk, from the coverage event `at` and this event of it on.
    Chunk { chunk: Arc<BackfillChunk>, at: usize, event: usize },
    /// The end of the cohort.
    End,
}

impl Cohort {
    /// A session has room in its outbox again.
    pub(super) fn reads_again(&mut self, session: u64) {
        self.backpressured.remove(&session);
    }

    fn wants_items(&self) -> bool {
        self.backpressured.is_empty() && !self.items.is_empty()
    }
}

impl<S: Socket> Shard<S> {
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
        if let CohortItem::Chunk { chunk, .. } = item {
            self.ask(ToEdge::ChunkProcessed(cohort, chunk.events.weight()));
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

    /// Processes one coverage event of a cohort, or a part of it.
    fn process_item(&mut self, now: Millis, number: u64) {
        let Some(cohort) = self.cohorts.get_mut(&number) else { return };
        let (chunk, at, event) = match cohort.items.pop_front() {
            Some(CohortItem::Chunk { chunk, at, event }) => (chunk, at, event),
            Some(CohortItem::End) => return self.end_cohort(now, number),
            None => return,
        };
        let mut next = (at + 1, 0);
        match chunk.events.events.get(at) {
            None => return self.ask(ToEdge::ChunkProcessed(number, chunk.events.weight())),
            Some(CoverageEvent::Apply { partition, through, events, .. }) => {
                let end = event + next_events(&events[event..]);
                self.deliver_to_cohort(now, number, &events[event..end]);
                let mut reached = *through;
                if end < events.len() {
                    next = (at, end);
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
            cohort.items.push_front(CohortItem::Chunk { chunk, at: next.0, event: next.1 });
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
            metrics::ABANDONED_COHORTS.increment(1);
            cohort.items.iter().for_each(|item| self.discard(number, item));
            for session in cohort.sessions {
                let backfill = self.sessions.backfill_mut(session);
                if let Some(backfill) = backfill.filter(|backfill| backfill.cohort() == Some(number)) {
                    backfill.ended(number);
                    self.ask(ToEdge::LeaveCohorts(self.id(session)));
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
            let may_come_again = self.may_come_again(delivery);
            let Self { index, sessions, .. } = self;
            index.matching(&delivery.event, |subscriber| {
                let Some(session) = sessions.get_mut(subscriber.session) else { return };
                let encoding = session.socket.encoding();
                // What is old waits for no window.
                let target = Target { subscription: subscriber.subscription, window_ms: 0, alert: subscriber.alert };
                if let Some(backfill) = &mut session.backfill
                    && backfill.take(now, (cohort, target), delivery, encoding, &limits)
                {
                    receivers.push(subscriber.session);
                    if may_come_again {
                        session.note_alert(delivery.seq);
                    }
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
}

/// How many of these events are processed before the clock is checked.
fn next_events(events: &[(Seq, Arc<Delivery>)]) -> usize {
    let mut bytes = 0;
    let has_room = |(_, delivery): &&(Seq, Arc<Delivery>)| {
        bytes += delivery.bytes();
        bytes <= PROCESS_BYTES
    };
    let small = events.iter().take(PROCESS_EVENTS).take_while(has_room).count();
    small.max(events.len().min(1))
}

#[cfg(test)]
mod tests {
    use tickwire_core::ids::Partition;
    use tickwire_testkit::blank_event;

    use super::*;

    #[test]
    fn large_events_of_a_backfill_are_processed_one_by_one() {
        let next = |sizes: &[usize]| {
            let delivery = |bytes: usize| Arc::new(Delivery::new(blank_event(), Partition(0), Seq(1)).of_bytes(bytes));
            let events: Vec<_> = sizes.iter().map(|bytes| (Seq(1), delivery(*bytes))).collect();
            next_events(&events)
        };
        assert_eq!(next(&[]), 0);
        assert_eq!(next(&[500; 10]), 10);
        assert_eq!(next(&[500; 100]), PROCESS_EVENTS);
        assert_eq!(next(&[PROCESS_BYTES / 2; 3]), 2);
        assert_eq!(next(&[250_000; 3]), 1);
        assert_eq!(next(&[500, 250_000, 500]), 1);
    }
}
