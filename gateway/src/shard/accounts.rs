//! The accounts of a shard's users: one for all sessions of a user. It is kept after the last session as long as its
//! counts still limit the user.

use std::collections::{HashMap, VecDeque};
use std::ops::{Index, IndexMut};

use slab::Slab;
use tickwire_core::ids::{Millis, UserId};

use crate::limits::account::Account;

/// How many accounts without sessions one [`Accounts::tidy`] checks.
const TIDY: usize = 256;

/// Accounts by their place, which sessions store, and by user.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    places: Slab<(UserId, Account)>,
    by_user: HashMap<UserId, usize>,
    /// The places of accounts without sessions, which may be removed later.
    idle: VecDeque<usize>,
}

impl Accounts {
    /// Adds a session of `user` with a rate of `rate` events a second. Returns the account's place.
    pub(crate) fn join(&mut self, user: &UserId, rate: u32) -> usize {
        let at = match self.by_user.get(user) {
            Some(at) => *at,
            None => {
                let at = self.places.insert((user.clone(), Account::new(rate)));
                self.by_user.insert(user.clone(), at);
                at
            }
        };
        let account = &mut self[at];
        account.sessions += 1;
        account.rate = rate;
        at
    }

    /// Removes a session from the account at this place.
    pub(crate) fn leave(&mut self, now: Millis, at: usize) {
        self[at].sessions -= 1;
        if self[at].sessions == 0 {
            self.idle.push_back(at);
            self.tidy(now);
        }
    }

    /// Removes accounts without sessions that no longer limit their user.
    pub(crate) fn tidy(&mut self, now: Millis) {
        for _ in 0..self.idle.len().min(TIDY) {
            let Some(at) = self.idle.pop_front() else { return };
            let Some((_, account)) = self.places.get_mut(at) else { continue };
            if account.is_removable(now) {
                let (user, _) = self.places.remove(at);
                self.by_user.remove(&user);
            } else if account.sessions == 0 {
                self.idle.push_back(at);
            }
        }
    }
}

impl Index<usize> for Accounts {
    type Output = Account;

    fn index(&self, at: usize) -> &Account {
        &self.places[at].1
    }
}

impl IndexMut<usize> for Accounts {
    fn index_mut(&mut self, at: usize) -> &mut Account {
        &mut self.places[at].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_outlives_its_sessions_while_its_counts_matter() {
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        let mut accounts = Accounts::default();
        let at = accounts.join(&ann, 10);
        assert_eq!(accounts.join(&ann, 20), at);
        assert_eq!((accounts[at].sessions, accounts[at].rate), (2, 20));
        accounts[at].sent(Millis(0), 20);
        accounts.leave(Millis(0), at);
        accounts.leave(Millis(0), at);
        // A new session does not reset the user's rate.
        let again = accounts.join(&ann, 20);
        assert_eq!((again, accounts[again].allowance(Millis(500))), (at, 0));
        accounts.leave(Millis(500), again);
        accounts.tidy(Millis(2_000));
        assert!(accounts.places.is_empty() && accounts.by_user.is_empty());
        let bobs = accounts.join(&bob, 0);
        accounts.leave(Millis(2_000), bobs);
        assert!(accounts.places.is_empty() && accounts.idle.is_empty());
    }
}
