//! Moving averages that cross.

use super::{Direction, Finding, average_range, mean, ramp, ratio};
use crate::bars::Bar;

/// Bars of the fast average.
pub const FAST: usize = 10;
/// Bars of the slow average.
pub const SLOW: usize = 30;

/// Bullish when the mean close of 10 bars goes above that of 30 bars, bearish when it goes below.
///
/// Strength: the relative movement of the two averages in this bar, from 0 to 0.5 average ranges. Quick crossings
/// follow a real turn; slow ones are common in sideways markets.
pub fn reversal(bars: &[Bar]) -> Option<Finding> {
    let (_, before) = bars.split_last()?;
    let (_, now) = bars.split_first()?;
    let bar = now.last()?;
    let (fast, slow) = averages(now);
    let (gap, gap_before) = (fast - slow, spread(before));
    let direction = if gap_before <= 0.0 && gap > 0.0 {
        Direction::Bullish
    } else if gap_before >= 0.0 && gap < 0.0 {
        Direction::Bearish
    } else {
        return None;
    };
    let speed = ratio((gap - gap_before).abs(), average_range(before));
    Some(Finding::new(
        direction,
        &[ramp(speed, 0.0, 0.5)],
        vec![("close", bar.close), ("fast_average", fast), ("slow_average", slow)],
    ))
}

fn spread(bars: &[Bar]) -> f64 {
    let (fast, slow) = averages(bars);
    fast - slow
}

fn averages(bars: &[Bar]) -> (f64, f64) {
    let fast = bars.len().saturating_sub(FAST);
    (mean(&bars[fast..], |bar| bar.close), mean(bars, |bar| bar.close))
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::super::samples::{bar, detect_at};
    use super::*;

    fn flat(close: f64, count: usize) -> Vec<Bar> {
        vec![bar(close, close + 1.0, close - 1.0, close); count]
    }

    /// A bar at `close` after 20 bars at `old` and 10 at 100: before it, the fast average is 100 and the slow one is
    /// two thirds of the way to `old`.
    fn turned_to(old: f64, close: f64) -> Option<Finding> {
        let before = [flat(old, SLOW - FAST), flat(100.0, FAST)].concat();
        detect_at(Pattern::TrendReversal, &before, &flat(close, 1))
    }

    #[test]
    fn reversal_needs_averages_that_cross() {
        // From 103, the slow average is at 102 before and at (19 × 103 + 10 × 100 + x) / 30 after: x has to exceed
        // 128.5.
        let found = turned_to(103.0, 128.6).unwrap();
        assert_eq!(found.direction, Direction::Bullish);
        assert_eq!(turned_to(103.0, 128.4), None);

        let found = turned_to(97.0, 71.4).unwrap();
        assert_eq!(found.direction, Direction::Bearish);
        assert_eq!(turned_to(97.0, 71.6), None);
    }

    #[test]
    fn averages_that_have_crossed_give_no_second_reversal() {
        let before = [flat(100.0, SLOW - FAST), flat(103.0, FAST)].concat();
        assert_eq!(detect_at(Pattern::TrendReversal, &before, &flat(110.0, 1)), None);
    }

    #[test]
    fn quick_crossing_has_more_confidence_than_a_slow_one() {
        let (slow, quick) = (turned_to(100.1, 102.0).unwrap(), turned_to(100.1, 114.0).unwrap());
        assert!(slow.confidence < 0.65 && quick.confidence > 0.9, "{slow:?} {quick:?}");
    }
}
