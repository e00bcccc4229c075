//! Checks market events, and adds a summary in words.

use serde_json::{Value, json};

use super::fields::Fields;
use super::reason::{Reason, Undecodable};
use crate::event::Regime;
use crate::hint::clipped;
use crate::ids::Confidence;

/// The distance from 0 at which the risk score counts as risk on or off.
const RISK_LEANS: f64 = 0.2;

const VOLATILITY_REGIMES: [&str; 3] = ["low", "normal", "high"];

/// The fields that the event takes.
#[derive(Debug)]
pub(crate) struct MarketFields {
    pub(crate) regime: Option<Regime>,
    pub(crate) confidence: Option<Confidence>,
}

/// Checks a market event and adds `summary` and `best_performer` to it, unless the producer sent its own.
pub(crate) fn read(fields: &mut Fields, confidence: Option<Confidence>) -> Result<MarketFields, Undecodable> {
    let regime = match fields.take(&["regime"]) {
        Some(found) => Some(found.parse::<Regime>(Reason::BadRegime)?),
        None => None,
    };
    let regime_confidence = match fields.peek("regime_confidence") {
        Some(found) => Some(found.confidence()?),
        None => None,
    };
    let confidence = confidence.or(regime_confidence);
    let risk = match fields.peek("risk_on_score") {
        Some(found) => Some(found.number_within(Reason::BadMarket, -1.0, 1.0)?),
        None => None,
    };
    let volatility = volatility(fields)?;
    if let Some(found) = fields.peek("sector_strength") {
        found.numbers(Reason::BadMarket)?;
    }
    let best = best_performer(fields)?;

    let summary = summary(regime, confidence, risk, volatility, best.as_ref());
    fields.rest.entry("summary").or_insert(Value::String(summary));
    if let Some((symbol, change)) = best {
        fields.rest.entry("best_performer").or_insert(json!({ "symbol": symbol, "change": change }));
    }
    Ok(MarketFields { regime, confidence })
}

/// Reads the volatility regime in any case and stores it in lower case.
fn volatility(fields: &mut Fields) -> Result<Option<&'static str>, Undecodable> {
    let Some(found) = fields.peek("volatility_regime") else {
        return Ok(None);
    };
    let text = found.text(Reason::BadMarket)?;
    let known = VOLATILITY_REGIMES.into_iter().find(|name| text.eq_ignore_ascii_case(name)).ok_or_else(|| {
        found.refuse(Reason::BadMarket, format_args!("expected one of {}", VOLATILITY_REGIMES.join(", ")))
    })?;
    fields.rest.insert("volatility_regime".to_owned(), Value::from(known));
    Ok(Some(known))
}

/// The highest of `etf_performance`; among equals the first in the alphabet.
fn best_performer(fields: &Fields) -> Result<Option<(String, f64)>, Undecodable> {
    let Some(found) = fields.peek("etf_performance") else {
        return Ok(None);
    };
    let best = found.numbers(Reason::BadMarket)?.into_iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(a.0)));
    // The event will hold the symbol two more times.
    Ok(best.map(|(symbol, change)| (clipped(symbol), change)))
}

fn summary(
    regime: Option<Regime>,
    confidence: Option<Confidence>,
    risk: Option<f64>,
    volatility: Option<&str>,
    best: Option<&(String, f64)>,
) -> String {
    let mut text = match regime {
        Some(Regime::Bull) => "The market is bullish".to_owned(),
        Some(Regime::Bear) => "The market is bearish".to_owned(),
        Some(Regime::Neutral) => "The market is neutral".to_owned(),
        Some(Regime::Consolidation) => "The market is consolidating".to_owned(),
        None => "The market's regime is not known".to_owned(),
    };
    if let Some(confidence) = confidence {
        text += &format!(" (confidence {:.2})", confidence.get());
    }
    if let Some(score) = risk {
        let lean = match score {
            s if s > RISK_LEANS => "risk on",
            s if s < -RISK_LEANS => "risk off",
            _ => "balanced risk",
        };
        text += &format!(", {lean} ({score:+.2})");
    }
    if let Some(level) = volatility {
        text += &format!(", {level} volatility");
    }
    if let Some((symbol, change)) = best {
        text += &format!("; {symbol} performs best ({change:+})");
    }
    text.push('.');
    text
}
