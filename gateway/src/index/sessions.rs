//! Who sits in a shard, and where each of their subscriptions stands in the index: what makes leaving, and events for
//! one user, cheap.

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
    /// Whose it is; `None` until that is told.
    pub(super) user: Option<UserId>,
    pub(super) held: Vec<IndexedSubscription>,
}

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexedSubscription {
    pub(super) subscription: u32,
    pub(super) slot: Slot,
    /// Its place among the subscribers of its filter.
    pub(super) place: u32,
}

impl IndexedSessions {
    /// Returns whether the session was not seated before.
    pub(super) fn register(&mut self, user: &UserId, session: u64) -> bool {
        let entry = self.sessions.entry(session).or_default();
        if entry.user.is_some() {
            return false;
        }
        entry.user = Some(user.clone());
        self.users.entry(user.clone()).or_default().push(session);
        true
    }

    /// Whose session it is, if that was told.
    pub(super) fn user(&self, session: u64) -> Option<&UserId> {
        self.sessions.get(&session)?.user.as_ref()
    }

    /// Takes a session out, with what it still holds.
    pub(super) fn take(&mut self, session: u64) -> Option<IndexedSession> {
        let entry = self.sessions.swap_remove(&session)?;
        if let Some(user) = &entry.user
            && let Some(sessions) = self.users.get_mut(user)
        {
            sessions.retain(|seated| *seated != session);
            if sessions.is_empty() {
                self.users.remove(user);
            }
        }
        Some(entry)
    }

    /// Where a subscription stands, if it does.
    pub(super) fn held(&self, session: u64, subscription: u32) -> Option<IndexedSubscription> {
        let entry = self.sessions.get(&session)?;
        entry.held.iter().find(|held| held.subscription == subscription).copied()
    }

    /// A subscription stands somewhere from now on.
    pub(super) fn hold(&mut self, session: u64, held: IndexedSubscription) {
        let entry = self.sessions.entry(session).or_default();
        if entry.held.is_empty() {
            entry.held.reserve_exact(1);
        }
        entry.held.push(held);
    }

    /// A subscription stands at another place among those of its filter.
    pub(super) fn moved(&mut self, session: u64, subscription: u32, place: u32) {
        let held = self.sessions.get_mut(&session).and_then(|entry| {
            // They are few; only a session that is full makes this longer than the lookup.
            entry.held.iter_mut().find(|held| held.subscription == subscription)
        });
        if let Some(held) = held {
            held.place = place;
        }
    }

    /// A subscription stands nowhere any more.
    pub(super) fn release(&mut self, session: u64, subscription: u32) {
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        if let Some(at) = entry.held.iter().position(|held| held.subscription == subscription) {
            entry.held.swap_remove(at);
        }
        if entry.user.is_none() && entry.held.is_empty() {
            self.sessions.swap_remove(&session);
        }
    }

    /// What the sessions of `user` hold.
    pub(super) fn held_by(&self, user: &UserId) -> impl Iterator<Item = &IndexedSubscription> {
        let sessions = self.users.get(user).into_iter().flatten();
        sessions.filter_map(|session| self.sessions.get(session)).flat_map(|entry| &entry.held)
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The session at a place; places change when sessions leave.
    pub(super) fn at(&self, place: usize) -> Option<u64> {
        self.sessions.get_index(place).map(|(session, _)| *session)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.users.is_empty()
    }
}
