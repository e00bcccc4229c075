//! The names of enrichments.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::event::UnknownValue;
use crate::hint::clipped;

/// Context that is added to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enrichment {
    /// All of the context except the part of the trading day.
    Market,
    /// The part of the trading day.
    Session,
}

impl FromStr for Enrichment {
    type Err = UnknownValue;

    /// Reads a name in any case.
    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        match text {
            _ if text.eq_ignore_ascii_case("market") => Ok(Self::Market),
            _ if text.eq_ignore_ascii_case("session") => Ok(Self::Session),
            _ => Err(UnknownValue { found: clipped(text), allowed: "market, session" }),
        }
    }
}

/// The context that all matching rules ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Enrichments {
    /// [`Enrichment::Market`].
    pub market: bool,
    /// [`Enrichment::Session`].
    pub session: bool,
}

impl Enrichments {
    /// Whether none is asked for.
    #[must_use]
    pub fn is_empty(self) -> bool {
        !self.market && !self.session
    }

    /// Adds one.
    pub fn insert(&mut self, enrichment: Enrichment) {
        match enrichment {
            Enrichment::Market => self.market = true,
            Enrichment::Session => self.session = true,
        }
    }

    /// Those of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { market: self.market || other.market, session: self.session || other.session }
    }
}
