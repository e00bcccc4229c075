//! Tells a market event in words. What the event does not state is left out.

use serde::Serialize;

use super::{Event, Kind, Regime};
use crate::hint::clipped;

/// The distance from 0 at which the risk score counts as risk on or off.
const RISK_LEANS: f64 = 0.2;

/// A market event in words.
#[derive(Clone, Debug, PartialEq)]
pub struct MarketSummary {
    /// One sentence.
    pub text: String,
    /// The highest of `etf_performance`, if there is one.
    pub best_performer: Option<BestPerformer>,
}

/// The fund that performs best.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestPerformer {
    /// Its symbol, cut if it is very long.
    pub symbol: String,
    /// Its change, in the unit of the producer.
    pub change: f64,
}

/// The summary of a market event; `None` for other kinds, and if the event states nothing that the summary is about.
#[must_use]
pub fn summary(event: &Event) -> Option<MarketSummary> {
    if event.kind != Kind::Market {
        return None;
    }
    let best_performer = best_performer(event);
    let mut text = [state(event), risk(event), volatility(event)].into_iter().flatten().collect::<Vec<_>>().join(", ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if let Some(BestPerformer { symbol, change }) = &best_performer {
        let separator = if text.is_empty() { "" } else { "; " };
        text += &format!("{separator}{symbol} performs best ({change:+})");
    }
    if text.is_empty() {
        return None;
    }
    text.push('.');
    Some(MarketSummary { text, best_performer })
}

/// The regime, and how sure the producer is of it.
fn state(event: &Event) -> Option<String> {
    let adjective = match event.regime? {
        Regime::Bull => "bullish",
        Regime::Bear => "bearish",
        Regime::Neutral => "neutral",
        Regime::Consolidation => "consolidating",
    };
    let sure = event.confidence.map(|confidence| format!(" (confidence {:.2})", confidence.get()));
    Some(format!("the market is {adjective}{}", sure.unwrap_or_default()))
}

fn risk(event: &Event) -> Option<String> {
    let score = event.data.get("risk_on_score")?.as_f64()?;
    let lean = match score {
        s if s > RISK_LEANS => "risk on",
        s if s < -RISK_LEANS => "risk off",
        _ => "balanced risk",
    };
    Some(format!("{lean} ({score:+.2})"))
}

fn volatility(event: &Event) -> Option<String> {
    let level = event.data.get("volatility_regime")?.as_str()?;
    Some(format!("{} volatility", clipped(level)))
}

/// The highest of `etf_performance`; among equals the first in the alphabet.
fn best_performer(event: &Event) -> Option<BestPerformer> {
    let changes = event.data.get("etf_performance")?.as_object()?;
    let numbers = changes.iter().filter_map(|(symbol, change)| Some((symbol, change.as_f64()?)));
    let (symbol, change) = numbers.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(a.0)))?;
    // The event will hold the symbol two more times.
    Some(BestPerformer { symbol: clipped(symbol), change })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::blank_event;
    use crate::ids::Confidence;
    use serde_json::{Value, json};

    fn market(regime: Option<Regime>, confidence: Option<f64>, data: &Value) -> Event {
        Event {
            kind: Kind::Market,
            regime,
            confidence: confidence.and_then(Confidence::new),
            data: data.as_object().unwrap().clone(),
            ..blank_event()
        }
    }

    #[test]
    fn summary_says_what_the_event_states_and_no_more() {
        let all = json!({
            "risk_on_score": 0.45, "volatility_regime": "low", "etf_performance": { "SPY": 0.4, "XLK": 1.2 },
        });
        let full =
            "The market is bullish (confidence 0.82), risk on (+0.45), low volatility; XLK performs best (+1.2).";
        let without_regime = "Risk on (+0.45), low volatility; XLK performs best (+1.2).";
        for (regime, confidence, data, text) in [
            (Some(Regime::Bull), Some(0.82), all.clone(), Some(full)),
            (None, None, all, Some(without_regime)),
            (Some(Regime::Bear), None, json!({}), Some("The market is bearish.")),
            (
                Some(Regime::Neutral),
                None,
                json!({ "risk_on_score": 0.2 }),
                Some("The market is neutral, balanced risk (+0.20)."),
            ),
            (Some(Regime::Consolidation), Some(1.0), json!({}), Some("The market is consolidating (confidence 1.00).")),
            (None, None, json!({ "risk_on_score": -0.21 }), Some("Risk off (-0.21).")),
            (None, None, json!({ "volatility_regime": "high" }), Some("High volatility.")),
            (None, None, json!({ "etf_performance": { "xlk": -0.5 } }), Some("xlk performs best (-0.5).")),
            (None, Some(0.9), json!({ "market_breadth": 3, "etf_performance": {} }), None),
        ] {
            let found = summary(&market(regime, confidence, &data));
            assert_eq!(found.map(|summary| summary.text).as_deref(), text, "{data}");
        }
    }

    #[test]
    fn best_performer_is_the_highest_and_of_equals_the_first() {
        for (performance, best) in [
            (json!({ "B": -0.5, "A": -0.5 }), Some(("A", -0.5))),
            (json!({ "SPY": 1, "QQQ": 1.5, "IWM": -2 }), Some(("QQQ", 1.5))),
            (json!({}), None),
        ] {
            let found = summary(&market(Some(Regime::Bull), None, &json!({ "etf_performance": performance })));
            let found = found.unwrap().best_performer;
            assert_eq!(found.as_ref().map(|best| (best.symbol.as_str(), best.change)), best);
        }
    }

    #[test]
    fn other_kinds_have_no_summary() {
        assert_eq!(summary(&Event { regime: Some(Regime::Bull), ..blank_event() }), None);
    }
}
