//! Measures of closes: SPY against its long average, and the breadth of all symbols.

use crate::detect::ramp;

/// Days of the long average.
pub const LONG: usize = 200;
/// Days for volatility, for the width of a sideways market, and for a new high or low.
pub const SHORT: usize = 20;
/// The distance from the average, as a share of it, up to which the market is neither bull nor bear.
const BAND: f64 = 0.02;
/// The widest span of 20 closes that counts as consolidation, as a share of the average.
const NARROW: f64 = 0.05;

/// The state of the market.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regime {
    /// SPY closed more than 2 % above its average.
    Bull,
    /// SPY closed more than 2 % below its average.
    Bear,
    /// Between the two, and the last 20 closes span at most 5 % of the average.
    Consolidation,
    /// Between the two, and a wider span.
    Neutral,
}

impl Regime {
    /// The name in a payload.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bull => "bull",
            Self::Bear => "bear",
            Self::Consolidation => "consolidation",
            Self::Neutral => "neutral",
        }
    }
}

/// The measures of SPY.
#[derive(Debug)]
pub(super) struct MarketIndex {
    /// Close divided by its 200-day average, minus 1.
    pub(super) distance: f64,
    /// Highest minus lowest of the last 20 closes, as a share of the average.
    pub(super) width: f64,
    /// Standard deviation of the last 20 daily returns, annualised.
    pub(super) volatility: f64,
    /// Change since the close before, in percent.
    pub(super) change: f64,
}

impl MarketIndex {
    pub(super) fn of(closes: &[f64]) -> Option<Self> {
        let average = long_average(closes)?;
        let [.., before, close] = closes else { return None };
        let recent = last(closes, SHORT)?;
        let returns: Vec<f64> = last(closes, SHORT + 1)?.windows(2).map(|pair| pair[1] / pair[0] - 1.0).collect();
        Some(Self {
            distance: close / average - 1.0,
            width: (highest(recent) - lowest(recent)) / average,
            volatility: deviation(&returns) * 252.0_f64.sqrt(),
            change: 100.0 * (close / before - 1.0),
        })
    }

    pub(super) fn regime(&self) -> Regime {
        if self.distance > BAND {
            Regime::Bull
        } else if self.distance < -BAND {
            Regime::Bear
        } else if self.width <= NARROW {
            Regime::Consolidation
        } else {
            Regime::Neutral
        }
    }

    /// Bull and bear: by the distance from the average, from 2 % to 10 %. Otherwise: by the closeness, from 2 % to 0.
    pub(super) fn confidence(&self) -> f64 {
        let distance = self.distance.abs();
        let strength = match self.regime() {
            Regime::Bull | Regime::Bear => ramp(distance, BAND, 0.10),
            Regime::Consolidation | Regime::Neutral => 1.0 - ramp(distance, 0.0, BAND),
        };
        0.5 + 0.49 * strength
    }

    pub(super) fn volatility_regime(&self) -> &'static str {
        if self.volatility < 0.10 {
            "low"
        } else if self.volatility < 0.20 {
            "normal"
        } else {
            "high"
        }
    }

    /// The score from -1 to 1: half is the distance (±10 % is the maximum), three tenths the share of symbols above
    /// their averages, two tenths the volatility (10 % a year gives +1, 30 % gives -1).
    pub(super) fn risk_on(&self, above_average: f64) -> f64 {
        0.5 * symmetric(self.distance, 0.10) + 0.3 * (2.0 * above_average - 1.0)
            - 0.2 * symmetric(self.volatility - 0.20, 0.10)
    }
}

/// The number of symbols in each state today.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Breadth {
    pub(super) symbols: usize,
    pub(super) advancing: usize,
    pub(super) declining: usize,
    pub(super) above_200_day: usize,
    pub(super) below_200_day: usize,
    pub(super) new_20_day_highs: usize,
    pub(super) new_20_day_lows: usize,
}

impl Breadth {
    /// Computes it from the closes of each symbol with a bar today. A symbol with too few closes for a figure does not
    /// count in it.
    pub(super) fn of<'a>(symbols: impl Iterator<Item = &'a [f64]>) -> Self {
        let mut breadth = Self::default();
        for closes in symbols {
            let Some((&close, before)) = closes.split_last() else {
                continue;
            };
            breadth.symbols += 1;
            if let Some(&yesterday) = before.last() {
                breadth.advancing += usize::from(close > yesterday);
                breadth.declining += usize::from(close < yesterday);
            }
            if let Some(average) = long_average(closes) {
                breadth.above_200_day += usize::from(close > average);
                breadth.below_200_day += usize::from(close < average);
            }
            if let Some(prior) = last(before, SHORT) {
                breadth.new_20_day_highs += usize::from(close > highest(prior));
                breadth.new_20_day_lows += usize::from(close < lowest(prior));
            }
        }
        breadth
    }

    pub(super) fn share_above_average(&self) -> f64 {
        let known = self.above_200_day + self.below_200_day;
        if known == 0 { 0.5 } else { self.above_200_day as f64 / known as f64 }
    }
}

fn long_average(closes: &[f64]) -> Option<f64> {
    last(closes, LONG).map(mean)
}

fn last(values: &[f64], count: usize) -> Option<&[f64]> {
    values.len().checked_sub(count).map(|start| &values[start..])
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}

fn lowest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MAX, f64::min)
}

/// `value` in units of `full`, from -1 to 1.
fn symmetric(value: f64, full: f64) -> f64 {
    (value / full).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::round;

    fn regime_after(closes: &[f64]) -> Regime {
        MarketIndex::of(closes).unwrap().regime()
    }

    #[test]
    fn two_percent_around_the_average_separate_bull_and_bear() {
        let ending = |close| regime_after(&[&[100.0; LONG - 1][..], &[close]].concat());
        assert_eq!(ending(102.02), Regime::Bull);
        assert_eq!(ending(102.0), Regime::Consolidation);
        assert_eq!(ending(98.0), Regime::Consolidation);
        assert_eq!(ending(97.98), Regime::Bear);
    }

    #[test]
    fn wide_market_near_its_average_is_neutral() {
        let after = |close| {
            let mut closes = [100.0; LONG];
            closes[LONG - SHORT] = close;
            regime_after(&closes)
        };
        assert_eq!(after(104.9), Regime::Consolidation);
        assert_eq!(after(105.1), Regime::Neutral);
    }

    #[test]
    fn volatility_is_the_annualised_deviation_of_daily_returns() {
        let swinging = |by: f64| -> Vec<f64> { (0..LONG).map(|day| if day % 2 == 0 { 100.0 } else { by }).collect() };
        let regime = |by| MarketIndex::of(&swinging(by)).unwrap().volatility_regime();
        assert_eq!([regime(100.5), regime(101.0), regime(101.5)], ["low", "normal", "high"]);
    }

    #[test]
    fn confidence_and_risk_follow_their_formulas() {
        let index = |distance, volatility| MarketIndex { distance, width: 0.0, volatility, change: 0.0 };
        assert_eq!(round(index(0.02, 0.2).confidence()), 0.5);
        assert_eq!(round(index(-0.06, 0.2).confidence()), 0.745);
        assert_eq!(round(index(0.0, 0.2).confidence()), 0.99);
        assert_eq!(round(index(0.10, 0.10).risk_on(1.0)), 1.0);
        assert_eq!(round(index(-0.20, 0.50).risk_on(0.0)), -1.0);
        assert_eq!(round(index(0.05, 0.15).risk_on(0.5)), 0.35);
    }

    #[test]
    fn breadth_counts_each_symbol() {
        let mut rising = vec![100.0; LONG];
        rising[LONG - 1] = 101.0;
        let mut falling = vec![100.0; LONG];
        falling[LONG - 1] = 99.0;
        let young = [100.0, 101.0];
        let breadth = Breadth::of([&rising[..], &falling[..], &young[..], &[100.0][..]].into_iter());
        let expected = Breadth {
            symbols: 4,
            advancing: 2,
            declining: 1,
            above_200_day: 1,
            below_200_day: 1,
            new_20_day_highs: 1,
            new_20_day_lows: 1,
        };
        assert_eq!(breadth, expected);
    }
}
