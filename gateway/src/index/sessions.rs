//! The sessions of a shard, and where each of their subscriptions is in the index. This makes the removal of a session,
//! and events for one user, cheap.

use std::collections::HashMap;

use indexmap::IndexMap;
use tickwire_core::ids::UserId;

use super::{Hasher, Slot};

/// Sessions and users.
#[derive(Debug, Default)]
pub(super) struct IndexedSessions {
    sessions: IndexMap<u64, IndexedSession, Hasher>,
    users: HashMap<UserId, Vec<u64>, Hasher>,
}

/// One session.
#[derive(Debug, Default)]
pub(super) struct IndexedSession {
    /// Its user; `None` before it is registered.
    pub(super) user: Option<UserId>,
    pub(super) held: Vec<IndexedSubscription>,
}

/// Where a subscription is in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexedSubscription {
    pub(super) subscription: u32,
    pub(super) slot: Slot,
    /// Its place among the subscribers of its filter.
    pub(super) place: u32,
}

impl IndexedSessions {
    /// Registers a session of `user`. Returns whether it was not registered before.
    pub(super) fn register(&mut self, user: &UserId, session: u64) -> bool {
        let entry = self.sessions.entry(session).or_default();
        if entry.user.is_some() {
            return false;
        }
        entry.user = Some(user.clone());
        self.users.entry(user.clone()).or_default().push(session);
        true
    }

    /// The user of a session, if it is registered.
    pub(super) fn user(&self, session: u64) -> Option<&UserId> {
        self.sessions.get(&session)?.user.as_ref()
    }

    /// The sessions of `user`.
    pub(super) fn of_user(&self, user: &UserId) -> &[u64] {
        self.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// Removes a session, and returns it with its subscriptions.
    pub(super) fn take(&mut self, session: u64) -> Option<IndexedSession> {
        let entry = self.sessions.swap_remove(&session)?;
        if let Some(user) = &entry.user
            && let Some(sessions) = self.users.get_mut(user)
        {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.users.remove(user);
            }
        }
        Some(entry)
    }

    /// Where a subscription is, if it exists.
    pub(super) fn held(&self, session: u64, subscription: u32) -> Option<IndexedSubscription> {
        let entry = self.sessions.get(&session)?;
        entry.held.iter().find(|held| held.subscription == subscription).copied()
    }

    /// Adds a subscription.
    pub(super) fn hold(&mut self, session: u64, held: IndexedSubscription) {
        let entry = self.sessions.entry(session).or_default();
        if entry.held.is_empty() {
            entry.held.reserve_exact(1);
        }
        entry.held.push(held);
    }

    /// A subscription has another place among those of its filter now.
    pub(super) fn moved(&mut self, session: u64, subscription: u32, place: u32) {
        let held = self.sessions.get_mut(&session).and_then(|entry| {
            // A session has few subscriptions, so this is rarely slower than the lookup.
            entry.held.iter_mut().find(|held| held.subscription == subscription)
        });
        if let Some(held) = held {
            held.place = place;
        }
    }

    /// Removes a subscription.
    pub(super) fn release(&mut self, session: u64, subscription: u32) {
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        if let Some(at) = entry.held.iter().position(|held| held.subscription == subscription) {
            entry.held.swap_remove(at);
        }
        if entry.user.is_none() && entry.held.is_empty() {
            self.sessions.swap_remove(&session);
        }
    }

    /// The subscriptions of all sessions of `user`.
    pub(super) fn held_by(&self, user: &UserId) -> impl Iterator<Item = &IndexedSubscription> {
        let sessions = self.users.get(user).into_iter().flatten();
        sessions.filter_map(|session| self.sessions.get(session)).flat_map(|entry| &entry.held)
    }

    /// The number of sessions.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The session at a place. Places change when sessions are removed.
    pub(super) fn at(&self, place: usize) -> Option<u64> {
        self.sessions.get_index(place).map(|(session, _)| *session)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.users.is_empty()
    }
}
