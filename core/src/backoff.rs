//! Pauses between attempts: each is twice as long as the one before, up to a limit.

/// The first and the longest pause, both in milliseconds or both in another unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failed attempt.
    pub first: u64,
    /// The longest pause.
    pub most: u64,
}

impl Backoff {
    /// The pause after this many failed attempts, in the same unit; 0 after none.
    #[must_use]
    pub fn after(self, attempts: u32) -> u64 {
        let Some(doublings) = attempts.checked_sub(1) else { return 0 };
        self.first.saturating_mul(1 << doublings.min(u64::BITS - 1)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let backoff = Backoff { first: 50, most: 2_000 };
        let pauses: Vec<u64> = (0..9).map(|attempts| backoff.after(attempts)).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
        for attempts in [58, 59, 60, 64, 65, 66, u32::MAX] {
            assert_eq!(backoff.after(attempts), 2_000, "{attempts}");
        }
    }
}
