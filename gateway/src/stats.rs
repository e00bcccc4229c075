//! The counts of a shard. They are plain numbers while it delivers, and are added to the metrics once a turn.

use metrics::{Counter, counter, describe_counter};
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_node::declare_counter;

use crate::outbox::EventOutcome;

/// Counts since the last [`Stats::publish`].
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Events that this shard received.
    pub(crate) events: u64,
    /// Those of them that matched no session here.
    pub(crate) unmatched: u64,
    /// Events that were completely written to a socket.
    pub(crate) deliveries: u64,
    /// Frames written.
    pub(crate) frames: u64,
    /// Bytes of these frames.
    pub(crate) bytes: u64,
    /// Frames that overtook events of other lanes.
    pub(crate) early: u64,
    /// Events that were sent before their lane's turn.
    pub(crate) promoted: u64,
    /// Events that still waited when their client left.
    pub(crate) unread: u64,
    published: DeliveryMetrics,
}

/// Handles to the metrics, looked up once.
struct DeliveryMetrics {
    events: Counter,
    unmatched: Counter,
    deliveries: Counter,
    frames: Counter,
    bytes: Counter,
    early: Counter,
    promoted: Counter,
    unread: Counter,
}

impl Stats {
    /// Adds the counts to the metrics, and resets them.
    pub(crate) fn publish(&mut self) {
        let Self { events, unmatched, deliveries, frames, bytes, early, promoted, unread, published } = self;
        for (count, counter) in [
            (events, &published.events),
            (unmatched, &published.unmatched),
            (deliveries, &published.deliveries),
            (frames, &published.frames),
            (bytes, &published.bytes),
            (early, &published.early),
            (promoted, &published.promoted),
            (unread, &published.unread),
        ] {
            if *count > 0 {
                counter.increment(std::mem::take(count));
            }
        }
    }
}

impl Default for DeliveryMetrics {
    fn default() -> Self {
        Self {
            events: counter!("tickwire_gateway_shard_events_total"),
            unmatched: counter!("tickwire_gateway_shard_unmatched_events_total"),
            deliveries: counter!("tickwire_gateway_deliveries_total"),
            frames: counter!("tickwire_gateway_frames_total"),
            bytes: counter!("tickwire_gateway_sent_bytes_total"),
            early: counter!("tickwire_gateway_early_frames_total"),
            promoted: counter!("tickwire_gateway_promoted_events_total"),
            unread: counter!("tickwire_gateway_unread_events_total"),
        }
    }
}

impl std::fmt::Debug for DeliveryMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published").finish_non_exhaustive()
    }
}

/// Counts dropped events that a session should have had.
pub(crate) fn dropped(reason: &'static str, events: u64) {
    if events > 0 {
        counter!("tickwire_gateway_dropped_events_total", "reason" => reason).increment(events);
    }
}

/// Counts an event that was dropped, conflated or delayed.
pub(crate) fn count_outcome(code: NoticeCode, fate: EventOutcome) {
    let reason = code.as_str();
    match fate {
        EventOutcome::Dropped => dropped(reason, 1),
        EventOutcome::Conflated => counter!("tickwire_gateway_conflated_events_total", "reason" => reason).increment(1),
        EventOutcome::Delayed => counter!("tickwire_gateway_delayed_events_total", "reason" => reason).increment(1),
    }
}

/// Describes the gateway's metrics.
pub(crate) fn describe() {
    crate::index::metrics::describe();
    crate::http::home::describe();
    crate::shard::backfill::describe();
    declare_counter!("tickwire_gateway_shard_events_total", "Events passed to a shard, counted once per shard");
    declare_counter!("tickwire_gateway_shard_unmatched_events_total", "Events that matched no session of a shard");
    declare_counter!("tickwire_gateway_deliveries_total", "Events completely written to sockets");
    declare_counter!("tickwire_gateway_frames_total", "WebSocket frames written to sockets");
    declare_counter!("tickwire_gateway_sent_bytes_total", "Bytes of frames written to sockets");
    declare_counter!("tickwire_gateway_early_frames_total", "Frames that overtook waiting events of other lanes");
    declare_counter!(
        "tickwire_gateway_promoted_events_total",
        "Events sent before their lane's turn because they had waited too long"
    );
    declare_counter!("tickwire_gateway_unread_events_total", "Events that still waited when their client left");
    describe_counter!(
        "tickwire_gateway_dropped_events_total",
        "Dropped events that a session should have had, by reason; after `closed` a resume replays them"
    );
    describe_counter!("tickwire_gateway_conflated_events_total", "Events replaced by newer ones of their key");
    describe_counter!("tickwire_gateway_delayed_events_total", "Critical events delayed by their budget");
    describe_counter!("tickwire_gateway_notices_total", "Notices sent to sessions, by code");
    describe_counter!("tickwire_gateway_gaps_told_total", "Gaps notified to sessions, counted once per shard");
    describe_counter!("tickwire_gateway_closes_total", "Sessions closed by the gateway, by close code");
    declare_counter!("tickwire_gateway_token_renewals_total", "Sessions that replaced their token");
    declare_counter!("tickwire_gateway_connections_total", "Requests for a WebSocket");
    declare_counter!(
        "tickwire_gateway_refused_upgrades_total",
        "Requests for a WebSocket that were refused, by status",
        "status" => ["400", "403", "426", "503"]
    );
    declare_counter!(
        "tickwire_gateway_displaced_sockets_total",
        "Unauthenticated sockets closed to make room for new ones"
    );
    declare_counter!(
        "tickwire_gateway_paused_commands_total",
        "Times that a session or its user exceeded its command rate and was not read for a while"
    );
    declare_counter!(
        "tickwire_gateway_edge_full_total",
        "Times that a shard stopped reading commands because too much waited for the edge"
    );
    describe_counter!("tickwire_gateway_refused_frames_total", "Client frames refused, by error code");
}
