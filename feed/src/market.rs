//! The market as a whole: SPY against its 200-day average, and the breadth of all symbols of the file.
//!
//! It uses only daily bars. A report is due on the first day with an average, on every change of regime, and otherwise
//! [`EVERY`] trading days after the last report.

mod measures;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::bars::Row;
use crate::detect::round;
use measures::{Breadth, MarketIndex};

pub use measures::{LONG, Regime, SHORT};

/// The symbol that represents the market.
pub const INDEX: &str = "SPY";
/// Trading days between two reports of an unchanged regime.
pub const EVERY: usize = 5;

/// Follows the market day by day.
#[derive(Debug, Default)]
pub struct Market {
    closes: BTreeMap<String, Vec<f64>>,
    last: Option<Regime>,
    days_since: usize,
}

impl Market {
    /// Takes the bars of one day, and returns the payload of a report if one is due.
    pub fn day(&mut self, rows: &[Row]) -> Option<Map<String, Value>> {
        for row in rows {
            self.closes.entry(row.symbol.clone()).or_default().push(row.bar.close);
        }
        if !rows.iter().any(|row| row.symbol == INDEX) {
            return None;
        }
        let index = MarketIndex::of(self.closes.get(INDEX)?)?;
        self.days_since += 1;
        if self.last == Some(index.regime()) && self.days_since < EVERY {
            return None;
        }
        self.last = Some(index.regime());
        self.days_since = 0;
        let today = rows.iter().filter_map(|row| self.closes.get(&row.symbol));
        Some(report(&index, &Breadth::of(today.map(Vec::as_slice))))
    }
}

fn report(index: &MarketIndex, breadth: &Breadth) -> Map<String, Value> {
    Map::from_iter([
        ("regime".to_owned(), json!(index.regime().as_str())),
        ("regime_confidence".to_owned(), json!(round(index.confidence()))),
        ("etf_performance".to_owned(), json!({ INDEX: round(index.change) })),
        ("risk_on_score".to_owned(), json!(round(index.risk_on(breadth.share_above_average())))),
        ("volatility_regime".to_owned(), json!(index.volatility_regime())),
        (
            "market_breadth".to_owned(),
            json!({
                "symbols": breadth.symbols,
                "advancing": breadth.advancing,
                "declining": breadth.declining,
                "above_200_day": breadth.above_200_day,
                "below_200_day": breadth.below_200_day,
                "new_20_day_highs": breadth.new_20_day_highs,
                "new_20_day_lows": breadth.new_20_day_lows,
            }),
        ),
        ("distance_from_200_day".to_owned(), json!(round(index.distance))),
        ("volatility".to_owned(), json!(round(index.volatility))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::{Bar, BarTime};

    /// One day of the market: symbols with their closes.
    fn rows(closes: &[(&str, f64)]) -> Vec<Row> {
        let time = BarTime::day("2010-01-04".parse().unwrap()).unwrap();
        let row = |&(symbol, close): &(&str, f64)| Row {
            time,
            symbol: symbol.to_owned(),
            bar: Bar { open: close, high: close, low: close, close, volume: 1 },
        };
        closes.iter().map(row).collect()
    }

    /// The reports on these closes of SPY, each with the number of its day.
    fn reports(closes: &[f64]) -> Vec<(usize, Map<String, Value>)> {
        let mut market = Market::default();
        let days = closes.iter().zip(1..);
        days.filter_map(|(&close, day)| Some((day, market.day(&rows(&[(INDEX, close)]))?))).collect()
    }

    #[test]
    fn market_is_reported_with_the_first_average_every_fifth_day_and_on_each_change() {
        let mut closes = vec![100.0; 212];
        closes[207] = 110.0;
        let regimes: Vec<_> =
            reports(&closes).into_iter().map(|(day, report)| (day, report["regime"].clone())).collect();
        let expected = [(200, "consolidation"), (205, "consolidation"), (208, "bull"), (209, "neutral")];
        assert_eq!(regimes, expected.map(|(day, regime)| (day, json!(regime))));
    }

    #[test]
    fn no_report_without_the_index() {
        let mut market = Market::default();
        for _ in 0..2 * LONG {
            assert_eq!(market.day(&rows(&[("AAPL", 1.0)])), None);
        }
    }

    #[test]
    fn a_report_carries_the_change_of_the_day() {
        let closes = [&[100.0; LONG - 1][..], &[101.0]].concat();
        let (_, report) = reports(&closes).remove(0);
        assert_eq!(report["etf_performance"], json!({"SPY": 1.0}));
        assert_eq!(report["market_breadth"]["advancing"], json!(1));
    }
}
