//! Limits of sections held behind gaps, and of their repair.

/// How much to hold when a range is missing, and how long to try to repair it.
#[derive(Clone, Copy, Debug)]
pub struct RepairLimits {
    /// How long to wait for a gap to close by itself, since it may be reordering, in milliseconds.
    pub grace: u64,
    /// How many bytes all partitions together may hold. One half is shared; the other half is divided equally among the
    /// partitions.
    pub hold_bytes: usize,
    /// How many replays may run at the same time.
    pub replays: usize,
    /// How long to wait for an answer of a router, in milliseconds.
    pub replay_timeout: u64,
    /// After this time of failed asks a gap is reported, in milliseconds.
    pub give_up_after: u64,
    /// The longest range of a replay, in sequences of the stream.
    pub replay_range: u64,
}

impl RepairLimits {
    /// These limits for one of `partitions` partitions, when all others hold `others` bytes.
    pub(super) fn of_one(&self, partitions: usize, others: usize) -> Self {
        let half = self.hold_bytes / 2;
        let hold_bytes = half.saturating_sub(others).max(half / partitions.max(1));
        Self { hold_bytes, ..*self }
    }
}
