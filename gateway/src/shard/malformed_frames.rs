//! Counts the recent malformed frames of a client. Pure.
//!
//! A few mistakes over hours are no attack: a client may make a number of mistakes in any minute, and old ones expire
//! at that rate.

use tickwire_core::ids::Millis;

/// The time in which the largest allowed number of mistakes expires, in milliseconds.
const EXPIRY_MS: u64 = 60_000;

/// The mistakes of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mistakes {
    /// A mistake adds [`EXPIRY_MS`], and each millisecond subtracts the number of allowed mistakes.
    weight: u64,
    at: Millis,
}

impl Mistakes {
    /// Counts a mistake. `true` if there are now more than `most` a minute.
    pub(crate) fn add(&mut self, now: Millis, most: u32) -> bool {
        let most = u64::from(most);
        let expired = now.since(self.at).saturating_mul(most);
        self.weight = self.weight.saturating_sub(expired) + EXPIRY_MS;
        self.at = now;
        self.weight > EXPIRY_MS * most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_exceeds_the_limit_and_a_slow_rate_never_does() {
        for most in [1, 7, 10, 1_000] {
            let mut mistakes = Mistakes::default();
            let count = (1..).find(|_| mistakes.add(Millis(5), most));
            assert_eq!(count, Some(most + 1));
        }
        for (every, from) in [(30_000, 1), (6_000, 1), (7_000_000, 0)] {
            let mut mistakes = Mistakes::default();
            let too_many = (from..10_000).find(|n| mistakes.add(Millis(n * every), 10));
            assert_eq!(too_many, None, "one every {every} ms");
        }
        let mut mistakes = Mistakes::default();
        assert!((0..10_000).any(|n| mistakes.add(Millis(n * 5_000), 10)), "one every five seconds is too much");
    }
}
