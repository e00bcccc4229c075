//! Agreement of two detectors: what makes a pattern's tier `combo`.
//!
//! A finding is a combo when a *different* detector found the same direction in the same symbol and file not more than
//! [`REACH`] bars before, or in the same bar and earlier in the order of [`DETECTORS`](crate::detect::DETECTORS). The
//! later of the two has the tier, and names the other in `agrees_with`. If several agree, the newest of them is named.
//! Neutral findings agree with nothing.
//!
//! Agreement raises the confidence c to `c + (0.99 − c) × p / 2`, where p is the partner's confidence.

use std::collections::VecDeque;

use crate::detect::{Direction, Finding, Pattern, round};

/// How many bars apart two findings may be and still agree.
pub const REACH: usize = 3;

/// The recent findings of one symbol in one file.
#[derive(Debug, Default)]
pub struct Agreement {
    recent: VecDeque<Seen>,
}

#[derive(Debug)]
struct Seen {
    bar: usize,
    pattern: Pattern,
    direction: Direction,
    confidence: f64,
}

impl Agreement {
    /// Takes a finding of the detector of `pattern` at the bar number `bar`. If an earlier finding agrees, raises the
    /// confidence of this one and returns the other's pattern.
    ///
    /// Bars must be in rising order. Later agreement uses the confidence before it was raised.
    pub fn partner(&mut self, bar: usize, pattern: Pattern, finding: &mut Finding) -> Option<Pattern> {
        if finding.direction == Direction::Neutral {
            return None;
        }
        while self.recent.front().is_some_and(|seen| seen.bar + REACH < bar) {
            self.recent.pop_front();
        }
        let agreeing =
            self.recent.iter().rev().find(|seen| seen.direction == finding.direction && seen.pattern != pattern);
        let partner = agreeing.map(|seen| (seen.pattern, seen.confidence));
        self.recent.push_back(Seen { bar, pattern, direction: finding.direction, confidence: finding.confidence });
        let (pattern, confidence) = partner?;
        finding.confidence = round(finding.confidence + (0.99 - finding.confidence) * confidence / 2.0);
        Some(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(direction: Direction) -> Finding {
        Finding { direction, confidence: 0.59, figures: Vec::new() }
    }

    /// The partner of a bullish Hammer at bar 10, after `before`.
    fn partner_after(before: &[(usize, Pattern, Direction)]) -> Option<Pattern> {
        let mut agreement = Agreement::default();
        for &(bar, pattern, direction) in before {
            agreement.partner(bar, pattern, &mut finding(direction));
        }
        agreement.partner(10, Pattern::Hammer, &mut finding(Direction::Bullish))
    }

    #[test]
    fn findings_agree_up_to_three_bars_apart() {
        assert_eq!(partner_after(&[(7, Pattern::BreakoutBO, Direction::Bullish)]), Some(Pattern::BreakoutBO));
        assert_eq!(partner_after(&[(6, Pattern::BreakoutBO, Direction::Bullish)]), None);
    }

    #[test]
    fn earlier_finding_in_the_same_bar_agrees() {
        assert_eq!(partner_after(&[(10, Pattern::BreakoutBO, Direction::Bullish)]), Some(Pattern::BreakoutBO));
    }

    #[test]
    fn only_another_detector_of_the_same_direction_agrees() {
        assert_eq!(partner_after(&[(9, Pattern::Hammer, Direction::Bullish)]), None);
        assert_eq!(partner_after(&[(9, Pattern::SupportBreak, Direction::Bearish)]), None);
        assert_eq!(partner_after(&[(9, Pattern::Doji, Direction::Neutral)]), None);
        let mut agreement = Agreement::default();
        agreement.partner(9, Pattern::Doji, &mut finding(Direction::Neutral));
        assert_eq!(agreement.partner(9, Pattern::VolatilitySpike, &mut finding(Direction::Neutral)), None);
    }

    #[test]
    fn newest_agreeing_finding_is_named() {
        let before = [(8, Pattern::BreakoutBO, Direction::Bullish), (9, Pattern::BullishEngulfing, Direction::Bullish)];
        assert_eq!(partner_after(&before), Some(Pattern::BullishEngulfing));
    }

    #[test]
    fn agreement_raises_confidence() {
        let mut agreement = Agreement::default();
        let (mut first, mut second) = (finding(Direction::Bearish), finding(Direction::Bearish));
        agreement.partner(1, Pattern::SupportBreak, &mut first);
        agreement.partner(2, Pattern::BearishEngulfing, &mut second);
        assert_eq!(first.confidence, 0.59);
        assert_eq!(second.confidence, 0.708);
    }
}
