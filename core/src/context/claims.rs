//! What the stored context of other routers may claim: no more than the stream has. Anybody who may write the bucket
//! could else state a record that is later than all true ones, and none of these would be taken any more.

use super::SETTLE_MS;
use crate::event::Timestamp;
use crate::ids::{EpochId, Seq};

/// The end of the stream, as the router itself has seen it after it read the context.
#[derive(Clone, Copy, Debug)]
pub struct StreamEnd {
    /// The epoch of the stream.
    pub epoch_id: EpochId,
    /// The last sequence.
    pub last: Seq,
    /// When the last message was stored.
    pub stored: Timestamp,
}

/// Why stored context is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimFault {
    /// It is of a later epoch than the stream.
    LaterEpoch,
    /// It is complete up to a message that the stream does not have yet.
    AfterEnd,
    /// There are too many markets.
    NoRoom,
}

impl ClaimFault {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::LaterEpoch, Self::AfterEnd, Self::NoRoom];

    /// Its name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LaterEpoch => "later_epoch",
            Self::AfterEnd => "after_end",
            Self::NoRoom => "no_room",
        }
    }
}

impl StreamEnd {
    /// Checks that the stream has what stored context claims: that it is complete up to the message `through` of an
    /// epoch, which was stored at `stored`. The clocks of servers may differ by as much as records may lag. Context of
    /// an earlier epoch claims nothing about this one.
    ///
    /// # Errors
    /// What is wrong with the claim.
    pub fn check(self, epoch_id: EpochId, through: Seq, stored: Timestamp) -> Result<(), ClaimFault> {
        if epoch_id > self.epoch_id {
            return Err(ClaimFault::LaterEpoch);
        }
        let is_after = through > self.last || stored.0 > self.stored.0.saturating_add(SETTLE_MS);
        if epoch_id == self.epoch_id && is_after { Err(ClaimFault::AfterEnd) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_beyond_the_end_of_the_stream_is_believed() {
        let end = StreamEnd { epoch_id: EpochId(7), last: Seq(100), stored: Timestamp(1_000) };
        let check = |epoch_id, through, stored| end.check(EpochId(epoch_id), Seq(through), Timestamp(stored));
        assert_eq!(check(7, 100, 1_000), Ok(()));
        assert_eq!(check(7, 0, i64::MIN), Ok(()), "an empty record");
        assert_eq!(check(7, 101, 1_000), Err(ClaimFault::AfterEnd));
        assert_eq!(check(7, 100, 1_001 + SETTLE_MS), Err(ClaimFault::AfterEnd));
        assert_eq!(check(8, 1, 1), Err(ClaimFault::LaterEpoch));
        assert_eq!(check(u64::MAX, 1, 1), Err(ClaimFault::LaterEpoch));
        assert_eq!(check(6, 500, 9_000), Ok(()), "the stream may have lost its end");
    }
}
