//! Trading volume against its average.

use super::{Direction, Finding, mean, ramp, ratio};
use crate::bars::Bar;

/// The volume is at least twice the mean of the 20 bars before. The direction is that of the change from the close
/// before.
///
/// Strength: the volume ratio from 2 to 4.
pub fn surge(bars: &[Bar]) -> Option<Finding> {
    let (bar, prior) = bars.split_last()?;
    let volume_ratio = ratio(bar.volume as f64, mean(prior, |bar| bar.volume as f64));
    if volume_ratio < 2.0 {
        return None;
    }
    let change = bar.close - prior.last()?.close;
    Some(Finding::new(
        Direction::of(change),
        &[ramp(volume_ratio, 2.0, 4.0)],
        vec![("close", bar.close), ("change", change), ("volume_ratio", volume_ratio)],
    ))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{bar, calm, detect_at};
    use super::super::{LOOKBACK, Pattern};
    use super::*;

    fn at(volume: u64, close: f64) -> Option<Finding> {
        detect_at(Pattern::SurgeDetection, &calm(LOOKBACK), &[Bar { volume, ..bar(100.0, 101.0, 99.0, close) }])
    }

    #[test]
    fn surge_needs_twice_the_mean_volume() {
        assert_eq!(at(2000, 100.5).unwrap().confidence, 0.5);
        assert_eq!(at(1999, 100.5), None);
        assert_eq!(at(4000, 100.5).unwrap().confidence, 0.99);
    }

    #[test]
    fn direction_follows_the_change_of_the_close() {
        assert_eq!(at(2000, 100.5).unwrap().direction, Direction::Bullish);
        assert_eq!(at(2000, 99.5).unwrap().direction, Direction::Bearish);
        assert_eq!(at(2000, 100.0).unwrap().direction, Direction::Neutral);
    }

    #[test]
    fn no_surge_without_volumes() {
        let silent = vec![Bar { volume: 0, ..bar(100.0, 101.0, 99.0, 100.0) }; LOOKBACK];
        assert_eq!(detect_at(Pattern::SurgeDetection, &silent, &[silent[0]]), None);
    }
}
