//! What a session lacks of the past, and with whom it has that in common.

use std::sync::Arc;

use tickwire_core::filter::Filter;
use tickwire_core::ids::{EpochId, Seq, UserId};

/// What a session lacks of the past: in each partition what comes after `from` up to `to`.
#[derive(Debug)]
pub(crate) struct BackfillRanges {
    /// The life of the stream that the sequences belong to.
    pub(crate) epoch_id: EpochId,
    pub(crate) from: Vec<Seq>,
    pub(crate) to: Vec<Seq>,
    pub(crate) user: UserId,
    pub(crate) filters: Vec<Arc<Filter>>,
}

/// The smallest size: all who lack fewer than 4,096 sequences, four to the power of one more, are of it. To ask for so
/// little costs more than to read it, so they are better given it together: a gateway that is behind gathers the more.
const LEAST_SIZE: u32 = 5;

/// What those have in common who lack about as much, in about the same place of the stream: they are asked for together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CohortKey {
    /// How much each lacks: fewer than four to the power of one more sequences, and [`LEAST_SIZE`] at least.
    size: u32,
    /// Where in the stream, in pieces of that many sequences: who lacks little of long ago is not asked for with who lacks
    /// little of now.
    place: u64,
}

impl CohortKey {
    /// The class of what comes after `from` up to `to`.
    pub(crate) fn of(from: &[Seq], to: &[Seq]) -> Self {
        let missing = from.iter().zip(to).map(|(from, to)| to.0.saturating_sub(from.0)).max();
        let size = (missing.unwrap_or(0).max(1).ilog2() / 2).max(LEAST_SIZE);
        let newest = from.iter().max().map_or(0, |seq| seq.0);
        Self { size, place: newest.checked_shr(2 * (size + 1)).unwrap_or(0) }
    }
}
