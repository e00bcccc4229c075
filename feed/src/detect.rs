//! The detectors of patterns, with their inputs and their confidence.
//!
//! A detector is a pure rule over the last bars of one symbol, the newest at the end. [`DETECTORS`] is the table of all
//! detectors. The rules are in the modules below, each documented with its condition and its confidence. "Average
//! range" is always the mean of high minus low over the [`LOOKBACK`] bars before the pattern.
//!
//! Confidence is `0.5 + 0.49 × strength`. Strength is the mean of one or two figures, each scaled to 0..1 by [`ramp`]:
//! 0 where the condition is just met, 1 where it is met very clearly.

pub mod candles;
pub mod extremes;
pub mod momentum;
pub mod trend;
pub mod volatility;
pub mod volume;

use std::fmt;

use crate::bars::Bar;

/// The number of bars for extremes and averages.
pub const LOOKBACK: usize = 20;

/// All detectors, in the order in which they test a bar.
pub const DETECTORS: [Detector; 12] = [
    Detector {
        pattern: Pattern::BreakoutBO,
        span: LOOKBACK + 1,
        needs: PatternNeeds::Volume,
        find: extremes::breakout,
    },
    Detector {
        pattern: Pattern::SupportBreak,
        span: LOOKBACK + 1,
        needs: PatternNeeds::Prices,
        find: extremes::support_break,
    },
    Detector {
        pattern: Pattern::ResistanceBreak,
        span: LOOKBACK + 1,
        needs: PatternNeeds::Prices,
        find: extremes::resistance_break,
    },
    Detector {
        pattern: Pattern::TrendReversal,
        span: trend::SLOW + 1,
        needs: PatternNeeds::Prices,
        find: trend::reversal,
    },
    Detector {
        pattern: Pattern::BullishEngulfing,
        span: LOOKBACK + 2,
        needs: PatternNeeds::Prices,
        find: candles::bullish_engulfing,
    },
    Detector {
        pattern: Pattern::BearishEngulfing,
        span: LOOKBACK + 2,
        needs: PatternNeeds::Prices,
        find: candles::bearish_engulfing,
    },
    Detector { pattern: Pattern::Hammer, span: LOOKBACK + 1, needs: PatternNeeds::Prices, find: candles::hammer },
    Detector { pattern: Pattern::Doji, span: LOOKBACK + 1, needs: PatternNeeds::Prices, find: candles::doji },
    Detector { pattern: Pattern::SurgeDetection, span: LOOKBACK + 1, needs: PatternNeeds::Volume, find: volume::surge },
    Detector {
        pattern: Pattern::VolatilitySpike,
        span: LOOKBACK + 1,
        needs: PatternNeeds::Prices,
        find: volatility::spike,
    },
    Detector {
        pattern: Pattern::MomentumSurge,
        span: momentum::SURGE_SPAN,
        needs: PatternNeeds::Minutes,
        find: momentum::surge,
    },
    Detector {
        pattern: Pattern::QuickReversal,
        span: momentum::REVERSAL_SPAN,
        needs: PatternNeeds::Minutes,
        find: momentum::quick_reversal,
    },
];

/// One rule, with its inputs.
#[derive(Debug, Clone, Copy)]
pub struct Detector {
    /// The pattern that it finds.
    pub pattern: Pattern,
    /// How many bars it needs, including the newest.
    pub span: usize,
    /// The input that a file must have for it.
    pub needs: PatternNeeds,
    find: fn(&[Bar]) -> Option<Finding>,
}

impl Detector {
    /// Whether it runs on a file with these inputs. A detector is off without its input.
    pub fn runs_on(&self, inputs: Inputs) -> bool {
        match self.needs {
            PatternNeeds::Prices => true,
            PatternNeeds::Volume => inputs.volume,
            PatternNeeds::Minutes => inputs.minutes,
        }
    }

    /// Tests the last of `bars`, the newest. Finds nothing if there are fewer bars than its span.
    pub fn find(&self, bars: &[Bar]) -> Option<Finding> {
        let start = bars.len().checked_sub(self.span)?;
        (self.find)(&bars[start..])
    }
}

/// The input of a detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternNeeds {
    /// Open, high, low and close.
    Prices,
    /// Traded volume as well.
    Volume,
    /// One-minute bars.
    Minutes,
}

/// The inputs of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs {
    /// At least one bar has a volume.
    pub volume: bool,
    /// The bars are one minute each.
    pub minutes: bool,
}

/// The patterns, named as producers and filters spell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// See [`extremes::breakout`].
    BreakoutBO,
    /// See [`extremes::support_break`].
    SupportBreak,
    /// See [`extremes::resistance_break`].
    ResistanceBreak,
    /// See [`trend::reversal`].
    TrendReversal,
    /// See [`candles::bullish_engulfing`].
    BullishEngulfing,
    /// See [`candles::bearish_engulfing`].
    BearishEngulfing,
    /// See [`candles::hammer`].
    Hammer,
    /// See [`candles::doji`].
    Doji,
    /// See [`volume::surge`].
    SurgeDetection,
    /// See [`volatility::spike`].
    VolatilitySpike,
    /// See [`momentum::surge`].
    MomentumSurge,
    /// See [`momentum::quick_reversal`].
    QuickReversal,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The direction of prices that a pattern signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Up.
    Bullish,
    /// Down.
    Bearish,
    /// No direction.
    Neutral,
}

impl Direction {
    /// The direction of a move by `change`.
    pub fn of(change: f64) -> Self {
        if change > 0.0 {
            Self::Bullish
        } else if change < 0.0 {
            Self::Bearish
        } else {
            Self::Neutral
        }
    }

    /// The name in a payload.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bullish => "bullish",
            Self::Bearish => "bearish",
            Self::Neutral => "neutral",
        }
    }
}

/// A pattern that a rule found in the newest bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The direction of prices.
    pub direction: Direction,
    /// From 0.5 to 0.99, four decimals.
    pub confidence: f64,
    /// The figures of the rule, for the payload.
    pub figures: Vec<(&'static str, f64)>,
}

impl Finding {
    fn new(direction: Direction, strengths: &[f64], figures: Vec<(&'static str, f64)>) -> Self {
        let strength = strengths.iter().sum::<f64>() / strengths.len() as f64;
        Self { direction, confidence: round(0.5 + 0.49 * strength), figures }
    }
}

/// Scales `value` linearly from `from` (0) to `to` (1), and clamps it.
pub fn ramp(value: f64, from: f64, to: f64) -> f64 {
    ((value - from) / (to - from)).clamp(0.0, 1.0)
}

/// `part / whole`; 0 unless `whole` is positive.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Rounds to four decimals, for payloads.
pub(crate) fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// The mean range of the last [`LOOKBACK`] of `bars`.
fn average_range(bars: &[Bar]) -> f64 {
    mean(&bars[bars.len().saturating_sub(LOOKBACK)..], Bar::range)
}

/// The mean of one figure over some bars; 0 for none.
pub(crate) fn mean(bars: &[Bar], figure: impl Fn(&Bar) -> f64) -> f64 {
    ratio(bars.iter().map(figure).sum(), bars.len() as f64)
}

/// Bars for the tests of the rules.
#[cfg(test)]
mod samples {
    use super::{Bar, DETECTORS, Finding, Pattern};

    pub(super) fn bar(open: f64, high: f64, low: f64, close: f64) -> Bar {
        Bar { open, high, low, close, volume: 1000 }
    }

    /// Bars with range 2 around 100 that neither rise nor fall.
    pub(super) fn calm(count: usize) -> Vec<Bar> {
        vec![bar(100.0, 101.0, 99.0, 100.0); count]
    }

    /// The finding of the detector of `pattern` for `before` followed by `last`.
    pub(super) fn detect_at(pattern: Pattern, before: &[Bar], last: &[Bar]) -> Option<Finding> {
        let detector = DETECTORS.iter().find(|detector| detector.pattern == pattern).unwrap();
        let bars: Vec<Bar> = before.iter().chain(last).copied().collect();
        assert!(bars.len() >= detector.span, "{pattern} needs {} bars", detector.span);
        detector.find(&bars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_runs_from_half_to_almost_one() {
        let confidence = |strengths: &[f64]| Finding::new(Direction::Neutral, strengths, Vec::new()).confidence;
        assert_eq!(confidence(&[0.0]), 0.5);
        assert_eq!(confidence(&[1.0, 0.0]), 0.745);
        assert_eq!(confidence(&[1.0, 1.0]), 0.99);
    }

    #[test]
    fn ramp_is_clamped_to_0_and_1() {
        assert_eq!(ramp(1.0, 2.0, 4.0), 0.0);
        assert_eq!(ramp(3.0, 2.0, 4.0), 0.5);
        assert_eq!(ramp(9.0, 2.0, 4.0), 1.0);
    }

    #[test]
    fn detectors_are_off_without_their_input() {
        let off = |inputs: Inputs| -> Vec<Pattern> {
            DETECTORS.iter().filter(|detector| !detector.runs_on(inputs)).map(|detector| detector.pattern).collect()
        };
        let daily = Inputs { volume: true, minutes: false };
        assert_eq!(off(daily), [Pattern::MomentumSurge, Pattern::QuickReversal]);
        let index_minutes = Inputs { volume: false, minutes: true };
        assert_eq!(off(index_minutes), [Pattern::BreakoutBO, Pattern::SurgeDetection]);
    }

    #[test]
    fn every_pattern_has_one_detector() {
        let patterns: std::collections::BTreeSet<Pattern> = DETECTORS.iter().map(|detector| detector.pattern).collect();
        assert_eq!(patterns.len(), DETECTORS.len());
    }

    #[test]
    fn nothing_is_found_before_there_are_enough_bars() {
        for detector in DETECTORS {
            for count in 0..detector.span {
                assert_eq!(detector.find(&samples::calm(count)), None);
            }
        }
    }
}
