//! The messages of a router to a gateway: sections, each complete for a range of one partition, in batches.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, EpochId, NodeRef, Partition, Revision, Seq};

/// All events in `(prev, through]` of a partition that match the gateway's interest at a revision.
///
/// Without events it only reports that the range was read. With `prev == through` it only announces the revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section<E> {
    /// The partition.
    pub partition: Partition,
    /// The revision of the gateway's interest that every event of the range was matched against.
    pub revision: Revision,
    /// The range starts after this sequence.
    pub prev: Seq,
    /// The range ends with this sequence.
    pub through: Seq,
    /// The matching events, in order, each with its sequence.
    pub events: Vec<(Seq, E)>,
}

impl<E> Section<E> {
    /// Whether it is consistent: the range does not end before it starts, and its events are in the range and in order.
    /// An inconsistent section was changed on its way, or is not from a router.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut last = self.prev;
        let follows = |(seq, _): &(Seq, E)| std::mem::replace(&mut last, *seq) < *seq;
        self.prev <= self.through && self.events.iter().all(follows) && last <= self.through
    }
}

/// One message with the sections of all partitions of one router for one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<E> {
    /// The router that sends it.
    pub router: NodeRef,
    /// The epoch of the sequences.
    pub epoch_id: EpochId,
    /// The sections, those of one partition in order.
    pub sections: Vec<Section<E>>,
    /// The last sequence of the epoch before; left out of the message if it is 0.
    #[serde(default, skip_serializing_if = "is_beginning")]
    pub before: Seq,
}

impl<E> Batch<E> {
    /// The epoch of the sequences.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch { epoch_id: self.epoch_id, before: self.before }
    }
}

fn is_beginning(seq: &Seq) -> bool {
    *seq == Seq(0)
}
