//! `[traces]`: where traces are sent, and of which events.

use crate::config::values::{self, Secret};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use url::Url;

/// `[traces]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// The address of the collector; `None` if nothing is traced.
    #[serde(serialize_with = "values::show_url", deserialize_with = "values::optional_url")]
    pub endpoint: Option<Url>,
    /// The token for the collector, or empty.
    #[serde(deserialize_with = "values::header_secret")]
    pub token: Secret,
    /// The part of the events without a context that is traced, 0 to 1.
    #[serde(deserialize_with = "values::ratio")]
    pub ratio: f64,
    /// The most events that are traced in a second.
    #[serde(deserialize_with = "values::within::<1, 10_000, _, _>")]
    pub rate: u32,
    /// How long one request to the collector may take.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 60_000, _>")]
    pub timeout: Duration,
}
