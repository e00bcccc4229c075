//! Which sessions of a shard an event concerns. Its answer is that of asking every subscription.
//!
//! Equal filters are interned: one evaluation serves all who share one. A filter is filed under what tells it apart
//! best (`lists`), with all that is small about it beside (`list`), so that the cost of an event follows the filters
//! that match and not those that exist. An event for one user asks that user's subscriptions and nobody else's
//! (`sessions`). Nothing is allocated for an event.

mod list;
mod lists;
pub(crate) mod metrics;
mod sessions;
mod statistics;
mod walk;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;
use tickwire_core::event::{Audience, Event};
use tickwire_core::filter::Filter;
use tickwire_core::ids::UserId;

use crate::index::sessions::{IndexedSessions, IndexedSubscription};
use lists::Lists;
pub use statistics::{Dimension, Statistics, Tally};
use walk::MatchWalk;

/// Strangers choose the keys, so the hash is seeded at random.
type Hasher = foldhash::fast::RandomState;

/// One event in so many is timed.
const SAMPLE: u64 = 64;

/// How many sessions one sweep looks at.
const SWEEP_SESSIONS: usize = 1_024;

/// A subscription, as the index finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscriber {
    /// The session, by its number in the shard.
    pub session: u64,
    /// The subscription, by a number of its own within the session.
    pub subscription: u32,
    /// How long events may wait for it, in milliseconds.
    pub window_ms: u16,
}

/// Where a filter is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u32);

impl Slot {
    fn at(self) -> usize {
        self.0 as usize
    }
}

/// All subscriptions of a shard.
#[derive(Debug, Default)]
pub struct Index {
    filters: Slab<Interned>,
    slots: HashMap<Arc<Filter>, Slot, Hasher>,
    lists: Lists,
    sessions: IndexedSessions,
    /// The filters that the event at hand passes; kept so that none is made for each event.
    matched: Vec<Slot>,
    walks: u64,
    /// Where the next sweep begins.
    sweep_at: usize,
    statistics: Statistics,
}

/// A filter and all who share it.
#[derive(Debug)]
struct Interned {
    filter: Arc<Filter>,
    subscribers: Vec<Subscriber>,
    /// The last walk that noted it, where walks may come by twice.
    matched_in: u64,
}

impl Index {
    /// A session of `user` is here. Events for one user concern that user's sessions alone.
    pub fn register(&mut self, user: &UserId, session: u64) {
        if self.sessions.register(user, session) {
            self.statistics.of_mut(Dimension::User).entries += 1;
        }
    }

    /// The session of `user` is gone, and with it what it still subscribed to. Another user's is not.
    pub fn rise(&mut self, user: &UserId, session: u64) {
        if self.sessions.user(session).is_none_or(|seated| seated == user) {
            self.leave(session);
        }
    }

    /// Adds a subscription, or gives it another window or another filter. Returns the interned filter, to be kept in
    /// place of a copy.
    pub fn add(&mut self, subscriber: Subscriber, filter: &Arc<Filter>) -> Arc<Filter> {
        let slot = self.slots.get(filter).copied().unwrap_or_else(|| self.intern(filter));
        let Subscriber { session, subscription, .. } = subscriber;
        match self.sessions.held(session, subscription) {
            Some(held) if held.slot == slot => {
                self.filters[slot.at()].subscribers[held.place as usize] = subscriber;
                return Arc::clone(&self.filters[slot.at()].filter);
            }
            Some(held) => self.release(session, held),
            None => {}
        }
        let interned = &mut self.filters[slot.at()];
        if interned.subscribers.is_empty() {
            // Most filters have one subscriber, or many.
            interned.subscribers.reserve_exact(1);
        }
        let place = interned.subscribers.len() as u32;
        interned.subscribers.push(subscriber);
        self.sessions.hold(session, IndexedSubscription { subscription, slot, place });
        self.statistics.subscriptions += 1;
        Arc::clone(&self.filters[slot.at()].filter)
    }

    /// Removes a subscription, unless it has another filter than this by now.
    pub fn remove(&mut self, session: u64, subscription: u32, filter: &Arc<Filter>) {
        let Some(held) = self.sessions.held(session, subscription) else { return };
        let kept = &self.filters[held.slot.at()].filter;
        if Arc::ptr_eq(kept, filter) || kept == filter {
            self.release(session, held);
        }
    }

    /// Calls `found` with every subscription that `event` passes and whose user may see it: a session that has several
    /// is found several times.
    pub fn matching(&mut self, event: &Event, mut found: impl FnMut(&Subscriber)) {
        self.walks += 1;
        let since = self.walks.is_multiple_of(SAMPLE).then(Instant::now);
        self.statistics.sampled_events += u64::from(since.is_some());
        if let Audience::User(user) = &event.audience {
            self.matching_of(user, event, since, found);
            return;
        }
        let mut matched = std::mem::take(&mut self.matched);
        let mut walk = MatchWalk {
            event,
            probe: self.lists.probe(event),
            filters: &mut self.filters,
            matched: &mut matched,
            statistics: &mut self.statistics,
            number: self.walks,
            since,
        };
        self.lists.look(&mut walk);
        // Subscribers of different filters lie far apart in memory. Asking for the first of each before anything is
        // done with them lets the waits overlap.
        let first =
            |slot: &Slot| self.filters[slot.at()].subscribers.first().map_or(0, |subscriber| subscriber.session);
        black_box(matched.iter().map(first).fold(0, u64::wrapping_add));
        for slot in matched.drain(..) {
            self.filters[slot.at()].subscribers.iter().for_each(&mut found);
        }
        self.matched = matched;
    }

    fn matching_of(
        &mut self,
        user: &UserId,
        event: &Event,
        since: Option<Instant>,
        mut found: impl FnMut(&Subscriber),
    ) {
        let tally = self.statistics.of_mut(Dimension::User);
        let before = tally.matches;
        for held in self.sessions.held_by(user) {
            let interned = &self.filters[held.slot.at()];
            if interned.filter.matches(event) {
                tally.matches += 1;
                found(&interned.subscribers[held.place as usize]);
            }
        }
        tally.lookups += 1;
        tally.hits += u64::from(tally.matches > before);
        if let Some(since) = since {
            tally.sampled += since.elapsed();
        }
    }

    /// Lets go of what sessions left behind that are not alive any more, of those that it looks at: some of them at a
    /// time, all of them in turn. Returns how many entries that were, sessions and subscriptions.
    pub fn sweep(&mut self, mut alive: impl FnMut(u64) -> bool) -> usize {
        let mut entries = 0;
        for _ in 0..self.sessions.len().min(SWEEP_SESSIONS) {
            if self.sweep_at >= self.sessions.len() {
                self.sweep_at = 0;
            }
            match self.sessions.at(self.sweep_at) {
                // The last one takes the place of the one that leaves.
                Some(session) if !alive(session) => entries += self.leave(session),
                _ => self.sweep_at += 1,
            }
        }
        entries
    }

    /// What the index holds and did.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Takes a session out with all that it holds; returns how many entries that were.
    fn leave(&mut self, session: u64) -> usize {
        let Some(entry) = self.sessions.take(session) else { return 0 };
        if entry.user.is_some() {
            self.statistics.of_mut(Dimension::User).entries -= 1;
        }
        let entries = 1 + entry.held.len();
        let mut held = entry.held;
        while let Some(one) = held.pop() {
            // The session is no longer seated, so its other subscriptions learn here that one has moved.
            if let Some(moved) = self.unsubscribe(one)
                && moved.session == session
                && let Some(other) = held.iter_mut().find(|other| other.subscription == moved.subscription)
            {
                other.place = one.place;
            }
        }
        entries
    }

    fn release(&mut self, session: u64, held: IndexedSubscription) {
        self.sessions.release(session, held.subscription);
        self.unsubscribe(held);
    }

    /// Takes a subscription out of its filter's. Returns the one that takes its place there, if one does.
    fn unsubscribe(&mut self, held: IndexedSubscription) -> Option<Subscriber> {
        let subscribers = &mut self.filters[held.slot.at()].subscribers;
        subscribers.swap_remove(held.place as usize);
        self.statistics.subscriptions -= 1;
        let moved = subscribers.get(held.place as usize).copied();
        if let Some(moved) = moved {
            self.sessions.moved(moved.session, moved.subscription, held.place);
        } else if subscribers.is_empty() {
            self.forget(held.slot);
        }
        moved
    }

    fn intern(&mut self, filter: &Arc<Filter>) -> Slot {
        let interned = Interned { filter: Arc::clone(filter), subscribers: Vec::new(), matched_in: 0 };
        let slot = Slot(self.filters.insert(interned) as u32);
        self.slots.insert(Arc::clone(filter), slot);
        self.lists.file(filter, slot, &mut self.statistics);
        self.statistics.filters += 1;
        slot
    }

    fn forget(&mut self, slot: Slot) {
        let Interned { filter, .. } = self.filters.remove(slot.at());
        self.slots.remove(&filter);
        self.lists.unfile(&filter, slot, &mut self.statistics);
        self.statistics.filters -= 1;
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
