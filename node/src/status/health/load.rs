//! What a role measures, and `[health]` has thresholds for.

use crate::metrics::Metric;
use std::fmt::Debug;
use std::time::Duration;
use tickwire_core::event::Timestamp;

/// What a role measures. A part that it does not have is left out of `/v1/health`.
#[derive(Default)]
pub struct RoleLoad {
    /// How many sessions there are, and how many there may be.
    pub sessions: Option<(usize, usize)>,
    /// How many bytes wait for the shard for which the most wait, and how many may wait.
    pub queue: Option<(usize, usize)>,
    /// The counters of delivered and of dropped events.
    pub deliveries: Option<(&'static dyn Metric, &'static dyn Metric)>,
    /// The gauge of the messages that wait in the stream.
    pub pending: Option<&'static dyn Metric>,
    /// The age of the last message of the partition that is furthest behind.
    pub lag: Option<Duration>,
    /// The histogram of the time in which an index is searched.
    pub filter: Option<&'static dyn Metric>,
    /// The histogram of the time from the storing of an event to its publication.
    pub route: Option<&'static dyn Metric>,
    /// The histogram of the time from the arrival of a batch to the write to a socket.
    pub deliver: Option<&'static dyn Metric>,
    /// The histogram of the time from the storing of an event to the write to a socket.
    pub total: Option<&'static dyn Metric>,
    /// The counters of a cache.
    pub cache: Option<CacheCounters>,
    /// The counters of what should not happen.
    pub errors: &'static [&'static dyn Metric],
    /// The last events of the kinds that should not be silent.
    pub kinds: Vec<KindLast>,
}

/// The counters of the lookups in a cache.
#[derive(Clone, Copy)]
pub struct CacheCounters {
    /// Those that found something.
    pub hits: &'static dyn Metric,
    /// Those that found nothing.
    pub misses: &'static dyn Metric,
}

/// The last event of a kind in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindLast {
    /// The kind.
    pub kind: String,
    /// When the stream stored its last event, or when this node began to look if that was later.
    pub since: Timestamp,
}

impl Debug for CacheCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hits, misses) = (self.hits.named().name(), self.misses.named().name());
        f.debug_struct("CacheCounters").field("hits", &hits).field("misses", &misses).finish()
    }
}

impl Debug for RoleLoad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sessions, queue, lag, kinds, .. } = self;
        let mut shown = f.debug_struct("RoleLoad");
        shown.field("sessions", sessions).field("queue", queue).field("lag", lag).field("kinds", kinds);
        shown.finish_non_exhaustive()
    }
}
