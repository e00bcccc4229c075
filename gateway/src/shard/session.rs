//! One session: who it is, what it subscribed to, what it asked for and awaits, and what waits to be sent to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tickwire_core::event::Timestamp;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Millis, Seq, UserId};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Id, Subscription, SubscriptionName, SubscriptionSelector};
use tokio::sync::OwnedSemaphorePermit;

use crate::backfill::request::Backfill;
use crate::delivery::Delivery;
use crate::handshake::auth::TokenTerm;
use crate::limits::budget::Budget;
use crate::outbox::Outbox;
use crate::shard::mistakes::Mistakes;
use crate::shard::pulse::Pulse;
use crate::shard::turns::SocketReading;

/// What a session asked for and is answered in the order of asking.
#[derive(Debug)]
pub(crate) enum Request {
    /// Waits until it is confirmed.
    Subscribe { id: Option<Id>, name: SubscriptionName, subscription: Subscription, past: Option<BackfillBegin> },
    /// Waits until all of it is confirmed.
    Resume { id: Option<Id>, from: Position, subscriptions: Vec<(SubscriptionName, Subscription)> },
    /// Takes effect as soon as it is its turn.
    Unsubscribe { id: Option<Id>, chosen: SubscriptionSelector },
    /// Answered as soon as it is its turn.
    List { id: Option<Id> },
}

/// Where the past begins that a subscription is asked for with.
#[derive(Clone, Debug)]
pub(crate) enum BackfillBegin {
    /// After this position.
    At(Position),
    /// From this time on; what is older was wanted as well if it `is_cut`.
    From { time: Timestamp, is_cut: bool },
}

impl Request {
    /// The id of the frame that asked.
    pub(crate) fn into_id(self) -> Option<Id> {
        let (Self::Subscribe { id, .. } | Self::Resume { id, .. } | Self::Unsubscribe { id, .. } | Self::List { id }) =
            self;
        id
    }

    /// What it subscribes to.
    fn wanted(&self) -> Vec<(&SubscriptionName, &Subscription)> {
        match self {
            Self::Subscribe { name, subscription, .. } => vec![(name, subscription)],
            Self::Resume { subscriptions, .. } => subscriptions.iter().map(|(name, wanted)| (name, wanted)).collect(),
            Self::Unsubscribe { .. } | Self::List { .. } => Vec::new(),
        }
    }

    /// Whether it waits for a confirmation.
    pub(crate) fn is_confirmed(&self) -> bool {
        matches!(self, Self::Subscribe { .. } | Self::Resume { .. })
    }

    /// Whether it wants the past.
    pub(crate) fn wants_past(&self) -> bool {
        matches!(self, Self::Subscribe { past: Some(_), .. } | Self::Resume { .. })
    }
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionStage {
    /// Its user's events are not yet sure to come here.
    Joining,
    /// It was welcomed.
    Open,
    /// It was told that it ends; what it sends is not looked at.
    Closing,
}

/// A subscription that is in force.
#[derive(Debug)]
pub(crate) struct ActiveSubscription {
    pub(crate) name: SubscriptionName,
    /// Its number within the session, never used twice.
    pub(crate) number: u32,
    pub(crate) subscription: Subscription,
}

/// A session and its socket, owned by its shard.
///
/// In the order of its fields, and the ones that every delivery reads stand together: what a delivery costs beside the
/// system call is mostly the memory that it has to wait for.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Session<S> {
    pub(crate) stage: SessionStage,
    /// Whether the shard already means to look at its outbox in this turn.
    pub(crate) touched: bool,
    /// Whether any of its subscriptions has a quota.
    pub(crate) has_quotas: bool,
    /// Whether it was told of an outage of the cluster whose end it has yet to be told of.
    pub(crate) knows_outage: bool,
    pub(crate) reading: SocketReading,
    /// Sessions of more weight are served first.
    pub(crate) weight: u8,
    /// Events of the frame that the socket has not wholly taken yet.
    pub(crate) half_sent: u32,
    /// The user's account among those of the shard.
    pub(crate) account: usize,
    /// What it lacks of the past, until it has caught up.
    pub(crate) backfill: Option<Box<Backfill>>,
    /// Per partition, up to where an earlier session was given everything, while this gateway is not as far itself.
    pub(crate) ahead: Option<Box<[Seq]>>,
    /// When its outbox is due, as the shard's timers know it.
    pub(crate) flush_at: Option<Millis>,
    pub(crate) outbox: Outbox,
    pub(crate) socket: S,
    /// What is in force, by name.
    pub(crate) subscriptions: Vec<ActiveSubscription>,
    pub(crate) last_subscription: u32,
    pub(crate) user: UserId,
    /// What it may ask for.
    pub(crate) commands: Budget,
    pub(crate) requests: VecDeque<Request>,
    /// Its malformed frames of late.
    pub(crate) mistakes: Mistakes,
    /// Its signs of life.
    pub(crate) pulse: Pulse,
    /// How long its token is good for; `None` for one that came without.
    pub(crate) term: Option<TokenTerm>,
    /// When its next heartbeat is due; until it is welcomed, when it came.
    pub(crate) beat_at: Millis,
    /// When it is next to be looked at: joined too late, due a heartbeat, its token about to expire, or closing too long.
    pub(crate) attention: Millis,
    /// Its place among the sessions that this gateway takes.
    pub(crate) _place: OwnedSemaphorePermit,
}

impl<S> Session<S> {
    /// Puts a subscription in force. It has the number of the one of this name that it replaces, so that what still
    /// waits for that one counts for this; returns both.
    pub(crate) fn hold(&mut self, name: SubscriptionName, subscription: Subscription) -> (u32, Option<Subscription>) {
        let held = match self.subscriptions.binary_search_by(|other| other.name.cmp(&name)) {
            Ok(at) => {
                let held = &mut self.subscriptions[at];
                (held.number, Some(std::mem::replace(&mut held.subscription, subscription)))
            }
            Err(at) => {
                self.last_subscription += 1;
                let number = self.last_subscription;
                self.subscriptions.insert(at, ActiveSubscription { name, number, subscription });
                (number, None)
            }
        };
        self.look_for_quotas();
        held
    }

    /// Whether an event that comes now is not for the outbox: an earlier session had it, or it will come as the past does.
    pub(crate) fn is_given(&self, delivery: &Delivery) -> bool {
        let had = self.ahead.as_ref().is_some_and(|ahead| delivery.seq <= ahead[usize::from(delivery.partition.0)]);
        had || self.backfill.as_ref().is_some_and(|backfill| backfill.is_behind())
    }

    /// Moves a position on to where an earlier session was, if that was further than its gateway.
    pub(crate) fn raise(&self, position: &mut Position) {
        if let Some(ahead) = &self.ahead {
            position.seqs.iter_mut().zip(ahead).for_each(|(seq, ahead)| *seq = (*ahead).max(*seq));
        }
    }

    /// Whether there is anything that may be sent or told now: while it catches up, of the past.
    pub(crate) fn wants_out(&self) -> bool {
        self.backfill.as_ref().map_or_else(|| self.outbox.wants_out(), |backfill| backfill.outbox.wants_out())
    }

    /// Takes a subscription out of force.
    pub(crate) fn release(&mut self, name: &SubscriptionName) -> Option<ActiveSubscription> {
        let at = self.subscriptions.binary_search_by(|held| held.name.cmp(name)).ok()?;
        let released = self.subscriptions.remove(at);
        self.look_for_quotas();
        Some(released)
    }

    /// Takes all subscriptions out of force.
    pub(crate) fn release_all(&mut self) -> Vec<ActiveSubscription> {
        self.has_quotas = false;
        std::mem::take(&mut self.subscriptions)
    }

    /// Keeps, in place of a subscription's filter, an equal one that others share.
    pub(crate) fn share(&mut self, number: u32, filter: Arc<Filter>) {
        if let Some(held) = self.subscriptions.iter_mut().find(|held| held.number == number) {
            held.subscription.filter = filter;
        }
    }

    /// The subscriptions as a client is shown them.
    pub(crate) fn shown(&self) -> BTreeMap<SubscriptionName, Subscription> {
        self.subscriptions.iter().map(|held| (held.name.clone(), held.subscription.clone())).collect()
    }

    /// The number of subscriptions, were all requests granted.
    pub(crate) fn wanted_subscriptions(&self, added: &SubscriptionName) -> usize {
        let mut names: Vec<&SubscriptionName> = self.subscriptions.iter().map(|held| &held.name).collect();
        names.extend(self.requests.iter().flat_map(Request::wanted).map(|(name, _)| name));
        names.push(added);
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// How much its filters are together by some measure, were all requests granted and `name` given `filter`.
    pub(crate) fn wanted(&self, name: &SubscriptionName, filter: &Filter, measure: impl Fn(&Filter) -> usize) -> usize {
        let mut wanted: BTreeMap<&SubscriptionName, usize> =
            self.subscriptions.iter().map(|held| (&held.name, measure(&held.subscription.filter))).collect();
        for (name, subscription) in self.requests.iter().flat_map(Request::wanted) {
            wanted.insert(name, measure(&subscription.filter));
        }
        wanted.insert(name, measure(filter));
        wanted.values().sum()
    }

    /// How many bytes the filters take that it waits for.
    pub(crate) fn asked_bytes(&self) -> usize {
        self.requests.iter().flat_map(Request::wanted).map(|(_, wanted)| wanted.filter.bytes()).sum()
    }

    fn look_for_quotas(&mut self) {
        self.has_quotas = self.subscriptions.iter().any(|held| held.subscription.max_events_per_hour.is_some());
    }

    /// Every filter that the edge counts for this session.
    pub(crate) fn filters(&self) -> Vec<Arc<Filter>> {
        let held = self.subscriptions.iter().map(|held| Arc::clone(&held.subscription.filter));
        let asked = self.requests.iter().flat_map(Request::wanted).map(|(_, wanted)| Arc::clone(&wanted.filter));
        held.chain(asked).collect()
    }
}

/// The subscription of this number among those of a session.
pub(crate) fn held(subscriptions: &[ActiveSubscription], number: u32) -> Option<&ActiveSubscription> {
    subscriptions.iter().find(|held| held.number == number)
}

/// How many symbols a filter names.
pub(crate) fn symbols(filter: &Filter) -> usize {
    filter.symbols.as_ref().map_or(0, std::collections::BTreeSet::len)
}
