//! `[health]`: from where on a part of a node has a warning, and from where on an error.

use crate::config::values;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `[health]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// From which part of its sessions on a gateway has a warning, in percent.
    #[serde(deserialize_with = "values::within::<1, 100, _, _>")]
    pub sessions_warning: u8,
    /// From which part of its sessions on a gateway has an error, in percent.
    #[serde(deserialize_with = "values::within::<1, 100, _, _>")]
    pub sessions_error: u8,
    /// From how many dropped events a minute on a gateway has a warning.
    #[serde(deserialize_with = "values::within::<1, 1_000_000_000, _, _>")]
    pub drops_warning: u32,
    /// From how many dropped events a minute on a gateway has an error.
    #[serde(deserialize_with = "values::within::<1, 1_000_000_000, _, _>")]
    pub drops_error: u32,
    /// Below which part of events that are delivered a gateway has a warning, in percent.
    #[serde(deserialize_with = "values::within::<0, 100, _, _>")]
    pub success_warning: u8,
    /// Below which part of events that are delivered a gateway has an error, in percent.
    #[serde(deserialize_with = "values::within::<0, 100, _, _>")]
    pub success_error: u8,
    /// From which part of `gateway.shard_bytes` that waits on a gateway has a warning, in percent.
    #[serde(deserialize_with = "values::within::<1, 100, _, _>")]
    pub queue_warning: u8,
    /// From which part of `gateway.shard_bytes` that waits on a gateway has an error, in percent.
    #[serde(deserialize_with = "values::within::<1, 100, _, _>")]
    pub queue_error: u8,
    /// From how many messages that wait in the stream on a router has a warning.
    #[serde(deserialize_with = "values::within::<1, 1_000_000_000, _, _>")]
    pub pending_warning: u32,
    /// From how many messages that wait in the stream on a router has an error.
    #[serde(deserialize_with = "values::within::<1, 1_000_000_000, _, _>")]
    pub pending_error: u32,
    /// How old the last message that a router has read of a partition may be, before it has a warning.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 86_400_000, _>")]
    pub lag_warning: Duration,
    /// How old the last message that a router has read of a partition may be, before it has an error.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 86_400_000, _>")]
    pub lag_error: Duration,
    /// How long a shard may search its index for an event before its gateway has a warning.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub filter_warning: Duration,
    /// How long a shard may search its index for an event before its gateway has an error.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub filter_error: Duration,
    /// How long a router may take to publish an event before it has a warning.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub route_warning: Duration,
    /// How long a router may take to publish an event before it has an error.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub route_error: Duration,
    /// How long a gateway may take to write an event before it has a warning.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub deliver_warning: Duration,
    /// How long a gateway may take to write an event before it has an error.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub deliver_error: Duration,
    /// The target for the search of an index.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub filter_target: Duration,
    /// The target from the storing of an event to its publication by a router.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub route_target: Duration,
    /// The target from the storing of an event to the write to a socket.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1, 30_000, _>")]
    pub total_target: Duration,
    /// Below which part of events within a target a node has a warning, in percent.
    #[serde(deserialize_with = "values::within::<0, 100, _, _>")]
    pub targets_warning: u8,
    /// Below which part of events within a target a node has an error, in percent.
    #[serde(deserialize_with = "values::within::<0, 100, _, _>")]
    pub targets_error: u8,
    /// Below which part of lookups in a cache that find something a node has a warning, in percent.
    #[serde(deserialize_with = "values::within::<0, 100, _, _>")]
    pub cache_warning: u8,
    /// Below which part of lookups in a cache that find something a node has an error, in percent.
    #[serde(deserialize_with = "values::within::<0, 100, _, _>")]
    pub cache_error: u8,
    /// From how many errors a minute on a node has a warning.
    #[serde(deserialize_with = "values::within::<1, 1_000_000_000, _, _>")]
    pub errors_warning: u32,
    /// From how many errors a minute on a node has an error.
    #[serde(deserialize_with = "values::within::<1, 1_000_000_000, _, _>")]
    pub errors_error: u32,
    /// The kinds of which there should always be events.
    pub silence_kinds: Vec<String>,
    /// When there should be.
    pub silence_hours: SilenceHours,
    /// How long there may be no event of such a kind before routers have a warning.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1_000, 10_800_000, _>")]
    pub silence_warning: Duration,
    /// How long there may be no event of such a kind before routers have an error.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1_000, 10_800_000, _>")]
    pub silence_error: Duration,
}

/// When a kind should not be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SilenceHours {
    /// In the regular hours of the exchange in New York.
    Market,
    /// At any time.
    Always,
}

impl HealthConfig {
    /// Whether each warning comes before its error.
    pub(in crate::config) fn is_ordered(&self) -> bool {
        let rising: [(u32, u32); 5] = [
            (self.sessions_warning.into(), self.sessions_error.into()),
            (self.drops_warning, self.drops_error),
            (self.queue_warning.into(), self.queue_error.into()),
            (self.pending_warning, self.pending_error),
            (self.errors_warning, self.errors_error),
        ];
        let times = [
            (self.lag_warning, self.lag_error),
            (self.filter_warning, self.filter_error),
            (self.route_warning, self.route_error),
            (self.deliver_warning, self.deliver_error),
            (self.silence_warning, self.silence_error),
        ];
        let falling = [
            (self.success_warning, self.success_error),
            (self.targets_warning, self.targets_error),
            (self.cache_warning, self.cache_error),
        ];
        rising.iter().all(|(warning, error)| warning <= error)
            && times.iter().all(|(warning, error)| warning <= error)
            && falling.iter().all(|(warning, error)| warning >= error)
    }
}
