//! Which sessions of a shard an event concerns. Its answer is that of asking every subscription.
//!
//! Equal filters are interned: one evaluation serves all who share one. Filters are found by kind and symbol, the
//! remaining conditions are evaluated as the filter says.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use indexmap::IndexMap;
use slab::Slab;
use tickwire_core::event::{Audience, Event, Kind};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Symbol, UserId};

/// A subscription of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// The number of its session.
    pub session: u64,
    /// Its own number within the session.
    pub subscription: u32,
    /// Its window in milliseconds.
    pub window_ms: u16,
}

/// All subscriptions of a shard.
#[derive(Debug, Default)]
pub struct Index {
    filters: Slab<Interned>,
    slots: HashMap<Arc<Filter>, usize>,
    kinds: HashMap<Kind, OfKind>,
    users: HashMap<UserId, BTreeSet<u64>>,
}

/// A filter and all who share it.
#[derive(Debug)]
struct Interned {
    filter: Arc<Filter>,
    /// Each with its window in milliseconds.
    subscribers: IndexMap<(u64, u32), u16>,
}

/// The filters that ask for a kind, by what they say of symbols.
#[derive(Debug, Default)]
struct OfKind {
    any: BTreeSet<usize>,
    by_symbol: HashMap<Symbol, BTreeSet<usize>>,
}

impl Index {
    /// A session of `user` is here. Events for one user concern that user's sessions alone.
    pub fn sit(&mut self, user: &UserId, session: u64) {
        self.users.entry(user.clone()).or_default().insert(session);
    }

    /// The session is gone; its subscriptions have been removed.
    pub fn rise(&mut self, user: &UserId, session: u64) {
        if let Some(sessions) = self.users.get_mut(user) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.users.remove(user);
            }
        }
    }

    /// Adds a subscription, or gives it another window. Returns the interned filter, to be kept in place of a copy.
    pub fn add(&mut self, subscriber: Subscriber, filter: &Arc<Filter>) -> Arc<Filter> {
        let slot = match self.slots.get(filter) {
            Some(slot) => *slot,
            None => self.intern(filter),
        };
        let interned = &mut self.filters[slot];
        interned.subscribers.insert((subscriber.session, subscriber.subscription), subscriber.window_ms);
        Arc::clone(&interned.filter)
    }

    /// Removes a subscription.
    pub fn remove(&mut self, session: u64, subscription: u32, filter: &Arc<Filter>) {
        let Some(slot) = self.slots.get(filter).copied() else { return };
        let subscribers = &mut self.filters[slot].subscribers;
        subscribers.swap_remove(&(session, subscription));
        if subscribers.is_empty() {
            self.drop_filter(slot);
        }
    }

    /// Calls `found` with the session and the window of every subscription that `event` passes, whoever may see it:
    /// a session that has several is found several times.
    pub fn matching(&self, event: &Event, mut found: impl FnMut(&Subscriber)) {
        let addressees = match &event.audience {
            Audience::Public => None,
            Audience::User(user) => match self.users.get(user) {
                Some(sessions) => Some(sessions),
                None => return,
            },
        };
        let Some(of_kind) = self.kinds.get(&event.kind) else { return };
        let of_symbol = event.symbol.as_ref().and_then(|symbol| of_kind.by_symbol.get(symbol));
        for slot in of_kind.any.iter().chain(of_symbol.into_iter().flatten()) {
            let interned = &self.filters[*slot];
            if !interned.filter.matches(event) {
                continue;
            }
            for ((session, subscription), window_ms) in &interned.subscribers {
                if addressees.is_none_or(|sessions| sessions.contains(session)) {
                    found(&Subscriber { session: *session, subscription: *subscription, window_ms: *window_ms });
                }
            }
        }
    }

    fn intern(&mut self, filter: &Arc<Filter>) -> usize {
        let slot = self.filters.insert(Interned { filter: Arc::clone(filter), subscribers: IndexMap::new() });
        self.slots.insert(Arc::clone(filter), slot);
        for kind in &filter.kinds {
            let of_kind = self.kinds.entry(kind.clone()).or_default();
            match &filter.symbols {
                None => {
                    of_kind.any.insert(slot);
                }
                Some(symbols) => {
                    for symbol in symbols {
                        of_kind.by_symbol.entry(symbol.clone()).or_default().insert(slot);
                    }
                }
            }
        }
        slot
    }

    fn drop_filter(&mut self, slot: usize) {
        let Interned { filter, .. } = self.filters.remove(slot);
        self.slots.remove(&filter);
        for kind in &filter.kinds {
            let Some(of_kind) = self.kinds.get_mut(kind) else { continue };
            of_kind.any.remove(&slot);
            for symbol in filter.symbols.iter().flatten() {
                if let Some(slots) = of_kind.by_symbol.get_mut(symbol) {
                    slots.remove(&slot);
                    if slots.is_empty() {
                        of_kind.by_symbol.remove(symbol);
                    }
                }
            }
            if of_kind.any.is_empty() && of_kind.by_symbol.is_empty() {
                self.kinds.remove(kind);
            }
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
