//! The ranges that a backfill lacks, and the key of the cohort for them.

use std::sync::Arc;

use tickwire_core::filter::Filter;
use tickwire_core::ids::{EpochId, Seq, UserId};

/// What the backfill of a session lacks: the range `(from, to]` of each partition.
#[derive(Debug)]
pub(crate) struct BackfillRanges {
    /// The epoch that the sequences belong to.
    pub(crate) epoch_id: EpochId,
    pub(crate) from: Vec<Seq>,
    pub(crate) to: Vec<Seq>,
    pub(crate) user: UserId,
    pub(crate) filters: Vec<Arc<Filter>>,
}

/// The smallest size class: fewer than 4,096 sequences, which is four to the power of this plus one. To ask for so few
/// costs more than to read them, so sessions that lack so few share a cohort. A gateway that is behind gets larger
/// cohorts.
const LEAST_SIZE: u32 = 5;

/// What sessions of a cohort have in common: they lack about as much, in about the same place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CohortKey {
    /// How much each lacks: fewer sequences than four to the power of `size + 1`. It is [`LEAST_SIZE`] at least.
    size: u32,
    /// The place in the stream, in units of that many sequences. It separates old ranges from recent ones of one size.
    place: u64,
}

impl CohortKey {
    /// The key of the range `(from, to]` of each partition.
    pub(crate) fn of(from: &[Seq], to: &[Seq]) -> Self {
        let missing = from.iter().zip(to).map(|(from, to)| to.0.saturating_sub(from.0)).max();
        let size = (missing.unwrap_or(0).max(1).ilog2() / 2).max(LEAST_SIZE);
        let newest = from.iter().max().map_or(0, |seq| seq.0);
        Self { size, place: newest.checked_shr(2 * (size + 1)).unwrap_or(0) }
    }
}
