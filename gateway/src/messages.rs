//! The messages between the edge and the shards.
//!
//! A shard gets everything through one ordered channel, so that a confirmation stands exactly between the events before
//! it and those after it. Neither direction ever makes its sender wait, and both are bounded in bytes: a shard that is
//! too far behind gets no events, and its clients are notified of a gap (`edge/shard_queue.rs`). While too much waits
//! for the edge, shards read no commands (`shard/turns.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;

use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::Timestamp;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{EpochId, Partition, Seq, UserId};
use tickwire_core::protocol::codes::NoticeCode;

use crate::acks::AckAnswer;
use crate::byte_queue::Weigh;
use crate::delivery::Delivery;
use crate::new_session::NewSession;
use crate::reminders::ReminderAnswer;
use crate::shard::inquiry::ShardQuestion;

/// Identifies a session within its gateway: its shard, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// The shard.
    pub shard: u16,
    /// The shard counts it up, and uses no number twice.
    pub number: u64,
}

/// Coverage events in order, decoded once and shared by all shards.
#[derive(Debug)]
pub struct SharedCoverageEvents {
    /// The events.
    pub events: Vec<CoverageEvent<Arc<Delivery>>>,
    /// Approximate memory, in bytes.
    weight: usize,
}

impl SharedCoverageEvents {
    pub(crate) fn new(events: Vec<CoverageEvent<Arc<Delivery>>>) -> Self {
        let weight = events.iter().map(weight).sum();
        Self { events, weight }
    }

    pub(crate) fn weight(&self) -> usize {
        self.weight
    }
}

fn weight(coverage_event: &CoverageEvent<Arc<Delivery>>) -> usize {
    let events = match coverage_event {
        CoverageEvent::Apply { events, .. } => events.iter().map(|(_, delivery)| delivery.memory()).sum(),
        CoverageEvent::Adopt { .. } | CoverageEvent::Gap { .. } | CoverageEvent::Reset { .. } => 0,
    };
    size_of_val(coverage_event) + events
}

/// What the backfill of a session lacks: the range `(from, to]` of each partition.
#[derive(Debug)]
pub struct BackfillRanges {
    /// The epoch that the sequences belong to.
    pub(crate) epoch_id: EpochId,
    pub(crate) from: Vec<Seq>,
    pub(crate) to: Vec<Seq>,
    pub(crate) user: UserId,
    pub(crate) filters: Vec<Arc<Filter>>,
}

/// A chunk of a backfill, for the sessions of a cohort.
#[derive(Debug)]
pub struct BackfillChunk {
    pub(crate) cohort: u64,
    pub(crate) events: SharedCoverageEvents,
}

/// A range of a partition that a shard did not get, because it was too far behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedRange {
    pub(crate) partition: Partition,
    /// The range starts after this sequence.
    pub(crate) from: Seq,
    /// The range ends with this sequence.
    pub(crate) through: Seq,
    /// Whether the range may contain events.
    pub(crate) is_lost: bool,
}

/// A message to a shard.
#[derive(Debug)]
pub enum ToShard {
    /// A client has connected and authenticated.
    Arrive(Box<NewSession>),
    /// A message from the edge.
    Edge(FromEdge),
    /// Somebody asks about a user.
    Question(ShardQuestion),
    /// The saved subscriptions of this user have changed.
    Saved(UserId),
    /// An alert is acknowledged, or not.
    Acked(AckAnswer),
    /// The unacknowledged alerts of a user were read, or not.
    Reminders(ReminderAnswer),
}

/// A message from the edge to a shard.
#[derive(Debug)]
pub enum FromEdge {
    /// Coverage events of partitions.
    CoverageEvents(Arc<SharedCoverageEvents>),
    /// Ranges that were skipped while the shard was too far behind.
    Skipped(Vec<SkippedRange>),
    /// Notify all clients that an outage has begun, with the reason, or that it is over.
    Upstream(NoticeCode, Option<String>),
    /// The oldest unconfirmed request of this session is confirmed from here on.
    Confirmed(u64),
    /// These sessions must connect to another gateway.
    SendAway(Vec<u64>),
    /// The cohort with this number was formed from these sessions.
    CohortFormed(u64, Vec<u64>),
    /// A chunk for a cohort.
    Chunk(Arc<BackfillChunk>),
    /// This cohort gets nothing more.
    CohortEnded(u64),
    /// The last sequence before a time that this session asked for. `None` if NATS did not
    /// answer for `gateway.give_up_after`.
    Found(u64, Timestamp, Option<Seq>),
}

/// A request of a shard to the edge.
#[derive(Debug)]
pub enum ToEdge {
    /// A session has begun: its user's events must come to this gateway. Confirmed.
    Join(SessionId, UserId),
    /// A session adds these filters. Confirmed once.
    Add(SessionId, Vec<Arc<Filter>>),
    /// A session removes a filter.
    Remove(Arc<Filter>),
    /// A session asks for a backfill.
    Backfill(SessionId, Box<BackfillRanges>),
    /// A session leaves the cohorts that it waits in.
    LeaveCohorts(SessionId),
    /// A shard has processed a chunk of this cohort, of this many bytes.
    ChunkProcessed(u64, usize),
    /// A session asks for the last sequence before a time.
    Find(SessionId, Timestamp),
    /// A session is gone, and its filters with it.
    Leave(SessionId, Vec<Arc<Filter>>),
}

/// Approximate memory of a new session and its socket, in bytes.
const ARRIVAL_BYTES: usize = 4 * 1024;

/// Approximate memory of a condition of a filter, in bytes.
const CONDITION_BYTES: usize = 64;

impl Weigh for ToShard {
    fn weigh(&self) -> usize {
        let held = match self {
            Self::Arrive(_) => ARRIVAL_BYTES,
            Self::Edge(message) => message.held(),
            Self::Reminders(answer) => answer.memory(),
            Self::Question(_) | Self::Saved(_) | Self::Acked(_) => 0,
        };
        size_of_val(self) + held
    }
}

impl FromEdge {
    /// Approximate memory beyond the size of the enum itself, in bytes.
    fn held(&self) -> usize {
        match self {
            Self::CoverageEvents(events) => events.weight(),
            Self::Chunk(chunk) => chunk.events.weight(),
            Self::Skipped(ranges) => size_of_val(&ranges[..]),
            Self::SendAway(numbers) | Self::CohortFormed(_, numbers) => size_of_val(&numbers[..]),
            Self::Upstream(_, reason) => reason.as_ref().map_or(0, String::len),
            Self::Confirmed(_) | Self::CohortEnded(_) | Self::Found(..) => 0,
        }
    }
}

impl Weigh for ToEdge {
    fn weigh(&self) -> usize {
        let all = |filters: &[Arc<Filter>]| filters.iter().map(|filter| memory(filter)).sum();
        let held = match self {
            Self::Add(_, filters) | Self::Leave(_, filters) => all(filters),
            Self::Remove(filter) => memory(filter),
            Self::Backfill(_, ranges) => {
                size_of_val(&ranges.from[..]) + size_of_val(&ranges.to[..]) + all(&ranges.filters)
            }
            Self::Join(..) | Self::LeaveCohorts(_) | Self::ChunkProcessed(..) | Self::Find(..) => 0,
        };
        size_of_val(self) + held
    }
}

/// Approximate memory of a filter, in bytes.
fn memory(filter: &Filter) -> usize {
    let Filter { symbols, patterns, tags, rooms, data, .. } = filter;
    let count = |set: Option<usize>| set.unwrap_or(0);
    let entries = count(symbols.as_ref().map(BTreeSet::len))
        + count(patterns.as_ref().map(BTreeSet::len))
        + count(tags.as_ref().map(BTreeSet::len))
        + count(rooms.as_ref().map(BTreeSet::len));
    size_of_val(filter) + (entries + data.len()) * CONDITION_BYTES
}
