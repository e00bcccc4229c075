//! A budget with a rate and a burst (GCRA). Pure: the clock is passed in.
//!
//! It only stores the time at which it is full again. As long as a unit is left, more than that may be spent: the debt
//! delays the next spending.

use tickwire_core::ids::Millis;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MS: u64 = 1_000_000;

/// How fast a budget fills up, and its size.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The time in which one unit is added, in nanoseconds.
    each: u64,
    /// The time in which an empty budget becomes full, in nanoseconds.
    full: u64,
}

impl Rate {
    /// `per_second` units a second (0 means no limit), and `burst` units at most at once.
    #[must_use]
    pub fn new(per_second: u32, burst: u64) -> Self {
        let each = NANOS_PER_SECOND.checked_div(u64::from(per_second)).unwrap_or(0);
        Self { each, full: each.saturating_mul(burst.max(1)) }
    }

    /// The rate of a budget that `count` share: `count` times as fast, with a burst `count` times as large.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self { each: self.each / u64::from(count.max(1)), full: self.full }
    }

    /// The price of `count` units.
    #[must_use]
    pub fn units(&self, count: u64) -> Price {
        Price(self.each.saturating_mul(count))
    }

    /// The price of `count / of` of a unit.
    #[must_use]
    pub fn part(&self, count: u64, of: u64) -> Price {
        Price((u128::from(self.each) * u128::from(count) / u128::from(of.max(1))).try_into().unwrap_or(u64::MAX))
    }
}

/// A price, as the time in which the budget gains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price(u64);

/// A budget, full at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// When it is full again, in nanoseconds of the clock.
    full_at: u64,
}

impl Budget {
    /// Spends a price, even if the budget has less.
    pub fn spend(&mut self, now: Millis, Price(price): Price) {
        self.full_at = self.full_at.max(now.0.saturating_mul(NANOS_PER_MS)).saturating_add(price);
    }

    /// When the budget has a unit. It is not later than now if it has one already.
    #[must_use]
    pub fn free_at(&self, rate: &Rate) -> Millis {
        Millis(self.full_at.saturating_sub(rate.full.saturating_sub(rate.each)).div_ceil(NANOS_PER_MS))
    }

    /// Whether the budget is full at `now`.
    #[must_use]
    pub fn is_full(&self, now: Millis) -> bool {
        self.full_at <= now.0.saturating_mul(NANOS_PER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many units can be spent in a time.
    fn spent(rate: &Rate, budget: &mut Budget, ms: std::ops::Range<u64>) -> u64 {
        let mut spent = 0;
        for now in ms.map(Millis) {
            while budget.free_at(rate) <= now && spent < 1_000_000 {
                budget.spend(now, rate.units(1));
                spent += 1;
            }
        }
        spent
    }

    #[test]
    fn burst_can_be_spent_at_once_and_then_the_rate_holds() {
        let (rate, mut budget) = (Rate::new(50, 200), Budget::default());
        assert_eq!(spent(&rate, &mut budget, 5_000..5_001), 200);
        assert_eq!(spent(&rate, &mut budget, 5_001..15_001), 500);
        assert!(!budget.is_full(Millis(18_000)) && budget.is_full(Millis(19_100)));
        assert_eq!(spent(&rate, &mut budget, 60_000..60_001), 200);
    }

    #[test]
    fn debt_delays_the_next_spending() {
        let (rate, mut budget) = (Rate::new(10, 5), Budget::default());
        budget.spend(Millis(1_000), rate.units(25));
        assert_eq!(budget.free_at(&rate), Millis(1_000 + 2_500 - 400));
        let mut parts = Budget::default();
        (0..4).for_each(|_| parts.spend(Millis(0), rate.part(1, 4)));
        assert_eq!(parts.free_at(&rate), Millis(0));
        assert_eq!(rate.part(3, 4), Price(75_000_000));
    }

    #[test]
    fn shared_rate_and_burst_are_multiplied() {
        let (rate, mut budget) = (Rate::new(50, 200).times(4), Budget::default());
        assert_eq!(spent(&rate, &mut budget, 0..1), 800);
        assert_eq!(spent(&rate, &mut budget, 1..1_001), 200);
    }

    #[test]
    fn rate_of_zero_means_no_limit() {
        let (rate, mut budget) = (Rate::new(0, 1), Budget::default());
        budget.spend(Millis(7), rate.units(u64::MAX));
        assert!(budget.free_at(&rate) <= Millis(7) && budget.is_full(Millis(7)));
    }
}
