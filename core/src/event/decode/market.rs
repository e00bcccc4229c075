//! Checks market events, and adds a summary in words.

use serde_json::{Value, json};

use super::fields::Fields;
use super::reason::{Reason, Undecodable};
use crate::event::object::Object;
use crate::event::summary::summary;
use crate::event::{Event, Regime, Volatility};
use crate::ids::Confidence;

/// The fields that the event takes.
#[derive(Debug)]
pub(crate) struct MarketFields {
    pub(crate) regime: Option<Regime>,
    pub(crate) confidence: Option<Confidence>,
}

/// Checks the fields of a market event. The volatility regime is stored in lower case.
pub(crate) fn read(fields: &mut Fields, confidence: Option<Confidence>) -> Result<MarketFields, Undecodable> {
    let regime = match fields.take(&["regime"]) {
        Some(found) => Some(found.parse::<Regime>(Reason::BadRegime)?),
        None => None,
    };
    let regime_confidence = match fields.peek("regime_confidence") {
        Some(found) => Some(found.confidence()?),
        None => None,
    };
    if let Some(found) = fields.peek("risk_on_score") {
        found.number_within(Reason::BadMarket, -1.0, 1.0)?;
    }
    if let Some(found) = fields.peek("volatility_regime") {
        let volatility: Volatility = found.parse(Reason::BadMarket)?;
        fields.rest.insert("volatility_regime".to_owned(), Value::from(volatility.as_str()));
    }
    for name in ["sector_strength", "etf_performance"] {
        if let Some(found) = fields.peek(name) {
            found.numbers(Reason::BadMarket)?;
        }
    }
    Ok(MarketFields { regime, confidence: confidence.or(regime_confidence) })
}

/// Adds `summary` and `best_performer` to a market event, unless the producer sent its own.
pub(crate) fn add_summary(event: &mut Event) {
    let Some(summary) = summary(event) else { return };
    add(&mut event.data, "summary", Value::String(summary.text));
    if let Some(best) = summary.best_performer {
        add(&mut event.data, "best_performer", json!(best));
    }
}

/// Adds a field unless it is there. `null` counts as absent.
fn add(data: &mut Object, name: &str, value: Value) {
    if data.get(name).is_none_or(Value::is_null) {
        data.insert(name.to_owned(), value);
    }
}
