//! The range of a bar against its average.

use super::{Direction, Finding, average_range, ramp, ratio};
use crate::bars::Bar;

/// Neutral when high minus low is at least twice the average range.
///
/// Strength: that ratio from 2 to 3.5.
pub fn spike(bars: &[Bar]) -> Option<Finding> {
    let (bar, prior) = bars.split_last()?;
    let range_ratio = ratio(bar.range(), average_range(prior));
    if range_ratio < 2.0 {
        return None;
    }
    Some(Finding::new(
        Direction::Neutral,
        &[ramp(range_ratio, 2.0, 3.5)],
        vec![("close", bar.close), ("range", bar.range()), ("range_ratio", range_ratio)],
    ))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{bar, calm, detect_at};
    use super::super::{LOOKBACK, Pattern};
    use super::*;

    #[test]
    fn spike_needs_twice_the_average_range() {
        let at = |high| detect_at(Pattern::VolatilitySpike, &calm(LOOKBACK), &[bar(100.0, high, 99.0, 100.0)]);
        let found = at(103.0).unwrap();
        assert_eq!((found.direction, found.confidence), (Direction::Neutral, 0.5));
        assert_eq!(at(102.9), None);
        assert_eq!(at(106.0).unwrap().confidence, 0.99);
    }

    #[test]
    fn no_spike_after_bars_without_range() {
        let still = vec![bar(100.0, 100.0, 100.0, 100.0); LOOKBACK];
        assert_eq!(detect_at(Pattern::VolatilitySpike, &still, &[bar(100.0, 103.0, 99.0, 100.0)]), None);
    }
}
