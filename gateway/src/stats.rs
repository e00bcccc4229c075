//! What a shard counts: kept in plain numbers while it delivers, and added to the metrics once a turn.

use metrics::{counter, describe_counter};

/// Counts since the last [`Stats::publish`].
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Events that came to this shard.
    pub(crate) events: u64,
    /// Events of those that concerned no session here.
    pub(crate) unmatched: u64,
    deliveries: u64,
    frames: u64,
    bytes: u64,
}

impl Stats {
    /// A frame of so many events and bytes was written.
    pub(crate) fn sent(&mut self, events: u64, bytes: u64) {
        self.deliveries += events;
        self.frames += 1;
        self.bytes += bytes;
    }

    /// Adds what was counted to the metrics.
    pub(crate) fn publish(&mut self) {
        let Self { events, unmatched, deliveries, frames, bytes } = std::mem::take(self);
        counter!("tickwire_gateway_shard_events_total").increment(events);
        counter!("tickwire_gateway_shard_unmatched_events_total").increment(unmatched);
        counter!("tickwire_gateway_deliveries_total").increment(deliveries);
        counter!("tickwire_gateway_frames_total").increment(frames);
        counter!("tickwire_gateway_sent_bytes_total").increment(bytes);
    }
}

/// Events were let go that a session should have had.
pub(crate) fn dropped(reason: &'static str, events: u64) {
    counter!("tickwire_gateway_dropped_events_total", "reason" => reason).increment(events);
}

/// Says what the gateway's metrics mean.
pub(crate) fn describe() {
    crate::index::metrics::describe();
    describe_counter!("tickwire_gateway_shard_events_total", "Events handed to a shard, one count per shard");
    describe_counter!("tickwire_gateway_shard_unmatched_events_total", "Events that concerned no session of a shard");
    describe_counter!("tickwire_gateway_deliveries_total", "Events written to sockets");
    describe_counter!("tickwire_gateway_frames_total", "WebSocket frames written to sockets");
    describe_counter!("tickwire_gateway_sent_bytes_total", "Bytes of frames written to sockets");
    describe_counter!("tickwire_gateway_dropped_events_total", "Events let go that a session should have had");
    describe_counter!("tickwire_gateway_gaps_told_total", "Gaps told to sessions, one count per shard");
    describe_counter!("tickwire_gateway_closes_total", "Sessions closed by the gateway, by close code");
    describe_counter!("tickwire_gateway_refused_frames_total", "Client frames refused, by error code");
}
