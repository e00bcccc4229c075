//! Closes beyond the extremes of the last 20 bars.
//!
//! A breakout needs volume, at any age of the extreme. A break of resistance or support needs a level of some age, with
//! any volume.

use super::{Direction, Finding, LOOKBACK, average_range, mean, ramp, ratio};
use crate::bars::Bar;

/// The lowest age of a level that counts as support or resistance, in bars.
pub const LEVEL_AGE: usize = 5;

/// Bullish when the close is above the highest high of the 20 bars before it, on at least 1.2 times their mean volume.
///
/// Strength: the mean of the volume ratio from 1.2 to 2.5 and of the close's distance from the level, from 0 to 1
/// average range.
pub fn breakout(bars: &[Bar]) -> Option<Finding> {
    let (bar, prior) = bars.split_last()?;
    let (level, _) = highest(prior)?;
    let volume_ratio = ratio(bar.volume as f64, mean(prior, |bar| bar.volume as f64));
    if bar.close <= level || volume_ratio < 1.2 {
        return None;
    }
    let distance = ratio(bar.close - level, average_range(prior));
    Some(Finding::new(
        Direction::Bullish,
        &[ramp(volume_ratio, 1.2, 2.5), ramp(distance, 0.0, 1.0)],
        vec![("close", bar.close), ("level", level), ("volume_ratio", volume_ratio)],
    ))
}

/// Bullish when the close is above the highest high of the 20 bars before it, and that high is at least 5 bars old.
///
/// Strength: the mean of the level's age from 5 to 20 bars and of the close's distance from it, from 0 to 1 average
/// range.
pub fn resistance_break(bars: &[Bar]) -> Option<Finding> {
    let (bar, prior) = bars.split_last()?;
    let (level, age) = highest(prior)?;
    break_of(bar, prior, Direction::Bullish, (level, age), bar.close - level)
}

/// Bearish when the close is below the lowest low of the 20 bars before it, and that low is at least 5 bars old.
///
/// Strength: as for [`resistance_break`].
pub fn support_break(bars: &[Bar]) -> Option<Finding> {
    let (bar, prior) = bars.split_last()?;
    let (level, age) = lowest(prior)?;
    break_of(bar, prior, Direction::Bearish, (level, age), level - bar.close)
}

fn break_of(
    bar: &Bar,
    prior: &[Bar],
    direction: Direction,
    (level, age): (f64, usize),
    beyond: f64,
) -> Option<Finding> {
    if beyond <= 0.0 || age < LEVEL_AGE {
        return None;
    }
    let distance = ratio(beyond, average_range(prior));
    Some(Finding::new(
        direction,
        &[ramp(age as f64, LEVEL_AGE as f64, LOOKBACK as f64), ramp(distance, 0.0, 1.0)],
        vec![("close", bar.close), ("level", level), ("level_age", age as f64)],
    ))
}

/// The highest high, and how many bars ago it was last reached; 1 is the bar before this one.
fn highest(prior: &[Bar]) -> Option<(f64, usize)> {
    newest_extreme(prior, |bar| bar.high)
}

/// The lowest low, and how many bars ago it was last reached.
fn lowest(prior: &[Bar]) -> Option<(f64, usize)> {
    newest_extreme(prior, |bar| -bar.low).map(|(low, age)| (-low, age))
}

fn newest_extreme(prior: &[Bar], figure: impl Fn(&Bar) -> f64) -> Option<(f64, usize)> {
    let newest_first = prior.iter().rev().map(figure).zip(1..);
    newest_first.reduce(|best, next| if next.0 > best.0 { next } else { best })
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::super::samples::{bar, calm, detect_at};
    use super::*;

    fn with_volume(close: f64, volume: u64) -> Bar {
        Bar { volume, ..bar(100.0, close, 99.5, close) }
    }

    /// Calm bars; the one `age` bars before the next has the range 90 to 110.
    fn with_level(age: usize) -> Vec<Bar> {
        let mut bars = calm(LOOKBACK);
        bars[LOOKBACK - age] = bar(100.0, 110.0, 90.0, 100.0);
        bars
    }

    #[test]
    fn breakout_needs_a_close_above_the_high_and_volume() {
        let at = |close, volume| detect_at(Pattern::BreakoutBO, &calm(LOOKBACK), &[with_volume(close, volume)]);
        let found = at(101.01, 1200).unwrap();
        assert_eq!(found.direction, Direction::Bullish);
        assert_eq!(found.figures, [("close", 101.01), ("level", 101.0), ("volume_ratio", 1.2)]);
        assert_eq!(at(101.01, 1199), None);
        assert_eq!(at(101.0, 5000), None);
        assert_eq!(at(103.0, 2500).unwrap().confidence, 0.99);
    }

    #[test]
    fn resistance_must_be_five_bars_old() {
        let at = |age, close| detect_at(Pattern::ResistanceBreak, &with_level(age), &[bar(100.0, close, 99.5, close)]);
        let found = at(5, 110.01).unwrap();
        assert_eq!(found.direction, Direction::Bullish);
        assert_eq!(found.figures, [("close", 110.01), ("level", 110.0), ("level_age", 5.0)]);
        assert_eq!(at(4, 110.01), None);
        assert_eq!(at(5, 110.0), None);
        assert_eq!(at(20, 120.0).unwrap().confidence, 0.99);
    }

    #[test]
    fn support_must_be_five_bars_old() {
        let at = |age, close| detect_at(Pattern::SupportBreak, &with_level(age), &[bar(100.0, 100.5, close, close)]);
        let found = at(5, 89.99).unwrap();
        assert_eq!(found.direction, Direction::Bearish);
        assert_eq!(found.figures, [("close", 89.99), ("level", 90.0), ("level_age", 5.0)]);
        assert_eq!(at(4, 89.99), None);
        assert_eq!(at(5, 90.0), None);
        assert_eq!(at(20, 80.0).unwrap().confidence, 0.99);
    }

    #[test]
    fn age_of_a_level_counts_from_its_last_touch() {
        let mut bars = with_level(15);
        bars[LOOKBACK - 3] = bars[LOOKBACK - 15];
        assert_eq!(detect_at(Pattern::ResistanceBreak, &bars, &[bar(100.0, 111.0, 99.5, 111.0)]), None);
    }
}
