//! One session: who it is, what it subscribed to, what it asked for and awaits, and what waits to be sent to it.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tickwire_core::filter::Filter;
use tickwire_core::frames::{Chosen, Id, Subscription, SubscriptionName};
use tickwire_core::ids::UserId;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::outbox::Outbox;
use crate::socket::Socket;

/// What a session asked for and is answered in the order of asking.
#[derive(Debug)]
pub(crate) enum Request {
    /// Waits until it is confirmed.
    Subscribe { id: Option<Id>, name: SubscriptionName, filter: Arc<Filter>, window_ms: u16 },
    /// Takes effect as soon as it is its turn.
    Unsubscribe { id: Option<Id>, chosen: Chosen },
    /// Answered as soon as it is its turn.
    List { id: Option<Id> },
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its user's events are not yet sure to come here.
    Joining,
    /// It was welcomed.
    Open,
    /// It was told that it ends; what it sends is not looked at.
    Closing,
}

/// A subscription in force.
#[derive(Debug)]
pub(crate) struct Held {
    /// Names it in the index: counted up by the session, never used twice.
    pub(crate) number: u32,
    pub(crate) subscription: Subscription,
}

/// A session and its socket, owned by its shard.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) user: UserId,
    pub(crate) stage: Stage,
    pub(crate) socket: Socket,
    pub(crate) outbox: Outbox,
    pub(crate) subscriptions: BTreeMap<SubscriptionName, Held>,
    pub(crate) last_subscription: u32,
    pub(crate) requests: VecDeque<Request>,
    /// Frames that were refused so far.
    pub(crate) refused: u32,
    /// When the client last sent anything.
    pub(crate) heard: Instant,
    /// When it is next to be looked at: joined too late, due a heartbeat, or closing too long.
    pub(crate) attention: Instant,
    /// When its outbox is due, as the shard's timers know it.
    pub(crate) flush_at: Option<Instant>,
    /// Whether the shard already means to look at its outbox in this turn.
    pub(crate) touched: bool,
    /// Wakes the task that watches the socket, when there is something new to watch for.
    pub(crate) rewatch: Rc<Notify>,
    /// Its place among the sessions that this gateway takes.
    pub(crate) _place: OwnedSemaphorePermit,
}

impl Session {
    /// The number of subscriptions, were all requests granted.
    pub(crate) fn wanted_subscriptions(&self, added: &SubscriptionName) -> usize {
        let mut names: Vec<&SubscriptionName> = self.subscriptions.keys().collect();
        names.extend(self.requests.iter().filter_map(|request| match request {
            Request::Subscribe { name, .. } => Some(name),
            Request::Unsubscribe { .. } | Request::List { .. } => None,
        }));
        names.push(added);
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// The number of symbols named, were all requests granted and `name` given `filter`.
    pub(crate) fn wanted_symbols(&self, name: &SubscriptionName, filter: &Filter) -> usize {
        let mut wanted: BTreeMap<&SubscriptionName, usize> =
            self.subscriptions.iter().map(|(name, held)| (name, symbols(&held.subscription.filter))).collect();
        for request in &self.requests {
            if let Request::Subscribe { name, filter, .. } = request {
                wanted.insert(name, symbols(filter));
            }
        }
        wanted.insert(name, symbols(filter));
        wanted.values().sum()
    }

    /// Every filter that the edge counts for this session.
    pub(crate) fn filters(&self) -> Vec<Arc<Filter>> {
        let held = self.subscriptions.values().map(|held| Arc::clone(&held.subscription.filter));
        let asked = self.requests.iter().filter_map(|request| match request {
            Request::Subscribe { filter, .. } => Some(Arc::clone(filter)),
            Request::Unsubscribe { .. } | Request::List { .. } => None,
        });
        held.chain(asked).collect()
    }
}

fn symbols(filter: &Filter) -> usize {
    filter.symbols.as_ref().map_or(0, std::collections::BTreeSet::len)
}
