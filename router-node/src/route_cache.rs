//! The route caches of a router: one of each intake for the rules, and one of the engine for interest. Each has one
//! owner, so none has a lock. Here is how they share their memory, and how they are counted.

use crate::metrics;
use ::metrics::{Counter, Gauge};
use tickwire_core::route_cache::CacheCounts;
use tickwire_node::config::RouterConfig;

/// The label of the caches that know which rules match.
pub(crate) const RULES: &str = "rules";

/// The label of the cache that knows which gateways want an event.
pub(crate) const INTEREST: &str = "interest";

/// Every label of the caches.
pub(crate) fn stages() -> Vec<&'static str> {
    vec![RULES, INTEREST]
}

/// The bytes of the cache for interest.
pub(crate) fn bytes_for_interest(config: &RouterConfig) -> usize {
    config.route_cache_bytes / 2
}

/// The bytes of the cache for rules of one partition. A router may own all partitions.
pub(crate) fn bytes_for_rules(config: &RouterConfig, partitions: u16) -> usize {
    config.route_cache_bytes / 2 / usize::from(partitions.max(1))
}

/// Passes on what a cache has done.
#[derive(Debug)]
pub(crate) struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    evictions: Counter,
    /// Shared by all caches of the stage.
    entries: Gauge,
    /// The entries of this cache that the gauge counts.
    counted: usize,
}

impl CacheMetrics {
    /// For a cache of this stage.
    pub(crate) fn new(stage: &'static str) -> Self {
        Self {
            hits: metrics::ROUTE_CACHE_HITS.with(stage),
            misses: metrics::ROUTE_CACHE_MISSES.with(stage),
            evictions: metrics::ROUTE_CACHE_EVICTIONS.with(stage),
            entries: metrics::ROUTE_CACHE_ENTRIES.with(stage),
            counted: 0,
        }
    }

    /// Notes what the cache has done since the last call, and its entries.
    pub(crate) fn note(&mut self, counts: CacheCounts, entries: usize) {
        self.hits.increment(counts.hits);
        self.misses.increment(counts.misses);
        self.evictions.increment(counts.evictions);
        self.entries.increment(entries as f64 - self.counted as f64);
        self.counted = entries;
    }
}

impl Drop for CacheMetrics {
    /// The cache is gone.
    fn drop(&mut self) {
        self.entries.decrement(self.counted as f64);
    }
}
