//! The messages of a replay: a gateway asks for a range of one partition, and the router that takes the request reads
//! the range again from the stream.
//!
//! An answer has sections with a range and a revision, like a live batch: overlaps are trimmed, and sections of an
//! outdated revision are invalid. So answers may be lost, late or duplicated.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::coverage::completeness::MissingRange;
use crate::coverage::section::Section;
use crate::ids::{EpochId, NodeRef, Partition, Revision, Seq};
use crate::interest::{Interest, SnapshotPart};

pub use crate::coverage::answer::{ReplayAnswer, ReplayPart, ReplayRefusal};

/// A request for every event in `(from, to]` of a partition that matches this interest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayRequest {
    /// The gateway that asks. Events for users whose home gateway it is match too.
    pub gateway: NodeRef,
    /// The partition.
    pub partition: Partition,
    /// The range starts after this sequence.
    pub from: Seq,
    /// The range ends with this sequence.
    pub to: Seq,
    /// The epoch of the sequences.
    pub epoch_id: EpochId,
    /// The interest to match against.
    pub interest: ReplayInterest,
    /// The purpose of the replay.
    #[serde(default, skip_serializing_if = "Purpose::is_repair")]
    pub purpose: Purpose,
}

/// The purpose of a replay. Repairs have priority, because all new events wait behind the gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Repair: it closes a gap in live delivery.
    #[default]
    Repair,
    /// Backfill: for sessions that resume or use `since`.
    #[serde(rename = "CatchUp")]
    Backfill,
}

impl Purpose {
    /// Whether it is a repair.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        *self == Self::Repair
    }
}

/// The interest that a replay is matched against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayInterest {
    /// The interest that the router knows of the gateway, at this revision or a later one.
    #[serde(rename = "Told")]
    ByRevision(Revision),
    /// This interest, as a snapshot in a single part. It may differ from the gateway's own interest.
    Carried(SnapshotPart),
}

impl ReplayInterest {
    /// The interest of `gateway` at `revision`: carried if it has at most `entries` wants and strays each, else by
    /// revision.
    #[must_use]
    pub fn of(gateway: &NodeRef, revision: Revision, interest: &Interest, entries: usize) -> Self {
        if interest.wants.len() > entries || interest.strays.len() > entries {
            return Self::ByRevision(revision);
        }
        match interest.parts(gateway, revision, usize::MAX).pop() {
            Some(part) => Self::Carried(part),
            None => Self::ByRevision(revision),
        }
    }
}

/// Collects what a router reads for a request, and builds the answer.
///
/// The sequences of a partition are sparse, and a replica that lags may end before the range does. So the answer
/// reaches only to the last message that was read; a message at or beyond the range's end completes it.
#[derive(Debug)]
pub struct ReplayBuilder<E> {
    partition: Partition,
    revision: Revision,
    from: Seq,
    to: Seq,
    /// Everything up to here was read, as far as the stream kept it.
    through: Seq,
    events: Vec<(Seq, E)>,
}

impl<E> ReplayBuilder<E> {
    /// Nothing is read yet. `revision` is that of the interest to match against.
    #[must_use]
    pub fn new(request: &ReplayRequest, revision: Revision) -> Self {
        let ReplayRequest { partition, from, to, .. } = *request;
        Self { partition, revision, from, to, through: from, events: Vec::new() }
    }

    /// The sequence up to which the range was read.
    #[must_use]
    pub fn through(&self) -> Seq {
        self.through
    }

    /// Whether the whole range was read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.through >= self.to
    }

    /// The partition's next message was read. `wanted` is its event if that matches.
    pub fn read(&mut self, seq: Seq, wanted: Option<E>) {
        if seq > self.through && seq <= self.to {
            self.events.extend(wanted.map(|event| (seq, event)));
        }
        self.through = self.through.max(seq.min(self.to));
    }

    /// Builds the answer. After the reading, the stream had discarded everything up to `discarded`, and was walked up
    /// to `walked` with these missing ranges. The discarded part is reported as removed even if some of it was read,
    /// since it may have been incomplete then. The part that was not walked is left out.
    #[must_use]
    pub fn finish(self, discarded: Seq, walked: Seq, missing: &[MissingRange]) -> Vec<ReplayPart<E>> {
        let Self { partition, revision, from, to, through, events } = self;
        let mut parts = Vec::new();
        let mut prev = from.max(discarded.min(to));
        if prev > from {
            parts.push(ReplayPart::Removed { partition, from, through: prev, damaged: None });
        }
        let through = through.min(walked);
        let mut events: VecDeque<(Seq, E)> =
            events.into_iter().filter(|(seq, _)| *seq > prev && *seq <= through).collect();
        let begin = prev;
        let mut missing = missing.iter().filter_map(|range| range.within(begin, through)).peekable();
        while let Some(mut range) = missing.next() {
            // Missing ranges with no matching event between them are reported as one.
            let next = events.iter().map(|(seq, _)| *seq).find(|seq| *seq > range.after);
            while let Some(further) = missing.next_if(|further| next.is_none_or(|next| next > further.through)) {
                range.through = further.through;
            }
            if range.after > prev {
                let count = events.iter().take_while(|(seq, _)| *seq <= range.after).count();
                let events = events.drain(..count).collect();
                parts.push(ReplayPart::Events(Section { partition, revision, prev, through: range.after, events }));
            }
            let damaged = Some(revision);
            parts.push(ReplayPart::Removed { partition, from: range.after, through: range.through, damaged });
            prev = range.through;
        }
        if through > prev {
            parts.push(ReplayPart::Events(Section { partition, revision, prev, through, events: events.into() }));
        }
        if parts.is_empty() {
            parts.push(ReplayPart::Refused(ReplayRefusal::NotThere));
        }
        parts
    }
}
