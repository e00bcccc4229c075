//! What the edge and the shards say to each other.
//!
//! To a shard everything goes through one ordered channel, so that a confirmation stands exactly between the events
//! before it and those after it. That channel is bounded: a stuck shard holds the edge, and what NATS then drops is
//! found by coverage. The way back has no bound of its own: a session has at most as many requests under way as it
//! may have subscriptions.

use std::sync::Arc;

use tickwire_core::codes::NoticeCode;
use tickwire_core::coverage::Step;
use tickwire_core::event::Timestamp;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Incarnation, Seq, UserId};

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

/// What a session lacks of the past: in each partition what comes after `from` up to `to`.
#[derive(Debug)]
pub(crate) struct Lack {
    /// The life of the stream that the sequences belong to.
    pub(crate) incarnation: Incarnation,
    pub(crate) from: Vec<Seq>,
    pub(crate) to: Vec<Seq>,
    pub(crate) user: UserId,
    pub(crate) filters: Vec<Arc<Filter>>,
}

/// A piece of the past, for those sessions of a gathering that lack it.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) gathering: u64,
    pub(crate) steps: Vec<Step<Arc<Delivery>>>,
}

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// A client has arrived and said who it is.
    Arrive(Box<Arrival>),
    /// Partitions moved on.
    Steps(Steps),
    /// All clients are to be told that the cluster does not reach this gateway, and why, or that it does again.
    Upstream(NoticeCode, Option<String>),
    /// The oldest unconfirmed request of this session is confirmed as of here.
    Confirmed(u64),
    /// These sessions are to connect elsewhere.
    SendAway(Vec<u64>),
    /// What these sessions lack is asked for together, under this number.
    Gathered(u64, Vec<u64>),
    /// Some of it has come.
    Past(Arc<Past>),
    /// No more of it comes.
    PastEnds(u64),
    /// Where in the stream the time stands that this session asked for: everything up to this sequence is older. `None`
    /// if nobody could say.
    Found(u64, Option<Seq>),
}

/// What a shard asks of the edge.
#[derive(Debug)]
pub(crate) enum ToEdge {
    /// A session wants its user's events to come to this gateway. Confirmed.
    Join(SessionId, UserId),
    /// A session wants what passes any of these. Confirmed once.
    Add(SessionId, Vec<Arc<Filter>>),
    /// A session no longer wants them.
    Remove(Arc<Filter>),
    /// A session wants what it lacks of the past.
    CatchUp(SessionId, Box<Lack>),
    /// A shard is done with a piece of this gathering.
    Digested(u64),
    /// A session wants to know where in the stream a time stands.
    Find(SessionId, Timestamp),
    /// A session is gone, and wants none of these any more.
    Leave(SessionId, Vec<Arc<Filter>>),
}
