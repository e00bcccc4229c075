//! What the edge and the shards say to each other.
//!
//! To a shard everything goes through one ordered channel, so that a confirmation stands exactly between the events
//! before it and those after it. Neither way ever makes its sender wait, and both are bounded in bytes: a shard that is
//! too far behind is not handed events, which is told to its clients (`edge/outlet`), and while too much waits for the
//! edge, shards read no commands (`shard/turns`).

use std::collections::BTreeSet;
use std::sync::Arc;

use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::Timestamp;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Partition, Seq, UserId};
use tickwire_core::protocol::codes::NoticeCode;

use crate::backfill::ranges::BackfillRanges;
use crate::byte_queue::Weigh;
use crate::delivery::Delivery;
use crate::handshake::new_session::NewSession;

/// Names a session within its gateway: its shard, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId {
    /// The shard.
    pub(crate) shard: u16,
    /// Counted up by the shard, never used twice.
    pub(crate) number: u64,
}

/// What happens to partitions, in order, decoded and shared by all shards.
#[derive(Debug)]
pub(crate) struct SharedCoverageEvents {
    pub(crate) steps: Vec<CoverageEvent<Arc<Delivery>>>,
    /// About how many bytes of memory they hold.
    weight: usize,
}

impl SharedCoverageEvents {
    pub(crate) fn new(steps: Vec<CoverageEvent<Arc<Delivery>>>) -> Self {
        let weight = steps.iter().map(weight).sum();
        Self { steps, weight }
    }

    pub(crate) fn weight(&self) -> usize {
        self.weight
    }
}

fn weight(step: &CoverageEvent<Arc<Delivery>>) -> usize {
    let events = match step {
        CoverageEvent::Apply { events, .. } => events.iter().map(|(_, delivery)| delivery.memory()).sum(),
        CoverageEvent::Adopt { .. } | CoverageEvent::Gap { .. } | CoverageEvent::Reset { .. } => 0,
    };
    size_of_val(step) + events
}

/// A piece of the past, for those sessions of a gathering that lack it.
#[derive(Debug)]
pub(crate) struct BackfillChunk {
    pub(crate) cohort: u64,
    pub(crate) steps: SharedCoverageEvents,
}

/// What a shard was not handed of a partition, since it is too far behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedRange {
    pub(crate) partition: Partition,
    /// The range starts after this sequence.
    pub(crate) from: Seq,
    /// The range ends with this sequence.
    pub(crate) through: Seq,
    /// Whether anything in it may be missed.
    pub(crate) is_lost: bool,
}

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// A client has arrived and said who it is.
    Arrive(Box<NewSession>),
    /// The edge says something.
    Edge(FromEdge),
}

/// What the edge says to a shard.
#[derive(Debug)]
pub(crate) enum FromEdge {
    /// Partitions moved on.
    Steps(Arc<SharedCoverageEvents>),
    /// Partitions moved on while the shard was too far behind to be handed what happened.
    LeftOut(Vec<SkippedRange>),
    /// All clients are to be told that the cluster does not reach this gateway, and why, or that it does again.
    Upstream(NoticeCode, Option<String>),
    /// The oldest unconfirmed request of this session is confirmed as of here.
    Confirmed(u64),
    /// These sessions are to connect elsewhere.
    SendAway(Vec<u64>),
    /// What these sessions lack is asked for together, under this number.
    Gathered(u64, Vec<u64>),
    /// Some of it has come.
    Past(Arc<BackfillChunk>),
    /// No more of it comes.
    PastEnds(u64),
    /// Where in the stream this time stands, for which this session asked: everything up to this sequence is older. `None`
    /// if NATS did not say for as long as `gateway.give_up_after`.
    Found(u64, Timestamp, Option<Seq>),
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
    CatchUp(SessionId, Box<BackfillRanges>),
    /// A session takes no more of what it lacked of the past.
    LeavePast(SessionId),
    /// A shard is done with a piece of this gathering, of so many bytes.
    Digested(u64, usize),
    /// A session wants to know where in the stream a time stands.
    Find(SessionId, Timestamp),
    /// A session is gone, and wants none of these any more.
    Leave(SessionId, Vec<Arc<Filter>>),
}

/// What a session and its socket hold at their arrival, about.
const ARRIVAL_BYTES: usize = 4 * 1024;

/// What a condition of a filter holds, about.
const CONDITION_BYTES: usize = 64;

impl Weigh for ToShard {
    fn weigh(&self) -> usize {
        let held = match self {
            Self::Arrive(_) => ARRIVAL_BYTES,
            Self::Edge(said) => said.held(),
        };
        size_of_val(self) + held
    }
}

impl FromEdge {
    /// About how many bytes it holds beside itself.
    fn held(&self) -> usize {
        match self {
            Self::Steps(steps) => steps.weight(),
            Self::Past(past) => past.steps.weight(),
            Self::LeftOut(ranges) => size_of_val(&ranges[..]),
            Self::SendAway(numbers) | Self::Gathered(_, numbers) => size_of_val(&numbers[..]),
            Self::Upstream(_, reason) => reason.as_ref().map_or(0, String::len),
            Self::Confirmed(_) | Self::PastEnds(_) | Self::Found(..) => 0,
        }
    }
}

impl Weigh for ToEdge {
    fn weigh(&self) -> usize {
        let all = |filters: &[Arc<Filter>]| filters.iter().map(|filter| memory(filter)).sum();
        let held = match self {
            Self::Add(_, filters) | Self::Leave(_, filters) => all(filters),
            Self::Remove(filter) => memory(filter),
            Self::CatchUp(_, ranges) => {
                size_of_val(&ranges.from[..]) + size_of_val(&ranges.to[..]) + all(&ranges.filters)
            }
            Self::Join(..) | Self::LeavePast(_) | Self::Digested(..) | Self::Find(..) => 0,
        };
        size_of_val(self) + held
    }
}

/// About how many bytes a filter holds.
fn memory(filter: &Filter) -> usize {
    let Filter { symbols, patterns, tags, rooms, data, .. } = filter;
    let count = |set: Option<usize>| set.unwrap_or(0);
    let entries = count(symbols.as_ref().map(BTreeSet::len))
        + count(patterns.as_ref().map(BTreeSet::len))
        + count(tags.as_ref().map(BTreeSet::len))
        + count(rooms.as_ref().map(BTreeSet::len));
    size_of_val(filter) + (entries + data.len()) * CONDITION_BYTES
}
