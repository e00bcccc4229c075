//! The context of an event as clients get it: what is not known is left out.

use std::ops::Deref;

use serde::{Serialize, Serializer};

use crate::event::{EventContext, Regime, TradingSession, Volatility};
use crate::ids::Sector;

/// The fields of [`EventContext`]. That type itself writes absent fields too, since it is an array between nodes.
#[derive(Serialize)]
struct KnownContext<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<TradingSession>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regime: Option<Regime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volatility: Option<Volatility>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relative_volume: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sector: Option<&'a Sector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sector_strength: Option<f64>,
}

/// Writes what is known. The context is owned by a client's event and borrowed by the server's.
pub(super) fn write_known<C, S>(context: &Option<C>, serializer: S) -> Result<S::Ok, S::Error>
where
    C: Deref<Target = EventContext>,
    S: Serializer,
{
    let known = context.as_deref().map(|context| KnownContext {
        session: context.session,
        regime: context.regime,
        volatility: context.volatility,
        relative_volume: context.relative_volume,
        sector: context.sector.as_ref(),
        sector_strength: context.sector_strength,
    });
    known.serialize(serializer)
}
