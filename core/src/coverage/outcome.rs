//! What comes out of coverage: events for the sessions, and the judgement of a section.

use crate::ids::{Epoch, EpochId, Partition, Seq};

/// What the sessions of a gateway must be given, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoverageEvent<E> {
    /// The partition's history starts for this gateway after `at`.
    Adopt {
        /// The partition.
        partition: Partition,
        /// No session was promised anything up to this sequence.
        at: Seq,
    },
    /// `events` are all matching events in `(from, through]`.
    Apply {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        through: Seq,
        /// The events, in order.
        events: Vec<(Seq, E)>,
    },
    /// No router can give the events in `(from, through]`.
    Gap {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        through: Seq,
        /// Why.
        reason: GapReason,
    },
    /// From here on, sequences belong to another epoch of the stream.
    Reset {
        /// The former epoch, whose positions are invalid now; `None` at the very start.
        former: Option<EpochId>,
        /// The new epoch.
        epoch: Epoch,
    },
}

/// Why a range cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// It was not received, and all attempts to replay it failed.
    Lost,
    /// The stream had discarded it before it could be read.
    Retention,
    /// The stream should have it but does not: its storage is damaged, or somebody deleted it.
    Damaged,
    /// More is missing than the longest replay; this is the older part.
    TooLong,
}

impl GapReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Lost, Self::Retention, Self::Damaged, Self::TooLong];

    /// The name that clients get.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Retention => "retention",
            Self::Damaged => "damaged",
            Self::TooLong => "too_long",
        }
    }
}

/// The result for an offered section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionOutcome {
    /// It extended the coverage of its partition.
    Applied,
    /// Something before it is missing; it is held.
    Held,
    /// All of it was covered already.
    Duplicate,
    /// Its revision is older than a confirmed subscription: it proves nothing.
    Outdated,
    /// Its epoch is a former or an impossible one, or its partition does not exist.
    Foreign,
    /// It contradicts itself and proves nothing.
    Unsound,
    /// It is in an answer that was not asked for.
    Unasked,
}
