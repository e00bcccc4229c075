//! One session: its user, its subscriptions, the requests that wait for answers, and what waits to be sent to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tickwire_core::event::Timestamp;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Millis, Seq, UserId};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Id, Subscription, SubscriptionName, SubscriptionSelector};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::TokenTerm;
use crate::backfill::request::Backfill;
use crate::delivery::Delivery;
use crate::granting::FilterSize;
use crate::limits::budget::Budget;
use crate::outbox::Outbox;
use crate::record::{Record, Sent};
use crate::reminders::in_session::SessionReminders;
use crate::saved::in_session::SessionSaved;
use crate::shard::liveness::Liveness;
use crate::shard::malformed_frames::MalformedFrames;
use crate::shard::turns::SocketReading;

/// A request that waits for its answer. Requests are answered in the order of their arrival.
#[derive(Debug)]
pub(crate) enum Request {
    /// Waits until it is confirmed.
    Subscribe { id: Option<Id>, name: SubscriptionName, subscription: Subscription, past: Option<BackfillBegin> },
    /// Waits until all of it is confirmed.
    Resume { id: Option<Id>, from: Position, subscriptions: Vec<(SubscriptionName, Subscription)> },
    /// A change by the saved subscriptions of the user. Waits until all of it is confirmed, unless it only removes.
    Saved { change: SavedChange, is_confirmed: bool },
    /// Takes effect as soon as it is its turn.
    Unsubscribe { id: Option<Id>, chosen: SubscriptionSelector },
    /// Answered as soon as it is its turn.
    List { id: Option<Id> },
}

/// A change of a session's subscriptions that its client has not asked for.
#[derive(Debug)]
pub(crate) struct SavedChange {
    /// The subscriptions to end.
    pub(crate) removed: Vec<SubscriptionName>,
    /// Those to add or replace.
    pub(crate) granted: Vec<(SubscriptionName, Subscription)>,
    /// Whether the session was open for a while. Otherwise these are the ones that it begins with.
    pub(crate) is_live: bool,
}

/// Where the backfill of a subscription begins.
#[derive(Clone, Debug)]
pub(crate) enum BackfillBegin {
    /// After this position.
    At(Position),
    /// From this time on. `is_cut`: the client asked for older events too.
    From { time: Timestamp, is_cut: bool },
}

impl Request {
    /// The id of the client's frame.
    pub(crate) fn into_id(self) -> Option<Id> {
        match self {
            Self::Subscribe { id, .. } | Self::Resume { id, .. } | Self::Unsubscribe { id, .. } | Self::List { id } => {
                id
            }
            Self::Saved { .. } => None,
        }
    }

    /// The subscriptions that it asks for.
    fn wanted(&self) -> Vec<(&SubscriptionName, &Subscription)> {
        match self {
            Self::Subscribe { name, subscription, .. } => vec![(name, subscription)],
            Self::Resume { subscriptions, .. }
            | Self::Saved { change: SavedChange { granted: subscriptions, .. }, .. } => {
                subscriptions.iter().map(|(name, wanted)| (name, wanted)).collect()
            }
            Self::Unsubscribe { .. } | Self::List { .. } => Vec::new(),
        }
    }

    /// The size of the filters that it asks for, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.wanted().into_iter().map(|(_, wanted)| wanted.filter.bytes()).sum()
    }

    /// Whether it needs a confirmation.
    pub(crate) fn is_confirmed(&self) -> bool {
        match self {
            Self::Subscribe { .. } | Self::Resume { .. } => true,
            Self::Saved { is_confirmed, .. } => *is_confirmed,
            Self::Unsubscribe { .. } | Self::List { .. } => false,
        }
    }

    /// Whether it asks for a backfill.
    pub(crate) fn wants_backfill(&self) -> bool {
        matches!(self, Self::Subscribe { past: Some(_), .. } | Self::Resume { .. })
    }
}

/// The stage of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionStage {
    /// It is not confirmed yet that its user's events arrive here.
    Joining,
    /// It was welcomed.
    Open,
    /// Its close frame was sent. What it sends is ignored.
    Closing,
}

/// An active subscription.
#[derive(Debug)]
pub(crate) struct ActiveSubscription {
    pub(crate) name: SubscriptionName,
    /// Its number within the session, never used twice.
    pub(crate) number: u32,
    pub(crate) subscription: Subscription,
}

/// A session and its socket, owned by its shard.
///
/// `repr(C)` keeps the order of the fields, so that those that every delivery reads are next to each other: besides the
/// system call, a delivery spends most time waiting for memory.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Session<S> {
    pub(crate) stage: SessionStage,
    /// Whether the shard will flush its outbox in this turn.
    pub(crate) touched: bool,
    /// Whether any of its subscriptions has a quota.
    pub(crate) has_quotas: bool,
    /// Whether it was notified of an outage, and not yet of its end.
    pub(crate) outage_notified: bool,
    /// Whether its socket is watched: from its welcome on, or from when bytes first wait in its socket.
    pub(crate) is_watched: bool,
    pub(crate) reading: SocketReading,
    /// Sessions with more weight are served first.
    pub(crate) weight: u8,
    /// The number of events in a frame that the socket has not completely accepted.
    pub(crate) partially_sent: u32,
    /// What it was sent so far.
    pub(crate) sent: Sent,
    /// The place of the user's account in the shard.
    pub(crate) account: usize,
    /// Its backfill, while it has one.
    pub(crate) backfill: Option<Box<Backfill>>,
    /// Per partition, the sequence up to which an earlier session got everything, if this gateway was behind it.
    pub(crate) ahead: Option<Box<[Seq]>>,
    /// When its outbox is due, as set in the shard's timers.
    pub(crate) flush_at: Option<Millis>,
    pub(crate) outbox: Outbox,
    pub(crate) socket: S,
    /// The active subscriptions, sorted by name.
    pub(crate) subscriptions: Vec<ActiveSubscription>,
    pub(crate) last_subscription: u32,
    /// The bytes of its filters and of those in its requests, as they count for its user.
    pub(crate) filter_bytes: usize,
    pub(crate) user: UserId,
    /// The budget for its commands.
    pub(crate) commands: Budget,
    pub(crate) requests: VecDeque<Request>,
    /// Its recent malformed frames.
    pub(crate) malformed_frames: MalformedFrames,
    /// Its signs of life.
    pub(crate) liveness: Liveness,
    /// The validity of its token; `None` for a session without a token.
    pub(crate) term: Option<TokenTerm>,
    /// When its next heartbeat is due; before the welcome, when it arrived.
    pub(crate) beat_at: Millis,
    /// When its timer fires: for its welcome, a heartbeat, the expiry of its token, or the end of its close.
    pub(crate) attention: Millis,
    /// What it knows of the saved subscriptions of its user; `None` if its client does not want them.
    pub(crate) saved: Option<Box<SessionSaved>>,
    /// Which alerts come again to it; `None` until it subscribes to alerts or gets one.
    pub(crate) reminders: Option<Box<SessionReminders>>,
    /// What the log reports of it.
    pub(crate) record: Box<Record>,
    /// Its place among the sessions that this gateway accepts.
    pub(crate) _place: OwnedSemaphorePermit,
}

impl<S> Session<S> {
    /// Activates a subscription. It gets the number of the one of the same name that it replaces, so that events that
    /// wait for that one count for it. Returns the number, and the replaced subscription.
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

    /// Whether a new event is not for the outbox: an earlier session got it, or the backfill will include it.
    pub(crate) fn is_already_covered(&self, delivery: &Delivery) -> bool {
        let had = self.ahead.as_ref().is_some_and(|ahead| delivery.seq <= ahead[usize::from(delivery.partition.0)]);
        had || self.backfill.as_ref().is_some_and(|backfill| backfill.is_behind())
    }

    /// Whether the gateway knows the client's position: a `subscribe` or a `resume` was answered, and no `resume` waits
    /// for its answer. While a `resume` waits, the client would miss events if it took the gateway's position.
    pub(crate) fn has_position(&self) -> bool {
        self.last_subscription > 0 && !self.requests.iter().any(|request| matches!(request, Request::Resume { .. }))
    }

    /// Moves a position forward to that of the earlier session, if the gateway is behind it.
    pub(crate) fn raise(&self, position: &mut Position) {
        if let Some(ahead) = &self.ahead {
            position.seqs.iter_mut().zip(ahead).for_each(|(seq, ahead)| *seq = (*ahead).max(*seq));
        }
    }

    /// Whether events or notices may be sent now. During a backfill only the backfill's outbox counts.
    pub(crate) fn has_output(&self) -> bool {
        self.backfill.as_ref().map_or_else(|| self.outbox.has_output(), |backfill| backfill.outbox.has_output())
    }

    /// Removes a subscription.
    pub(crate) fn release(&mut self, name: &SubscriptionName) -> Option<ActiveSubscription> {
        let at = self.subscriptions.binary_search_by(|held| held.name.cmp(name)).ok()?;
        let released = self.subscriptions.remove(at);
        self.look_for_quotas();
        Some(released)
    }

    /// Removes all subscriptions.
    pub(crate) fn release_all(&mut self) -> Vec<ActiveSubscription> {
        self.has_quotas = false;
        std::mem::take(&mut self.subscriptions)
    }

    /// Replaces a subscription's filter with an equal one that is shared with others.
    pub(crate) fn share(&mut self, number: u32, filter: Arc<Filter>) {
        if let Some(held) = self.subscriptions.iter_mut().find(|held| held.number == number) {
            held.subscription.filter = filter;
        }
    }

    /// The subscriptions, as they are sent to the client.
    pub(crate) fn shown(&self) -> BTreeMap<SubscriptionName, Subscription> {
        self.subscriptions.iter().map(|held| (held.name.clone(), held.subscription.clone())).collect()
    }

    /// The subscriptions after all requests are granted, with the sizes of their filters.
    pub(crate) fn sizes(&self) -> BTreeMap<SubscriptionName, FilterSize> {
        let held = self.subscriptions.iter().map(|held| (&held.name, &held.subscription));
        let asked = self.requests.iter().flat_map(Request::wanted);
        held.chain(asked).map(|(name, wanted)| (name.clone(), FilterSize::of(&wanted.filter))).collect()
    }

    /// The number of subscriptions after all requests are granted.
    pub(crate) fn wanted_subscriptions(&self, added: &SubscriptionName) -> usize {
        let mut names: Vec<&SubscriptionName> = self.subscriptions.iter().map(|held| &held.name).collect();
        names.extend(self.requests.iter().flat_map(Request::wanted).map(|(name, _)| name));
        names.push(added);
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// The sum of `measure` over all filters, after all requests are granted and `name` has `filter`.
    pub(crate) fn wanted(&self, name: &SubscriptionName, filter: &Filter, measure: impl Fn(&Filter) -> usize) -> usize {
        let mut wanted: BTreeMap<&SubscriptionName, usize> =
            self.subscriptions.iter().map(|held| (&held.name, measure(&held.subscription.filter))).collect();
        for (name, subscription) in self.requests.iter().flat_map(Request::wanted) {
            wanted.insert(name, measure(&subscription.filter));
        }
        wanted.insert(name, measure(filter));
        wanted.values().sum()
    }

    /// The size of the filters in requests that wait, in bytes.
    pub(crate) fn asked_bytes(&self) -> usize {
        self.requests.iter().map(Request::bytes).sum()
    }

    fn look_for_quotas(&mut self) {
        self.has_quotas = self.subscriptions.iter().any(|held| held.subscription.max_events_per_hour.is_some());
    }

    /// All filters that the edge has of this session.
    pub(crate) fn filters(&self) -> Vec<Arc<Filter>> {
        let held = self.subscriptions.iter().map(|held| Arc::clone(&held.subscription.filter));
        let asked = self.requests.iter().flat_map(Request::wanted).map(|(_, wanted)| Arc::clone(&wanted.filter));
        held.chain(asked).collect()
    }
}

/// The subscription with this number.
pub(crate) fn held(subscriptions: &[ActiveSubscription], number: u32) -> Option<&ActiveSubscription> {
    subscriptions.iter().find(|held| held.number == number)
}
