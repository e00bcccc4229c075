//! The saved subscriptions of users: a bucket in NATS has them, and every gateway applies them to the sessions of their
//! users.
//!
//! * `record` is what a key of the bucket holds, and how it is changed; `store` reads and writes it, and `writers`
//!   is the order of those who change one user;
//! * `requests` serves those who read and change it over HTTP, on either server, and `bulk` those who change it for
//!   many users at once;
//! * `driver` follows the bucket, `book` is what it knows of it, `turns` says whom it writes next, and [`SavedTable`] is
//!   where shards look up the saved subscriptions of a user;
//! * `in_session` decides what a session does with them (`shard/saved.rs`).

pub(crate) mod book;
pub(crate) mod bulk;
pub(crate) mod driver;
pub(crate) mod in_session;
pub(crate) mod record;
pub(crate) mod requests;
pub(crate) mod store;
mod turns;
mod writers;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use tickwire_core::ids::UserId;
use tickwire_core::protocol::{SubscriptionName, SubscriptionRequest};

/// The saved subscriptions of a user, by name.
pub(crate) type SavedSet = BTreeMap<SubscriptionName, Arc<SubscriptionRequest>>;

/// The saved subscriptions of all users. The driver writes it, and shards read it when a session gets its saved
/// subscriptions. The lock is held for one operation on the map, and no event meets it.
#[derive(Debug, Default)]
pub(crate) struct SavedTable {
    sets: RwLock<HashMap<UserId, Arc<SavedSet>>>,
}

impl SavedTable {
    /// The saved subscriptions of a user.
    pub(crate) fn of(&self, user: &UserId) -> Arc<SavedSet> {
        self.sets.read().unwrap_or_else(PoisonError::into_inner).get(user).cloned().unwrap_or_default()
    }

    /// Replaces the saved subscriptions of a user.
    pub(crate) fn set(&self, user: &UserId, set: &Arc<SavedSet>) {
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        if set.is_empty() {
            sets.remove(user);
        } else {
            sets.insert(user.clone(), Arc::clone(set));
        }
    }
}
