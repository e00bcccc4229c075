//! What gateways and routers say to each other to repair a gap: a range of one partition is asked for, and read again
//! from the stream by whichever router takes the request.
//!
//! An answer claims what it carries like any section does, with a range and a revision: what comes twice is trimmed,
//! and what an outdated interest was matched against proves nothing. So answers may be lost, late or doubled.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::coverage::completeness::MissingRange;
use crate::coverage::section::Section;
use crate::ids::{EpochId, NodeRef, Partition, Revision, Seq};
use crate::interest::{Interest, SnapshotPart};

/// "Everything in `(from, to]` of this partition that this interest wants."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayRequest {
    /// The gateway that asks. What is addressed to users at home there is wanted by it.
    pub gateway: NodeRef,
    /// The partition.
    pub partition: Partition,
    /// The range starts after this sequence.
    pub from: Seq,
    /// The range ends with this sequence.
    pub to: Seq,
    /// The life of the stream that the sequences belong to.
    pub epoch_id: EpochId,
    /// What is wanted.
    pub interest: ReplayInterest,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Purpose::is_repair")]
    pub purpose: Purpose,
}

/// What a replay is for. Repairs come first, for all that is new waits behind the gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To close a gap in what is live.
    #[default]
    Repair,
    /// To give sessions of the past.
    CatchUp,
}

impl Purpose {
    /// Whether it closes a gap in what is live.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        *self == Self::Repair
    }
}

/// The interest that a replay is matched against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayInterest {
    /// What the gateway told the routers that it wants, as of this revision or a later one.
    Told(Revision),
    /// This one: a snapshot of a single part. It need not be the gateway's own.
    Carried(SnapshotPart),
}

/// One message of the answer to a request. Those of one answer are in order, and the last one says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayAnswer<E> {
    /// Who answers.
    pub router: NodeRef,
    /// The life of the stream that was read.
    pub epoch_id: EpochId,
    /// What it says.
    pub part: ReplayPart<E>,
    /// Whether nothing more comes for this request. The range may not be exhausted: what is still missing is to be
    /// asked for again.
    pub last: bool,
}

/// What one message of an answer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayPart<E> {
    /// "Here is everything in this section's range which is wanted."
    Events(Section<E>),
    /// Nothing that was wanted of this range can be read any more: retention has taken it, or it is `damaged`, and what
    /// stands between two places that are was not wanted.
    Removed {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        through: Seq,
        /// If no limit of the stream has removed it: the revision of the interest by which nothing that stands in
        /// between was wanted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        damaged: Option<Revision>,
    },
    /// Nothing can be said here now; a later request, or another router, may fare better.
    Refused(ReplayRefusal),
}

/// Why a router does not answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReplayRefusal {
    /// It has as many replays to do as it takes on.
    Busy,
    /// It does not know the gateway's interest at the revision asked for.
    UnknownInterest,
    /// The stream that it can read is another life of it than the one asked for.
    OtherStream,
    /// What it could read of the stream ends before the range goes on.
    NotThere,
    /// The stream could not be read.
    Unreadable,
    /// The request makes no sense.
    Malformed,
}

impl ReplayRefusal {
    /// For metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::UnknownInterest => "unknown_interest",
            Self::OtherStream => "other_stream",
            Self::NotThere => "not_there",
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
        }
    }
}

impl ReplayInterest {
    /// What `gateway` wants at `revision`: carried, if it has at most `entries` entries of either sort, else named.
    #[must_use]
    pub fn of(gateway: &NodeRef, revision: Revision, interest: &Interest, entries: usize) -> Self {
        if interest.wants.len() > entries || interest.strays.len() > entries {
            return Self::Told(revision);
        }
        match interest.parts(gateway, revision, usize::MAX).pop() {
            Some(part) => Self::Carried(part),
            None => Self::Told(revision),
        }
    }
}

/// What a router has read for a request, and what it may say of it.
///
/// A partition's sequences are sparse, and what is read may end before the range does, at a replica that lags. So the
/// range is claimed only up to a message that was read itself; one at or beyond the range's end completes it.
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
    /// Nothing of the range is read yet. `revision` is that of the interest it is matched against.
    #[must_use]
    pub fn new(request: &ReplayRequest, revision: Revision) -> Self {
        let ReplayRequest { partition, from, to, .. } = *request;
        Self { partition, revision, from, to, through: from, events: Vec::new() }
    }

    /// Up to where the range was read.
    #[must_use]
    pub fn through(&self) -> Seq {
        self.through
    }

    /// Whether the whole range was read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.through >= self.to
    }

    /// The partition's next message was read: an event that is wanted, or something else.
    pub fn read(&mut self, seq: Seq, wanted: Option<E>) {
        if seq > self.through && seq <= self.to {
            self.events.extend(wanted.map(|event| (seq, event)));
        }
        self.through = self.through.max(seq.min(self.to));
    }

    /// What may be said, when the stream was seen, after the reading, to have discarded everything up to `discarded`, and
    /// was walked up to `walked` with these missing ranges. What was read of what is discarded is not told: whether it was
    /// all there is not known. Nor is what was not walked.
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
            // What lies between missing ranges and is not wanted by anyone need not be told apart from them.
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
