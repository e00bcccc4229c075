//! The metrics of an index. From time to time they are updated with what has changed since the last time.

use super::{Dimension, Statistics};
use crate::metrics;

/// The statistics that were published last. Shards share the metrics, so each adds its difference.
#[derive(Debug, Default)]
pub(crate) struct PublishedStatistics(Statistics);

impl PublishedStatistics {
    /// Updates the metrics to `now`.
    pub(crate) fn update(&mut self, now: Statistics) {
        if now == self.0 {
            return;
        }
        let before = std::mem::replace(&mut self.0, now);
        let difference = |now: u64, before: u64| now as f64 - before as f64;
        metrics::INDEX_FILTERS.increment(difference(now.filters, before.filters));
        metrics::INDEX_SUBSCRIPTIONS.increment(difference(now.subscriptions, before.subscriptions));
        metrics::INDEX_SAMPLED_EVENTS.increment(now.sampled_events - before.sampled_events);
        for dimension in Dimension::ALL {
            let (name, now, before) = (dimension.as_str(), now.of(dimension), before.of(dimension));
            metrics::INDEX_ENTRIES.with(name).increment(difference(now.entries, before.entries));
            metrics::INDEX_LOOKUPS.with(name).increment(now.lookups - before.lookups);
            metrics::INDEX_HITS.with(name).increment(now.hits - before.hits);
            metrics::INDEX_MATCHES.with(name).increment(now.matches - before.matches);
            let sampled = now.sampled - before.sampled;
            // A gauge, since counters are integers, and this is in seconds.
            metrics::INDEX_SAMPLED_SECONDS.with(name).increment(sampled.as_secs_f64());
        }
    }
}

/// Counts entries of ended sessions that a check removed.
pub(crate) fn count_stale_entries(entries: usize) {
    metrics::INDEX_STALE_ENTRIES.increment(entries as u64);
}
