//! What a router sends a gateway: sections, each of which claims to be complete for a range of one partition.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, EpochId, NodeRef, Partition, Revision, Seq};

/// "Here is everything in `(prev, through]` of this partition that matches your interest as of this revision."
///
/// Without events it is a heartbeat. With `prev == through` it only tells the revision.
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
    /// Whether it may be what it says: a range that does not end before it starts, with events in it, in order. One that
    /// is not was changed on its way, or comes from no router.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut last = self.prev;
        let follows = |(seq, _): &(Seq, E)| std::mem::replace(&mut last, *seq) < *seq;
        self.prev <= self.through && self.events.iter().all(follows) && last <= self.through
    }
}

/// The sections of all partitions of one router that travel to one gateway in one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<E> {
    /// Who claims it.
    pub router: NodeRef,
    /// The life of the stream that the sequences belong to.
    pub epoch_id: EpochId,
    /// The sections, those of one partition in order.
    pub sections: Vec<Section<E>>,
    /// The last sequence of the life before. It is left out of the message where there is none.
    #[serde(default, skip_serializing_if = "is_beginning")]
    pub before: Seq,
}

impl<E> Batch<E> {
    /// The life of the stream that the sequences belong to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch { epoch_id: self.epoch_id, before: self.before }
    }
}

fn is_beginning(seq: &Seq) -> bool {
    *seq == Seq(0)
}
