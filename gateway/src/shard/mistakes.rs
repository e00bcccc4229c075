//! How many malformed frames a client has sent of late. Pure.
//!
//! What is wrong once in a while, over hours, is no attack: a client may make so many mistakes in any minute, and old ones
//! are forgiven at that pace.

use tickwire_core::ids::Millis;

/// In which time the mistakes of a client that has made all it may are forgiven, in milliseconds.
const FORGIVEN_MS: u64 = 60_000;

/// The mistakes of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mistakes {
    /// In units of which a mistake is [`FORGIVEN_MS`], and of which each millisecond takes away as many as a client may
    /// make mistakes.
    weight: u64,
    at: Millis,
}

impl Mistakes {
    /// Counts another one. `true` if that is more than `most` a minute.
    pub(crate) fn add(&mut self, now: Millis, most: u32) -> bool {
        let most = u64::from(most);
        let forgiven = now.since(self.at).saturating_mul(most);
        self.weight = self.weight.saturating_sub(forgiven) + FORGIVEN_MS;
        self.at = now;
        self.weight > FORGIVEN_MS * most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_too_much_and_what_comes_once_in_a_while_never_is() {
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
