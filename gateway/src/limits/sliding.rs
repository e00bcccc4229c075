//! A count over a sliding window, for rates and quotas. Pure: the clock is passed in.
//!
//! The window has `N - 1` complete slots and the current one, so it is at least as long as the span, and at most one
//! slot longer. A caller that keeps [`SlidingCount::count`] within a limit therefore never exceeds it in any span.

use tickwire_core::ids::Millis;

/// A count over a sliding window of `N` slots.
#[derive(Clone, Debug)]
pub struct SlidingCount<const N: usize> {
    /// The length of a slot, in milliseconds.
    slot_ms: u64,
    /// The number of the current slot, counted from time 0 of the clock.
    slot: u64,
    total: u32,
    slots: [u32; N],
}

/// A count per second, in slots of a tenth.
pub type PerSecond = SlidingCount<11>;

/// A count per hour, in slots of a minute.
pub type PerHour = SlidingCount<61>;

impl PerSecond {
    /// An empty count.
    #[must_use]
    pub fn second() -> Self {
        Self::new(100)
    }
}

impl PerHour {
    /// An empty count.
    #[must_use]
    pub fn hour() -> Self {
        Self::new(60_000)
    }
}

impl<const N: usize> SlidingCount<N> {
    fn new(slot_ms: u64) -> Self {
        Self { slot_ms, slot: 0, total: 0, slots: [0; N] }
    }

    /// Adds `count` at `now`.
    pub fn add(&mut self, now: Millis, count: u32) {
        self.slide(now);
        self.slots[self.slot as usize % N] += count;
        self.total += count;
    }

    /// The count in the window that ends at `now`.
    pub fn count(&mut self, now: Millis) -> u32 {
        self.slide(now);
        self.total
    }

    /// When the count falls next, if nothing is added; `None` if it is 0.
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
        fn window_is_at_least_a_span_and_at_most_a_slot_longer(
            additions in prop::collection::vec((0..400u64, 1..5u32), 1..60),
        ) {
            let (mut sliding, mut now, mut all) = (PerSecond::second(), Millis(0), Vec::new());
            for (pause, count) in additions {
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
