//! Counts the recent malformed frames of a client. Pure.
//!
//! A few of them over hours are no attack: a client may send a number of them in any minute, and old ones expire at
//! that rate.

use tickwire_core::ids::Millis;

/// The time in which the largest allowed number of malformed frames expires, in milliseconds.
const EXPIRY_MS: u64 = 60_000;

/// The malformed frames of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MalformedFrames {
    /// A malformed frame adds [`EXPIRY_MS`], and each millisecond subtracts the number that is allowed.
    weight: u64,
    at: Millis,
}

impl MalformedFrames {
    /// Counts a malformed frame. `true` if there are now more than `most` a minute.
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
            let mut malformed = MalformedFrames::default();
            let count = (1..).find(|_| malformed.add(Millis(5), most));
            assert_eq!(count, Some(most + 1));
        }
        for (every, from) in [(30_000, 1), (6_000, 1), (7_000_000, 0)] {
            let mut malformed = MalformedFrames::default();
            let too_many = (from..10_000).find(|n| malformed.add(Millis(n * every), 10));
            assert_eq!(too_many, None, "one every {every} ms");
        }
        let mut malformed = MalformedFrames::default();
        assert!((0..10_000).any(|n| malformed.add(Millis(n * 5_000), 10)), "one every five seconds is too much");
    }
}
