//! The surroundings of an event. [`crate::context`] decides them.

use serde::{Deserialize, Serialize};

use super::{Regime, TradingSession, Volatility};
use crate::ids::Sector;

/// What a router knew about the surroundings of an event when it read it. What it did not know is `None`.
///
/// Between nodes it is an array of these fields; all are written, so that each keeps its place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventContext {
    /// The part of the New York trading day of the event's own time.
    pub session: Option<TradingSession>,
    /// The regime that the last market event before this event stated.
    pub regime: Option<Regime>,
    /// The volatility that the last market event before this event stated.
    pub volatility: Option<Volatility>,
    /// The event's `volume`, divided by the running average of the volumes before it; rounded to two decimals.
    pub relative_volume: Option<f64>,
    /// The sector of the symbol.
    pub sector: Option<Sector>,
    /// The strength of that sector, in the unit of the reference data or the market event.
    pub sector_strength: Option<f64>,
}

impl EventContext {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
