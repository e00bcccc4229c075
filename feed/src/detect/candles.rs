//! Patterns of one or two candles.

use super::{Direction, Finding, average_range, ramp, ratio};
use crate::bars::Bar;

/// The number of bars over which prices must have fallen or risen before a reversal pattern.
const LEG: usize = 5;

/// Bullish when, after prices fell over 5 bars, a falling bar is followed by a rising one whose body covers the whole
/// body of the first, is larger, and measures at least half an average range.
///
/// Strength: the mean of the ratio of the two bodies from 1 to 4 and of the second body from 0.5 to 1.5 average ranges.
pub fn bullish_engulfing(bars: &[Bar]) -> Option<Finding> {
    let (bar, before) = bars.split_last()?;
    let (first, prior) = before.split_last()?;
    let covers = first.close < first.open && bar.open <= first.close && bar.close >= first.open;
    if !covers || change(before)? >= 0.0 {
        return None;
    }
    engulfing(prior, first, bar, Direction::Bullish)
}

/// Bearish: the mirror image of [`bullish_engulfing`], after prices rose. Strength: the same.
pub fn bearish_engulfing(bars: &[Bar]) -> Option<Finding> {
    let (bar, before) = bars.split_last()?;
    let (first, prior) = before.split_last()?;
    let covers = first.close > first.open && bar.open >= first.close && bar.close <= first.open;
    if !covers || change(before)? <= 0.0 {
        return None;
    }
    engulfing(prior, first, bar, Direction::Bearish)
}

fn engulfing(prior: &[Bar], first: &Bar, bar: &Bar, direction: Direction) -> Option<Finding> {
    let body = ratio(bar.body(), average_range(prior));
    if bar.body() <= first.body() || body < 0.5 {
        return None;
    }
    let bodies = ratio(bar.body(), first.body());
    Some(Finding::new(
        direction,
        &[ramp(bodies, 1.0, 4.0), ramp(body, 0.5, 1.5)],
        vec![("close", bar.close), ("body_ratio", bodies), ("body_in_ranges", body)],
    ))
}

/// Bullish when, after prices fell over 5 bars, a bar of at least 0.7 average ranges has a lower shadow of twice its
/// body or more, an upper shadow of a fifth of its range or less, and too much body for a doji.
///
/// Strength: the mean of the lower shadow's share of the range from 0.55 to 0.85 and of the range from 0.7 to 1.7
/// average ranges.
pub fn hammer(bars: &[Bar]) -> Option<Finding> {
    let (bar, prior) = bars.split_last()?;
    let size = ratio(bar.range(), average_range(prior));
    let shape = bar.lower_shadow() >= 2.0 * bar.body()
        && bar.upper_shadow() <= 0.2 * bar.range()
        && bar.body() > DOJI_BODY * bar.range();
    if !shape || size < 0.7 || change(prior)? >= 0.0 {
        return None;
    }
    let shadow = ratio(bar.lower_shadow(), bar.range());
    Some(Finding::new(
        Direction::Bullish,
        &[ramp(shadow, 0.55, 0.85), ramp(size, 0.7, 1.7)],
        vec![("close", bar.close), ("lower_shadow_share", shadow), ("range_ratio", size)],
    ))
}

/// The largest share of its range that a doji's body may have.
const DOJI_BODY: f64 = 0.1;

/// Neutral when the body is at most a tenth of the range, and the range at least 0.7 average ranges.
///
/// Strength: the mean of the body's share from 0.1 down to 0 and of the range from 0.7 to 1.7 average ranges.
pub fn doji(bars: &[Bar]) -> Option<Finding> {
    let (bar, prior) = bars.split_last()?;
    let size = ratio(bar.range(), average_range(prior));
    let body = ratio(bar.body(), bar.range());
    if size < 0.7 || body > DOJI_BODY {
        return None;
    }
    Some(Finding::new(
        Direction::Neutral,
        &[1.0 - ramp(body, 0.0, DOJI_BODY), ramp(size, 0.7, 1.7)],
        vec![("close", bar.close), ("body_share", body), ("range_ratio", size)],
    ))
}

/// The change from the close five bars before the last one.
fn change(bars: &[Bar]) -> Option<f64> {
    let (last, before) = bars.split_last()?;
    let start = before.len().checked_sub(LEG)?;
    Some(last.close - before[start].close)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{bar, calm, detect_at};
    use super::super::{LOOKBACK, Pattern};
    use super::*;

    /// Calm bars, then a leg at `last` (range 2, open equal to close).
    fn leg_to(last: f64) -> Vec<Bar> {
        [calm(LOOKBACK), vec![bar(last, last + 1.0, last - 1.0, last); LEG - 1]].concat()
    }

    #[test]
    fn bullish_engulfing_needs_a_rising_bar_that_covers_a_falling_one_after_a_fall() {
        let at = |leg, first, bar| detect_at(Pattern::BullishEngulfing, &leg_to(leg), &[first, bar]);
        let first = bar(98.5, 99.0, 97.5, 98.0);
        let found = at(99.0, first, bar(97.9, 99.5, 97.5, 98.9)).unwrap();
        assert_eq!(found.direction, Direction::Bullish);
        assert_eq!(at(99.0, first, bar(98.1, 99.5, 97.5, 99.2)), None, "opens inside the first body");
        assert_eq!(at(99.0, first, bar(97.4, 98.5, 97.3, 98.4)), None, "closes inside the first body");
        assert_eq!(at(99.0, first, bar(97.9, 98.9, 97.5, 98.8)), None, "less than half an average range");
        assert_eq!(at(99.0, bar(98.0, 99.0, 97.5, 98.5), bar(97.9, 99.5, 97.5, 99.5)), None, "the first bar rises");
        assert_eq!(
            detect_at(
                Pattern::BullishEngulfing,
                &calm(LOOKBACK),
                &[bar(101.0, 102.0, 99.0, 100.5), bar(100.4, 102.0, 100.0, 101.5)]
            ),
            None,
            "prices rose"
        );
        assert_eq!(at(99.0, first, bar(97.5, 101.0, 97.0, 100.5)).unwrap().confidence, 0.99);
    }

    #[test]
    fn bearish_engulfing_needs_a_falling_bar_that_covers_a_rising_one_after_a_rise() {
        let at = |leg, first, bar| detect_at(Pattern::BearishEngulfing, &leg_to(leg), &[first, bar]);
        let first = bar(101.5, 102.5, 101.0, 102.0);
        let found = at(101.0, first, bar(102.1, 102.5, 100.5, 101.1)).unwrap();
        assert_eq!(found.direction, Direction::Bearish);
        assert_eq!(at(101.0, first, bar(101.9, 102.5, 100.5, 100.8)), None, "opens inside the first body");
        assert_eq!(at(101.0, first, bar(102.6, 102.7, 101.5, 101.6)), None, "closes inside the first body");
        assert_eq!(at(101.0, first, bar(102.1, 102.5, 101.1, 101.2)), None, "less than half an average range");
        assert_eq!(
            at(101.0, bar(102.0, 102.5, 101.0, 101.5), bar(102.1, 102.5, 100.5, 100.5)),
            None,
            "the first bar falls"
        );
        assert_eq!(at(101.0, first, bar(102.5, 103.0, 99.0, 99.5)).unwrap().confidence, 0.99);
    }

    #[test]
    fn hammer_needs_a_long_lower_shadow_after_a_fall() {
        let at = |leg, bar| detect_at(Pattern::Hammer, &leg_to(leg), &[bar]);
        let found = at(98.0, bar(98.0, 98.5, 96.5, 98.5)).unwrap();
        assert_eq!((found.direction, found.figures[1]), (Direction::Bullish, ("lower_shadow_share", 0.75)));
        assert_eq!(at(98.0, bar(98.0, 98.76, 97.01, 98.5)), None, "a shadow of less than two bodies");
        assert_eq!(at(98.0, bar(98.0, 99.1, 96.5, 98.5)), None, "an upper shadow of more than a fifth");
        assert_eq!(at(98.0, bar(98.0, 98.1, 96.0, 98.1)), None, "the body of a doji");
        assert_eq!(at(98.0, bar(98.0, 98.3, 96.95, 98.3)), None, "a range of less than 0.7 of the average");
        assert_eq!(at(100.0, bar(98.0, 98.5, 96.5, 98.5)), None, "prices did not fall");
        assert_eq!(at(98.0, bar(98.0, 98.5, 94.5, 98.5)).unwrap().confidence, 0.99);
    }

    #[test]
    fn doji_needs_a_tiny_body() {
        let at = |bar| detect_at(Pattern::Doji, &calm(LOOKBACK), &[bar]);
        let found = at(bar(100.0, 101.25, 98.75, 100.25)).unwrap();
        assert_eq!((found.direction, found.figures[2]), (Direction::Neutral, ("range_ratio", 1.25)));
        assert_eq!(at(bar(100.0, 101.25, 98.75, 100.26)), None, "more body than a tenth");
        assert_eq!(at(bar(100.0, 100.7, 99.31, 100.0)), None, "a range of less than 0.7 of the average");
        assert_eq!(at(bar(100.0, 100.0, 100.0, 100.0)), None, "no range at all");
        assert_eq!(at(bar(100.0, 102.0, 98.5, 100.0)).unwrap().confidence, 0.99);
    }
}
