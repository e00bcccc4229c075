//! Who sits in a shard, and where each of their subscriptions stands in the index: what makes leaving, and events for
//! one user, cheap.

use std::collections::HashMap;

use indexmap::IndexMap;
use tickwire_core::ids::UserId;

use super::{Hasher, Slot};

/// Sessions and users.
#[derive(Debug, Default)]
pub(super) struct Seats {
    sessions: IndexMap<u64, Seat, Hasher>,
    users: HashMap<UserId, Vec<u64>, Hasher>,
}

/// One session.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Whose it is; `None` until that is told.
    pub(super) user: Option<UserId>,
    pub(super) held: Vec<Held>,
}

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) subscription: u32,
    pub(super) slot: Slot,
    /// Its place among the subscribers of its filter.
    pub(super) place: u32,
}

impl Seats {
    /// Returns whether the session was not seated before.
    pub(super) fn sit(&mut self, user: &UserId, session: u64) -> bool {
        let seat = self.sessions.entry(session).or_default();
        if seat.user.is_some() {
            return false;
        }
        seat.user = Some(user.clone());
        self.users.entry(user.clone()).or_default().push(session);
        true
    }

    /// Whose session it is, if that was told.
    pub(super) fn user(&self, session: u64) -> Option<&UserId> {
        self.sessions.get(&session)?.user.as_ref()
    }

    /// Takes a session out, with what it still holds.
    pub(super) fn take(&mut self, session: u64) -> Option<Seat> {
        let seat = self.sessions.swap_remove(&session)?;
        if let Some(user) = &seat.user
            && let Some(sessions) = self.users.get_mut(user)
        {
            sessions.retain(|seated| *seated != session);
            if sessions.is_empty() {
                self.users.remove(user);
            }
        }
        Some(seat)
    }

    /// Where a subscription stands, if it does.
    pub(super) fn held(&self, session: u64, subscription: u32) -> Option<Held> {
        let seat = self.sessions.get(&session)?;
        seat.held.iter().find(|held| held.subscription == subscription).copied()
    }

    /// A subscription stands somewhere from now on.
    pub(super) fn hold(&mut self, session: u64, held: Held) {
        let seat = self.sessions.entry(session).or_default();
        if seat.held.is_empty() {
            seat.held.reserve_exact(1);
        }
        seat.held.push(held);
    }

    /// A subscription stands at another place among those of its filter.
    pub(super) fn moved(&mut self, session: u64, subscription: u32, place: u32) {
        let held = self.sessions.get_mut(&session).and_then(|seat| {
            // They are few; only a session that is full makes this longer than the lookup.
            seat.held.iter_mut().find(|held| held.subscription == subscription)
        });
        if let Some(held) = held {
            held.place = place;
        }
    }

    /// A subscription stands nowhere any more.
    pub(super) fn release(&mut self, session: u64, subscription: u32) {
        let Some(seat) = self.sessions.get_mut(&session) else { return };
        if let Some(at) = seat.held.iter().position(|held| held.subscription == subscription) {
            seat.held.swap_remove(at);
        }
        if seat.user.is_none() && seat.held.is_empty() {
            self.sessions.swap_remove(&session);
        }
    }

    /// What the sessions of `user` hold.
    pub(super) fn held_by(&self, user: &UserId) -> impl Iterator<Item = &Held> {
        let sessions = self.users.get(user).into_iter().flatten();
        sessions.filter_map(|session| self.sessions.get(session)).flat_map(|seat| &seat.held)
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
