//! The section of the gateway's engine and limits.

use crate::config::origins::WebOrigin;
use crate::config::values;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tickwire_core::ids::UserId;

/// The least `gateway.max_connections`.
pub const LEAST_GATEWAY_CONNECTIONS: u64 = 8;

/// `[gateway]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// The address for clients.
    #[serde(deserialize_with = "values::listen_address")]
    pub listen: SocketAddr,
    /// The number of shards; 0 is one per core.
    #[serde(deserialize_with = "values::within::<0, 256, _, _>")]
    pub shards: usize,
    /// Bytes that may wait for a shard.
    #[serde(deserialize_with = "values::within::<1_048_576, 17_179_869_184, _, _>")]
    pub shard_bytes: usize,
    /// The time between two heartbeats to a quiet client.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 300_000, _>")]
    pub heartbeat_interval: Duration,
    /// Plain HTTP connections.
    #[serde(deserialize_with = "values::within::<LEAST_GATEWAY_CONNECTIONS, 1_000_000, _, _>")]
    pub max_connections: usize,
    /// How long the head of a request may take, and then its body.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 300_000, _>")]
    pub head_timeout: Duration,
    /// How long a connection may be idle between two requests.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 3_600_000, _>")]
    pub idle_timeout: Duration,
    /// How long a client may take to read an answer.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 300_000, _>")]
    pub write_timeout: Duration,
    /// The proxies whose `X-Forwarded-For` and PROXY header are trusted.
    #[serde(deserialize_with = "values::networks")]
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// WebSockets that are not authenticated yet.
    #[serde(deserialize_with = "values::within::<1, 1_000_000, _, _>")]
    pub max_unnamed: usize,
    /// How long a connection may stay unauthenticated.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 60_000, _>")]
    pub auth_timeout: Duration,
    /// The largest frame from a client.
    #[serde(deserialize_with = "values::within::<1_024, 16_777_216, _, _>")]
    pub max_frame_bytes: usize,
    /// Frames a second that are read from a client.
    #[serde(deserialize_with = "values::within::<10, 1_000_000, _, _>")]
    pub read_frames: u32,
    /// Bytes a second that are read from a client.
    #[serde(deserialize_with = "values::within::<65_536, 1_073_741_824, _, _>")]
    pub read_bytes: u32,
    /// Malformed frames in a minute before the close.
    #[serde(deserialize_with = "values::within::<1, 1_000, _, _>")]
    pub max_malformed: u32,
    /// Commands a second of a session; 0 is no limit.
    #[serde(deserialize_with = "values::within::<0, 1_000_000, _, _>")]
    pub command_rate: u32,
    /// Commands of a session at once.
    #[serde(deserialize_with = "values::within::<1, 1_000_000, _, _>")]
    pub command_burst: u32,
    /// Subscriptions of a session.
    #[serde(deserialize_with = "values::within::<1, 10_000, _, _>")]
    pub max_subscriptions: usize,
    /// Symbols of a session.
    #[serde(deserialize_with = "values::within::<1, 100_000, _, _>")]
    pub max_symbols: usize,
    /// Bytes of the filters of a session.
    #[serde(deserialize_with = "values::within::<1_024, 16_777_216, _, _>")]
    pub max_filter_bytes: usize,
    /// Bytes of the filters of all sessions of a user on this gateway.
    #[serde(deserialize_with = "values::within::<1_024, 17_179_869_184, _, _>")]
    pub user_filter_bytes: usize,
    /// Bytes that may wait for a session.
    #[serde(deserialize_with = "values::within::<16_384, 1_073_741_824, _, _>")]
    pub outbox_bytes: usize,
    /// How long a session may be slow.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<100, 600_000, _>")]
    pub slow_deadline: Duration,
    /// Whether events are collected in windows.
    pub batching: bool,
    /// Whether urgent events overtake others.
    pub lanes: bool,
    /// Events a second of a user; 0 is no limit.
    #[serde(deserialize_with = "values::within::<0, 1_000_000, _, _>")]
    pub rate: u32,
    /// Urgent events a second of a session that do not wait: critical ones, and those that go first by a rule.
    #[serde(deserialize_with = "values::within::<0, 1_000_000, _, _>")]
    pub critical_rate: u32,
    /// Events an hour of a subscription; 0 is no limit.
    #[serde(deserialize_with = "values::within::<0, 1_000_000_000, _, _>")]
    pub max_events_per_hour: u32,
    /// The rates of plans.
    #[serde(deserialize_with = "values::rates")]
    pub plans: BTreeMap<String, u32>,
    /// The default window.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 1_000, _>")]
    pub window: Duration,
    /// How long interest is kept that no session needs.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 600_000, _>")]
    pub shrink_delay: Duration,
    /// How long interest deltas are collected.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 1_000, _>")]
    pub delta_window: Duration,
    /// How long a partition from which nothing arrives may delay a confirmation.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<10, 60_000, _>")]
    pub confirm_timeout: Duration,
    /// How long a gap may stay open before it is requested again.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 10_000, _>")]
    pub gap_grace: Duration,
    /// Bytes of events held behind gaps.
    #[serde(deserialize_with = "values::within::<65_536, 17_179_869_184, _, _>")]
    pub hold_bytes: usize,
    /// Replays in progress at the same time.
    #[serde(deserialize_with = "values::within::<1, 1_024, _, _>")]
    pub replays: usize,
    /// How long a router may be silent during an answer.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<50, 60_000, _>")]
    pub replay_timeout: Duration,
    /// How long a gap is requested without success before it is reported as lost.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<1_000, 86_400_000, _>")]
    pub give_up_after: Duration,
    /// The longest range of a request.
    #[serde(deserialize_with = "values::within::<1_000, 1_000_000_000, _, _>")]
    pub replay_range: u64,
    /// How far back the backfill of a new subscription may reach.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 2_592_000_000, _>")]
    pub history: Duration,
    /// Sequences a second for the backfill of a user; 0 is no limit.
    #[serde(deserialize_with = "values::within::<0, 1_000_000_000, _, _>")]
    pub catch_up_rate: u32,
    /// Sessions of this gateway.
    #[serde(deserialize_with = "values::within::<1, 1_000_000, _, _>")]
    pub max_sessions: usize,
    /// Sessions of one user on this gateway.
    #[serde(deserialize_with = "values::within::<1, 1_000_000, _, _>")]
    pub user_sessions: u32,
    /// Connections admitted in a second; 0 is no limit.
    #[serde(deserialize_with = "values::within::<0, 1_000_000, _, _>")]
    pub admission_rate: u32,
    /// The time over which a drain sends sessions away.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 600_000, _>")]
    pub drain_window: Duration,
    /// Percent of the sessions sent to gateways that joined, in a second; 0 is none.
    #[serde(deserialize_with = "values::within::<0, 100, _, _>")]
    pub rebalance_rate: u32,
    /// How long a gateway must be a member before sessions are sent to it.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 600_000, _>")]
    pub rebalance_cooldown: Duration,
    /// After how many days without use saved subscriptions are removed; 0 is never.
    #[serde(deserialize_with = "values::within::<0, 36_500, _, _>")]
    pub saved_days: u32,
    /// The users that have metrics of their own.
    #[serde(deserialize_with = "values::users")]
    pub watched_users: Vec<UserId>,
    /// How old an unacknowledged alert may be to come again; 0 is never.
    #[serde(serialize_with = "values::show_duration", deserialize_with = "values::duration::<0, 86_400_000, _>")]
    pub again_window: Duration,
    /// How many unacknowledged alerts come again.
    #[serde(deserialize_with = "values::within::<1, 1_000, _, _>")]
    pub again_max: usize,
    /// The address of a gateway by name; empty if there is none.
    #[serde(deserialize_with = "values::connect_url")]
    pub connect_url: String,
    /// The web origins that may connect; an empty list allows any.
    pub allowed_origins: Vec<WebOrigin>,
}

impl GatewayConfig {
    /// How many events a second a user of `plan` is sent; 0 is no limit.
    #[must_use]
    pub fn rate_of(&self, plan: Option<&str>) -> u32 {
        plan.and_then(|plan| self.plans.get(plan)).copied().unwrap_or(self.rate)
    }
}

/// Whether connections begin with a PROXY header, by which a load balancer states the address of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// They do not.
    Off,
    /// Each has one, of version 1 or 2, and comes from a trusted proxy. Others are refused.
    Required,
}
