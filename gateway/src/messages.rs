//! What the edge and the shards say to each other.
//!
//! To a shard everything goes through one ordered channel, so that a confirmation stands exactly between the events
//! before it and those after it. That channel is bounded: a stuck shard holds the edge, and what NATS then drops is
//! found by coverage. The way back has no bound of its own: a session has at most as many requests under way as it
//! may have subscriptions.

use std::sync::Arc;

use tickwire_core::codes::NoticeCode;
use tickwire_core::coverage::Step;
use tickwire_core::filter::Filter;
use tickwire_core::ids::UserId;

use crate::arrival::Arrival;
use crate::delivery::Delivery;

/// Names a session within its gateway: its shard, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId {
    /// The shard.
    pub(crate) shard: u16,
    /// Counted up by the shard, never used twice.
    pub(crate) number: u64,
}

/// What happens to partitions, in order, decoded and shared by all shards.
pub(crate) type Steps = Arc<Vec<Step<Arc<Delivery>>>>;

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// A client has arrived and said who it is.
    Arrive(Box<Arrival>),
    /// Partitions moved on.
    Steps(Steps),
    /// All clients are to be told.
    Tell(NoticeCode),
    /// The oldest unconfirmed request of this session is confirmed as of here.
    Confirmed(u64),
}

/// What a shard asks of the edge.
#[derive(Debug)]
pub(crate) enum ToEdge {
    /// A session wants its user's events to come to this gateway. Confirmed.
    Join(SessionId, UserId),
    /// A session wants events. Confirmed.
    Add(SessionId, Arc<Filter>),
    /// A session no longer wants them.
    Remove(Arc<Filter>),
    /// A session is gone, and wants none of these any more.
    Leave(SessionId, Vec<Arc<Filter>>),
}
