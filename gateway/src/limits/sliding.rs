//! A count of what happened within a span of time that slides along: for rates and quotas. Pure: the clock is passed
//! in.
//!
//! The span is cut into `N - 1` slots, and one more is filled at the moment: what is counted reaches back at least a
//! whole span and at most a slot more. So no span, wherever it begins, ever holds more than the limit that
//! [`SlidingCount::count`] is held against.

use tickwire_core::ids::Millis;

/// How many things happened of late.
#[derive(Clone, Debug)]
pub struct SlidingCount<const N: usize> {
    /// How long a slot is, in milliseconds.
    slot_ms: u64,
    /// The number of the slot that is filled at the moment, counted from the epoch of the clock.
    slot: u64,
    total: u32,
    slots: [u32; N],
}

/// Of a second, in tenths.
pub type PerSecond = SlidingCount<11>;

/// Of an hour, in minutes.
pub type PerHour = SlidingCount<61>;

impl PerSecond {
    /// Nothing happened yet.
    #[must_use]
    pub fn second() -> Self {
        Self::new(100)
    }
}

impl PerHour {
    /// Nothing happened yet.
    #[must_use]
    pub fn hour() -> Self {
        Self::new(60_000)
    }
}

impl<const N: usize> SlidingCount<N> {
    fn new(slot_ms: u64) -> Self {
        Self { slot_ms, slot: 0, total: 0, slots: [0; N] }
    }

    /// `count` things happened at `now`.
    pub fn add(&mut self, now: Millis, count: u32) {
        self.slide(now);
        self.slots[self.slot as usize % N] += count;
        self.total += count;
    }

    /// How many happened within the span that ends at `now`, or a little before it.
    pub fn count(&mut self, now: Millis) -> u32 {
        self.slide(now);
        self.total
    }

    /// When the count is next to fall, if nothing more happens; `None` if nothing is counted.
    #[must_use]
    pub fn next_fall(&self) -> Option<Millis> {
        let oldest = (self.slot + 1).saturating_sub(N as u64);
        let first = (oldest..=self.slot).find(|slot| self.slots[*slot as usize % N] > 0)?;
        Some(Millis((first + N as u64) * self.slot_ms))
    }

    fn slide(&mut self, now: Millis) {
        let slot = now.0 / self.slot_ms;
        if slot <= self.slot {
            return;
        }
        if slot - self.slot >= N as u64 {
            (self.slots, self.total) = ([0; N], 0);
        } else {
            for passed in self.slot + 1..=slot {
                self.total -= std::mem::take(&mut self.slots[passed as usize % N]);
            }
        }
        self.slot = slot;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_counts_at_least_a_span_and_at_most_a_slot_more(
            happened in prop::collection::vec((0..400u64, 1..5u32), 1..60),
        ) {
            let (mut sliding, mut now, mut all) = (PerSecond::second(), Millis(0), Vec::new());
            for (pause, count) in happened {
                now = now.plus(pause);
                sliding.add(now, count);
                all.push((now, count));
                let within = |span: u64| -> u32 {
                    all.iter().filter(|(at, _)| now.since(*at) < span).map(|(_, count)| count).sum()
                };
                let counted = sliding.count(now);
                prop_assert!(within(1_000) <= counted && counted <= within(1_100), "{counted} at {now:?}");
                let fall = sliding.next_fall().unwrap();
                prop_assert_eq!(sliding.clone().count(Millis(fall.0 - 1)), counted);
                prop_assert!(sliding.clone().count(fall) < counted);
            }
        }
    }
}
