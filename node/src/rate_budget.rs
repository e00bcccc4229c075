//! How often a node does what others make it do, such as to trace an event: so many times in a second. Pure.

use std::time::Duration;

/// A bucket that holds as much as a second fills.
#[derive(Debug)]
pub(crate) struct RateBudget {
    rate: f64,
    left: f64,
    at: Duration,
}

impl RateBudget {
    /// So many times in a second.
    pub(crate) fn new(rate: u32) -> Self {
        let rate = f64::from(rate);
        Self { rate, left: rate, at: Duration::ZERO }
    }

    /// Takes one time out of it, at this monotonic time. Returns whether there was one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.left = (self.left + passed * self.rate).min(self.rate);
        let has_one = self.left >= 1.0;
        if has_one {
            self.left -= 1.0;
        }
        has_one
    }

    /// Takes so many more times out of it, because what was done has cost more than one. If it had not as many, the next
    /// ones wait until they have come back.
    pub(crate) fn charge(&mut self, times: usize) {
        self.left -= times as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_gets_the_rate_and_one_second_in_advance() {
        let mut budget = RateBudget::new(10);
        let taken = (0..5_000).filter(|at| budget.take(Duration::from_millis(100_000 + at))).count();
        assert!((59..=60).contains(&taken), "{taken}");
        assert!(!budget.take(Duration::from_millis(50)), "an earlier time adds nothing");
    }

    #[test]
    fn what_costs_more_is_done_less_often() {
        let mut budget = RateBudget::new(1_000);
        let mut done = 0;
        for at in 0..10_000 {
            if budget.take(Duration::from_millis(100_000 + at)) {
                budget.charge(255);
                done += 1;
            }
        }
        // 11,000 times in all, and the last one may have taken more than there was.
        assert!((42..=43).contains(&done), "{done}");
    }
}
