//! Finds the subscriptions of a shard that an event matches. The result is the same as that of checking every
//! subscription.
//!
//! Equal filters are interned: one evaluation serves all subscriptions that share one. A filter is stored under the
//! values of its most selective field (`lists`), together with a compact form of its other fields (`list`), so that the
//! cost of an event depends on the filters that match, not on those that exist. No filter is asked twice about an event,
//! and filters that look into a long list or text of its data share the work. An event for one user checks only that
//! user's subscriptions (`sessions`). A broadcast is for all of its audience, or for the filters that name its rooms
//! (`room_filters`), whatever else they ask for. Nothing is allocated for an event, unless filters look into such a list
//! or text.

mod list;
mod lists;
pub(crate) mod metrics;
mod room_filters;
mod sessions;
mod statistics;
mod walk;

use std::collections::HashMap;
use std::hash::Hash;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use tickwire_core::event::{Audience, Event};
use tickwire_core::filter::Filter;
use tickwire_core::filter::long_values::LongValues;
use tickwire_core::ids::{Room, UserId};

use crate::handling::{broadcast_rooms, is_in_rooms};
use crate::index::sessions::{IndexedSessions, IndexedSubscription};
use lists::Lists;
use room_filters::RoomFilters;
pub use statistics::{Dimension, Statistics, Tally};
use walk::MatchWalk;

/// Clients choose the keys, so the hash has a random seed.
type Hasher = foldhash::fast::RandomState;

/// One event in this many is timed.
const SAMPLE: u64 = 64;

/// How many sessions one sweep checks.
const SWEEP_SESSIONS: usize = 1_024;

/// What has memory for no more entries than this never shrinks.
const KEPT_CAPACITY: usize = 1_024;

/// A subscription, as the index returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscriber {
    /// The session, by its number in the shard.
    pub session: u64,
    /// The subscription, by its number within the session.
    pub subscription: u32,
    /// How long events may wait for it, in milliseconds.
    pub window_ms: u16,
    /// Whether its events are alerts.
    pub alert: bool,
}

/// The place of a filter in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    rooms: RoomFilters,
    sessions: IndexedSessions,
    /// The filters that match the current event. The buffer is reused for all events.
    matched: Vec<Slot>,
    walks: u64,
    /// How long the last timed search took, until the caller takes it.
    time: Option<Duration>,
    /// Where the next sweep begins.
    sweep_at: usize,
    statistics: Statistics,
}

/// A filter and its subscribers.
#[derive(Debug)]
struct Interned {
    filter: Arc<Filter>,
    subscribers: Vec<Subscriber>,
    /// The last walk that came to it, if a walk may come to it twice.
    asked_in: u64,
}

impl Index {
    /// Adds a session of `user`. Events for one user match only that user's sessions.
    pub fn register(&mut self, user: &UserId, session: u64) {
        if self.sessions.register(user, session) {
            self.statistics.of_mut(Dimension::User).entries += 1;
        }
    }

    /// Removes the session of `user` with all its subscriptions. Does nothing if the session is another user's.
    pub fn unregister(&mut self, user: &UserId, session: u64) {
        if self.sessions.user(session).is_none_or(|registered| registered == user) {
            self.leave(session);
        }
    }

    /// The sessions of `user`.
    #[must_use]
    pub fn sessions_of(&self, user: &UserId) -> &[u64] {
        self.sessions.of_user(user)
    }

    /// Adds a subscription, or changes its filter, its window or whether its events are alerts. Returns the interned
    /// filter; the caller should keep it instead of its own copy.
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

    /// Removes a subscription, unless it has another filter now.
    pub fn remove(&mut self, session: u64, subscription: u32, filter: &Arc<Filter>) {
        let Some(held) = self.sessions.held(session, subscription) else { return };
        let kept = &self.filters[held.slot.at()].filter;
        if Arc::ptr_eq(kept, filter) || kept == filter {
            self.release(session, held);
        }
    }

    /// Calls `found` with every subscription that `event` is for: it matches, or the event is broadcast to it, and its
    /// user may see the event. A session with several such subscriptions is found several times.
    pub fn matching(&mut self, event: &Event, mut found: impl FnMut(&Subscriber)) {
        self.walks += 1;
        if let Some(rooms) = broadcast_rooms(event) {
            return self.broadcast(&event.audience, rooms, found);
        }
        let since = self.walks.is_multiple_of(SAMPLE).then(Instant::now);
        self.statistics.sampled_events += u64::from(since.is_some());
        if let Audience::User(user) = &event.audience {
            self.matching_of(user, event, since, found);
            return;
        }
        let mut matched = std::mem::take(&mut self.matched);
        let mut walk = MatchWalk {
            event,
            long: LongValues::default(),
            probe: self.lists.probe(event),
            filters: &mut self.filters,
            matched: &mut matched,
            statistics: &mut self.statistics,
            number: self.walks,
            since,
        };
        self.lists.search(&mut walk);
        self.time = walk.since.zip(since).map(|(end, begin)| end.duration_since(begin));
        // Subscribers of different filters are far apart in memory. Reading the first of each before they are used lets
        // the cache misses overlap.
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
        let mut long = LongValues::default();
        for held in self.sessions.held_by(user) {
            let interned = &self.filters[held.slot.at()];
            if interned.filter.matches_with(event, &mut long) {
                tally.matches += 1;
                found(&interned.subscribers[held.place as usize]);
            }
        }
        tally.lookups += 1;
        tally.hits += u64::from(tally.matches > before);
        if let Some(since) = since {
            let took = since.elapsed();
            tally.sampled += took;
            self.time = Some(took);
        }
    }

    /// Calls `found` with every subscription of the audience; if there are rooms, with those whose filters name one.
    fn broadcast(&mut self, audience: &Audience, rooms: &[Room], mut found: impl FnMut(&Subscriber)) {
        let Self { filters, rooms: named, sessions, walks, .. } = self;
        if let Audience::User(user) = audience {
            for held in sessions.held_by(user) {
                let interned = &filters[held.slot.at()];
                if is_in_rooms(&interned.filter, rooms) {
                    found(&interned.subscribers[held.place as usize]);
                }
            }
            return;
        }
        if rooms.is_empty() {
            return filters.iter().for_each(|(_, interned)| interned.subscribers.iter().for_each(&mut found));
        }
        for room in rooms {
            for slot in named.naming(room) {
                let interned = &mut filters[slot.at()];
                // A filter may name several of the rooms.
                if std::mem::replace(&mut interned.asked_in, *walks) != *walks {
                    interned.subscribers.iter().for_each(&mut found);
                }
            }
        }
    }

    /// How long the last search took, if it was timed and nobody has taken that yet.
    pub(crate) fn take_time(&mut self) -> Option<Duration> {
        self.time.take()
    }

    /// Removes entries of sessions that are not `alive`. A call checks some sessions, and further calls the next ones.
    /// Returns how many entries it removed, sessions and subscriptions.
    pub fn sweep(&mut self, mut alive: impl FnMut(u64) -> bool) -> usize {
        let mut entries = 0;
        for _ in 0..self.sessions.len().min(SWEEP_SESSIONS) {
            if self.sweep_at >= self.sessions.len() {
                self.sweep_at = 0;
            }
            match self.sessions.at(self.sweep_at) {
                // The last session takes the place of the removed one.
                Some(session) if !alive(session) => entries += self.leave(session),
                _ => self.sweep_at += 1,
            }
        }
        entries
    }

    /// Counts of what the index contains and has done.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Removes a session with all its subscriptions. Returns how many entries that were.
    fn leave(&mut self, session: u64) -> usize {
        let Some(entry) = self.sessions.take(session) else { return 0 };
        if entry.user.is_some() {
            self.statistics.of_mut(Dimension::User).entries -= 1;
        }
        let entries = 1 + entry.held.len();
        let mut held = entry.held;
        while let Some(one) = held.pop() {
            // The session is already removed, so a moved subscription of it must be updated here.
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

    /// Removes a subscription from the subscribers of its filter. Returns the one that takes its place, if one does.
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
        let interned = Interned { filter: Arc::clone(filter), subscribers: Vec::new(), asked_in: 0 };
        let slot = Slot(self.filters.insert(interned) as u32);
        self.slots.insert(Arc::clone(filter), slot);
        self.lists.file(filter, slot, &mut self.statistics);
        self.rooms.file(filter, slot);
        self.statistics.filters += 1;
        slot
    }

    fn forget(&mut self, slot: Slot) {
        let Interned { filter, .. } = self.filters.remove(slot.at());
        self.slots.remove(&filter);
        give_back(&mut self.slots);
        if self.filters.is_empty() {
            self.filters.shrink_to_fit();
        }
        self.lists.unfile(&filter, slot, &mut self.statistics);
        self.rooms.unfile(&filter, slot);
        self.statistics.filters -= 1;
    }
}

/// For how many entries something keeps memory that has become much smaller than it was; `None` if it keeps all. Clients
/// choose how many entries there are, and the next ones may need memory elsewhere. It shrinks only after most of them are
/// gone, so that this costs no more than their removal.
fn kept(len: usize, capacity: usize) -> Option<usize> {
    (capacity > KEPT_CAPACITY && len < capacity / 8).then_some(2 * len)
}

/// Frees the memory of a map that has become much smaller than it was.
fn give_back<K: Eq + Hash, V>(map: &mut HashMap<K, V, Hasher>) {
    if let Some(kept) = kept(map.len(), map.capacity()) {
        map.shrink_to(kept);
    }
}

#[cfg(test)]
mod tests;
