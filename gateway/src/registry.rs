//! The registry: every session of this gateway with its subscriptions, for those who ask about a user.
//!
//! It is written when a session begins, ends, or changes its subscriptions, and read when somebody asks. No event meets
//! it: what changes with every event, such as counts, stays in the shard (`shard/inquiry.rs`).
//!
//! All sessions of a user are in one shard, so the registry has one part for each shard. Only the shard's thread writes
//! its part, and the lock of a part is held for one operation on a map. So a question about one user delays one shard at
//! most, for as long as the sessions of that user take to copy. The registry is as large as the sessions: filters are
//! shared with the index.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tickwire_core::ids::UserId;
use tickwire_core::protocol::{Encoding, Subscription, SubscriptionName};

use crate::messages::SessionId;
use crate::new_session::shard_of;

/// The subscriptions of a session, by name.
pub(crate) type NamedSubscriptions = BTreeMap<SubscriptionName, Subscription>;

/// What the registry knows of a session.
#[derive(Clone, Debug)]
pub(crate) struct RegisteredSession {
    /// The address of the client, as far as proxies are trusted.
    pub(crate) address: IpAddr,
    /// When it arrived, since 1970.
    pub(crate) opened: Duration,
    /// How its frames are encoded.
    pub(crate) encoding: Encoding,
    /// Its active subscriptions.
    pub(crate) subscriptions: NamedSubscriptions,
}

/// How much the registry has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegistrySize {
    pub(crate) users: usize,
    pub(crate) sessions: usize,
    pub(crate) subscriptions: usize,
}

/// A session in the registry. There are many with few subscriptions each, so it has no room for more.
#[derive(Debug)]
struct Entry {
    id: SessionId,
    address: IpAddr,
    opened: Duration,
    encoding: Encoding,
    subscriptions: Box<[(SubscriptionName, Subscription)]>,
}

/// The sessions of one shard.
#[derive(Debug, Default)]
struct Part {
    users: HashMap<UserId, Vec<Entry>>,
    sessions: usize,
    subscriptions: usize,
}

/// The registry.
#[derive(Debug)]
pub(crate) struct SessionRegistry {
    parts: Vec<RwLock<Part>>,
}

impl SessionRegistry {
    /// An empty registry for a gateway with this many shards.
    pub(crate) fn new(shards: u16) -> Self {
        Self { parts: (0..shards).map(|_| RwLock::default()).collect() }
    }

    /// How many shards the gateway has.
    pub(crate) fn shards(&self) -> usize {
        self.parts.len()
    }

    /// Adds a session.
    pub(crate) fn open(&self, user: &UserId, id: SessionId, session: RegisteredSession) {
        self.write(id, |part| {
            part.close(user, id);
            let RegisteredSession { address, opened, encoding, subscriptions } = session;
            let subscriptions: Box<[_]> = subscriptions.into_iter().collect();
            part.sessions += 1;
            part.subscriptions += subscriptions.len();
            let entries = part.users.entry(user.clone()).or_default();
            entries.reserve_exact(1);
            entries.push(Entry { id, address, opened, encoding, subscriptions });
        });
    }

    /// Replaces the subscriptions of a session, if it is here.
    pub(crate) fn set_subscriptions(&self, user: &UserId, id: SessionId, subscriptions: NamedSubscriptions) {
        self.write(id, |part| {
            let mut entries = part.users.get_mut(user).into_iter().flatten();
            let Some(entry) = entries.find(|entry| entry.id == id) else { return };
            part.subscriptions = part.subscriptions + subscriptions.len() - entry.subscriptions.len();
            entry.subscriptions = subscriptions.into_iter().collect();
        });
    }

    /// Removes a session, if it is here.
    pub(crate) fn close(&self, user: &UserId, id: SessionId) {
        self.write(id, |part| part.close(user, id));
    }

    /// The sessions of a user now.
    pub(crate) fn sessions_of(&self, user: &UserId) -> BTreeMap<SessionId, RegisteredSession> {
        let Some(part) = self.parts.get(shard_of(user, self.parts.len())) else { return BTreeMap::new() };
        let part = part.read().unwrap_or_else(PoisonError::into_inner);
        let entries = part.users.get(user).into_iter().flatten();
        let session = |entry: &Entry| RegisteredSession {
            address: entry.address,
            opened: entry.opened,
            encoding: entry.encoding,
            subscriptions: entry.subscriptions.iter().cloned().collect(),
        };
        entries.map(|entry| (entry.id, session(entry))).collect()
    }

    /// Whether a user has a session now.
    pub(crate) fn has_sessions_of(&self, user: &UserId) -> bool {
        let Some(part) = self.parts.get(shard_of(user, self.parts.len())) else { return false };
        part.read().unwrap_or_else(PoisonError::into_inner).users.contains_key(user)
    }

    /// How much is in all parts now.
    pub(crate) fn size(&self) -> RegistrySize {
        self.parts.iter().fold(RegistrySize::default(), |size, part| {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            RegistrySize {
                users: size.users + part.users.len(),
                sessions: size.sessions + part.sessions,
                subscriptions: size.subscriptions + part.subscriptions,
            }
        })
    }

    /// Changes the part of a session's shard.
    fn write(&self, id: SessionId, change: impl FnOnce(&mut Part)) {
        if let Some(part) = self.parts.get(usize::from(id.shard)) {
            change(&mut part.write().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Part {
    fn close(&mut self, user: &UserId, id: SessionId) {
        let Some(entries) = self.users.get_mut(user) else { return };
        let Some(at) = entries.iter().position(|entry| entry.id == id) else { return };
        let former = entries.swap_remove(at);
        if entries.is_empty() {
            self.users.remove(user);
        }
        self.sessions -= 1;
        self.subscriptions -= former.subscriptions.len();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tickwire_core::filter::Filter;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn named(names: &[&str]) -> NamedSubscriptions {
        let subscription = Subscription {
            filter: Arc::new(Filter::default()),
            window_ms: 100,
            max_events_per_hour: None,
            alert: false,
        };
        names.iter().map(|name| (SubscriptionName::new(name).unwrap(), subscription.clone())).collect()
    }

    fn session() -> RegisteredSession {
        RegisteredSession {
            address: [127, 0, 0, 1].into(),
            opened: Duration::from_secs(1),
            encoding: Encoding::Json,
            subscriptions: NamedSubscriptions::new(),
        }
    }

    #[test]
    fn sessions_are_found_by_user_until_they_close() {
        let registry = SessionRegistry::new(4);
        let (ann, bob) = (user("ann"), user("bob"));
        let id = |user: &UserId, number| SessionId { shard: shard_of(user, 4) as u16, number };
        for number in [1, 2] {
            registry.open(&ann, id(&ann, number), session());
        }
        registry.open(&bob, id(&bob, 1), session());
        registry.set_subscriptions(&ann, id(&ann, 2), named(&["a", "b"]));
        assert_eq!(registry.size(), RegistrySize { users: 2, sessions: 3, subscriptions: 2 });
        let found = registry.sessions_of(&ann);
        assert_eq!(found.keys().map(|id| id.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(found[&id(&ann, 2)].subscriptions, named(&["a", "b"]));

        registry.set_subscriptions(&ann, id(&ann, 2), named(&["b"]));
        registry.close(&ann, id(&ann, 1));
        assert_eq!(registry.size(), RegistrySize { users: 2, sessions: 2, subscriptions: 1 });
        registry.close(&ann, id(&ann, 2));
        assert!(registry.sessions_of(&ann).is_empty());
        assert_eq!(registry.size(), RegistrySize { users: 1, sessions: 1, subscriptions: 0 });
    }

    #[test]
    fn what_is_not_here_changes_nothing() {
        let registry = SessionRegistry::new(1);
        let (ann, id) = (user("ann"), SessionId { shard: 0, number: 7 });
        registry.set_subscriptions(&ann, id, named(&["a"]));
        registry.close(&ann, id);
        registry.open(&ann, id, session());
        // A number is never used twice, but the counts hold even then.
        registry.open(&ann, id, session());
        assert_eq!(registry.size(), RegistrySize { users: 1, sessions: 1, subscriptions: 0 });
        registry.close(&ann, id);
        registry.close(&ann, id);
        registry.open(&ann, SessionId { shard: 9, number: 1 }, session());
        assert_eq!(registry.size(), RegistrySize::default());
    }
}
