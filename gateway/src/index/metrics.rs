//! The metrics of an index. From time to time they are updated with what has changed since the last time.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use tickwire_node::declare_counter;

use super::{Dimension, Statistics};

/// The statistics that were published last. Shards share the metrics, so each adds its difference.
#[derive(Debug, Default)]
pub(crate) struct PublishedStatistics(Statistics);

impl PublishedStatistics {
    /// Updates the metrics to `now`.
    pub(crate) fn update(&mut self, now: Statistics) {
        let before = std::mem::replace(&mut self.0, now);
        let difference = |now: u64, before: u64| now as f64 - before as f64;
        gauge!("tickwire_gateway_index_filters").increment(difference(now.filters, before.filters));
        gauge!("tickwire_gateway_index_subscriptions").increment(difference(now.subscriptions, before.subscriptions));
        counter!("tickwire_gateway_index_sampled_events_total").increment(now.sampled_events - before.sampled_events);
        for dimension in Dimension::ALL {
            let (name, now, before) = (dimension.as_str(), now.of(dimension), before.of(dimension));
            gauge!("tickwire_gateway_index_entries", "dimension" => name)
                .increment(difference(now.entries, before.entries));
            counter!("tickwire_gateway_index_lookups_total", "dimension" => name)
                .increment(now.lookups - before.lookups);
            counter!("tickwire_gateway_index_hits_total", "dimension" => name).increment(now.hits - before.hits);
            counter!("tickwire_gateway_index_matches_total", "dimension" => name)
                .increment(now.matches - before.matches);
            let sampled = now.sampled - before.sampled;
            // A gauge, since counters are integers, and this is in seconds.
            gauge!("tickwire_gateway_index_sampled_seconds", "dimension" => name).increment(sampled.as_secs_f64());
        }
    }
}

/// Counts entries of dead sessions that a sweep removed.
pub(crate) fn swept(entries: usize) {
    counter!("tickwire_gateway_index_swept_total").increment(entries as u64);
}

/// Describes the metrics of the index.
pub(crate) fn describe() {
    describe_gauge!("tickwire_gateway_index_filters", "Different filters of subscriptions, counted once per shard");
    describe_gauge!("tickwire_gateway_index_subscriptions", "Subscriptions in the indexes of all shards");
    describe_gauge!("tickwire_gateway_index_entries", "Entries of filters in lists, by dimension; for users, sessions");
    describe_counter!("tickwire_gateway_index_lookups_total", "Lookups of values of events, by dimension");
    describe_counter!("tickwire_gateway_index_hits_total", "Lookups that found a match, by dimension");
    describe_counter!("tickwire_gateway_index_matches_total", "Filters that matched an event, by dimension");
    declare_counter!("tickwire_gateway_index_sampled_events_total", "Events whose lookups were timed");
    describe_gauge!(
        "tickwire_gateway_index_sampled_seconds",
        "Total time of lookups for the timed events, by dimension"
    );
    declare_counter!("tickwire_gateway_index_swept_total", "Entries of dead sessions found in the index; any is a bug");
}
