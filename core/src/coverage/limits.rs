//! How much is held behind gaps, and how hard it is tried to close them.

/// How long and how much to hold when something is missing, and how hard to try to get it.
#[derive(Clone, Copy, Debug)]
pub struct RepairLimits {
    /// How long a gap may be mere reordering, in milliseconds.
    pub grace: u64,
    /// How many bytes may be held of all partitions together. Half of it is shared by those that need it, the other half
    /// belongs to each in equal parts.
    pub hold_bytes: usize,
    /// How many replays may be under way at the same time.
    pub replays: usize,
    /// How long a router that was asked may be silent, in milliseconds.
    pub replay_timeout: u64,
    /// After asking in vain for so long a gap is told, in milliseconds.
    pub give_up_after: u64,
    /// The longest range that is asked for, in sequences of the stream.
    pub replay_range: u64,
}

impl RepairLimits {
    /// These limits for one of `partitions` partitions, when all others hold so many bytes.
    pub(super) fn of_one(&self, partitions: usize, others: usize) -> Self {
        let half = self.hold_bytes / 2;
        let hold_bytes = half.saturating_sub(others).max(half / partitions.max(1));
        Self { hold_bytes, ..*self }
    }
}
