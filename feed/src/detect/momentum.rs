//! Moves of a few minutes, for one-minute bars.
//!
//! Both rules report a move once: not again while they still hold in the same direction.

use super::{Direction, Finding, LOOKBACK, average_range, ramp, ratio};
use crate::bars::Bar;

/// The number of bars of a move.
const LEG: usize = 5;
/// The number of bars of a reversal.
const TURN: usize = 3;

/// The bars that [`surge`] needs: the average, the move, and one for the comparison with the bar before.
pub const SURGE_SPAN: usize = LOOKBACK + LEG + 1;
/// The bars that [`quick_reversal`] needs.
pub const REVERSAL_SPAN: usize = LOOKBACK + LEG + TURN + 1;

/// The close has moved in 5 bars by at least 3 average ranges of the bars before the move; bullish if upwards.
///
/// Strength: that move from 3 to 6 average ranges.
pub fn surge(bars: &[Bar]) -> Option<Finding> {
    let (bar, before) = bars.split_last()?;
    let moved = surged(bars)?;
    if surged(before).is_some_and(|last| last.signum() == moved.signum()) {
        return None;
    }
    Some(Finding::new(
        Direction::of(moved),
        &[ramp(moved.abs(), 3.0, 6.0)],
        vec![("close", bar.close), ("move_in_ranges", moved)],
    ))
}

fn surged(bars: &[Bar]) -> Option<f64> {
    let [.., bar] = bars else { return None };
    let start = bars.len().checked_sub(LEG + 1)?;
    let moved = ratio(bar.close - bars[start].close, average_range(&bars[..=start]));
    (moved.abs() >= 3.0).then_some(moved)
}

/// At least 0.6 of a move over 5 bars is taken back in the 3 bars after it, and the move was at least 2 average ranges
/// of the bars before it; bullish if the second move is upwards.
///
/// Strength: the mean of the first move from 2 to 5 average ranges and of the share taken back from 0.6 to 1.2.
pub fn quick_reversal(bars: &[Bar]) -> Option<Finding> {
    let (bar, before) = bars.split_last()?;
    let (moved, taken_back) = reversed(bars)?;
    if reversed(before).is_some_and(|(last, _)| last.signum() == moved.signum()) {
        return None;
    }
    Some(Finding::new(
        Direction::of(-moved),
        &[ramp(moved.abs(), 2.0, 5.0), ramp(taken_back, 0.6, 1.2)],
        vec![("close", bar.close), ("move_in_ranges", moved), ("taken_back", taken_back)],
    ))
}

/// The first move in average ranges, and the share of it that the second took back.
fn reversed(bars: &[Bar]) -> Option<(f64, f64)> {
    let [.., bar] = bars else { return None };
    let turn = bars.len().checked_sub(TURN + 1)?;
    let start = turn.checked_sub(LEG)?;
    let first = bars[turn].close - bars[start].close;
    let moved = ratio(first, average_range(&bars[..=start]));
    let taken_back = if first == 0.0 { 0.0 } else { (bars[turn].close - bar.close) / first };
    (moved.abs() >= 2.0 && taken_back >= 0.6).then_some((moved, taken_back))
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::super::samples::{bar, calm, detect_at};
    use super::*;

    /// Bars that close at these prices, after enough calm ones (range 2, close 100).
    fn closing(pattern: Pattern, closes: &[f64]) -> Option<Finding> {
        let last: Vec<Bar> = closes.iter().map(|&close| bar(close, close + 1.0, close - 1.0, close)).collect();
        detect_at(pattern, &calm(REVERSAL_SPAN), &last)
    }

    #[test]
    fn surge_needs_three_average_ranges_in_five_bars() {
        let surge = |closes: &[f64]| closing(Pattern::MomentumSurge, closes);
        let found = surge(&[101.0, 102.0, 103.0, 104.0, 106.0]).unwrap();
        assert_eq!((found.direction, found.confidence), (Direction::Bullish, 0.5));
        assert_eq!(surge(&[101.0, 102.0, 103.0, 104.0, 105.9]), None);
        let found = surge(&[99.0, 98.0, 97.0, 96.0, 88.0]).unwrap();
        assert_eq!((found.direction, found.confidence), (Direction::Bearish, 0.99));
    }

    #[test]
    fn surge_is_reported_once() {
        assert!(closing(Pattern::MomentumSurge, &[106.0]).is_some());
        assert_eq!(closing(Pattern::MomentumSurge, &[106.0, 107.0]), None);
    }

    #[test]
    fn reversal_needs_three_fifths_taken_back_in_three_bars() {
        let reversal = |closes: &[f64]| closing(Pattern::QuickReversal, closes);
        let found = reversal(&[101.0, 102.0, 103.0, 104.0, 105.0, 104.0, 103.0, 102.0]).unwrap();
        assert_eq!((found.direction, found.confidence), (Direction::Bearish, 0.5408));
        assert_eq!(reversal(&[101.0, 102.0, 103.0, 104.0, 105.0, 104.0, 103.0, 102.01]), None);
        // The first move is less than two average ranges.
        assert_eq!(reversal(&[101.0, 102.0, 103.0, 103.0, 103.9, 102.0, 101.0, 101.0]), None);
        let found = reversal(&[98.0, 96.0, 94.0, 92.0, 90.0, 90.0, 90.0, 102.0]).unwrap();
        assert_eq!((found.direction, found.confidence), (Direction::Bullish, 0.99));
    }

    #[test]
    fn reversal_is_reported_once() {
        let turned = [98.0, 96.0, 94.0, 92.0, 90.0, 90.0, 90.0, 102.0];
        assert!(closing(Pattern::QuickReversal, &turned).is_some());
        assert_eq!(closing(Pattern::QuickReversal, &[&turned[..], &[102.0]].concat()), None);
    }
}
