//! The status of a router for operators and producers, beside that of every node (`tickwire_node::status`): its sources
//! in `/v1/cluster`, its counts, and how far it is behind the stream.

use crate::OwnedSources;
use crate::checkpoint::{Mark, SourceProgress};
use crate::decode::{Decoder, LastEvent};
use crate::engine::EngineReport;
use crate::metrics;
use crate::publish::PUBLISH;
use crate::rules::endpoints::{DELETE_RULE, PUT_RULE, RULE, RULES};
use crate::source::{Source, Tenure};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tickwire_node::api::Endpoint;
use tickwire_node::clock::timestamp_now;
use tickwire_node::metrics::Metric;
use tickwire_node::status::{CacheCounters, KindLast, NamedCount, NamedRatio, RoleLoad, RoleStatus};
use tokio::sync::watch;

/// The counts of `/v1/stats`.
static COUNTS: [NamedCount; 9] = [
    ("messages", &metrics::MESSAGES),
    ("matches", &metrics::MATCHES),
    ("batches", &metrics::BATCHES),
    ("batches_lost", &metrics::BATCHES_LOST),
    ("dead_letters", &metrics::DEAD_LETTERS),
    ("skipped_ranges", &metrics::SKIPPED_RANGES),
    ("replay_requests", &metrics::REPLAY_REQUESTS),
    ("replays", &metrics::REPLAYS),
    ("replay_events", &metrics::REPLAY_EVENTS),
];

/// The gauges of `/v1/nodes`.
static GAUGES: [NamedCount; 3] = [
    ("partitions", &metrics::PARTITIONS),
    ("pending", &metrics::PENDING_MESSAGES),
    ("rule_revision", &metrics::RULE_REVISION),
];

/// The ratios of `/v1/stats`.
static RATIOS: [NamedRatio; 1] = [("matches_per_batch", &metrics::MATCHES, &metrics::BATCHES)];

/// The latencies of `/v1/stats`.
static STAGES: [NamedCount; 2] = [("route", &metrics::LAG_SECONDS), ("replay", &metrics::REPLAY_SECONDS)];

/// What should not happen.
static ERRORS: [&dyn Metric; 8] = [
    &metrics::BATCHES_LOST,
    &metrics::DEAD_LETTERS,
    &metrics::DEAD_LETTERS_LOST,
    &metrics::SKIPPED_RANGES,
    &metrics::MISSING_MESSAGES,
    &metrics::LEASES_LOST,
    &metrics::CONTEXT_WRITES_LOST,
    &metrics::REPLAY_PARTS_LOST,
];

/// What a router knows.
#[derive(Debug)]
pub(crate) struct SourcesStatus {
    pub(crate) sources: OwnedSources,
    pub(crate) report: watch::Receiver<Arc<EngineReport>>,
    /// The last events of the kinds that should not be silent.
    pub(crate) kinds: watch::Receiver<Vec<KindLast>>,
    /// It knows the last events.
    pub(crate) decoder: Arc<Decoder>,
}

impl RoleStatus for SourcesStatus {
    fn cluster(&self) -> Value {
        let (wall, report) = (wall(), self.report.borrow().clone());
        let sources: Vec<Value> = self.sources.borrow().iter().map(|source| described(source, wall)).collect();
        let unread = report.unread.iter().map(|(source, reason)| (source.to_string(), json!(reason)));
        let last_events = self
            .decoder
            .last_events
            .all()
            .into_iter()
            .map(|(kind, LastEvent { stored, seq })| (kind.as_str().to_owned(), message(seq, stored.0, wall)));
        let unknown: Vec<&str> = report.gateways_without_interest.iter().map(|gateway| gateway.id.as_str()).collect();
        json!({
            "sources": sources,
            "unread": unread.collect::<Map<String, Value>>(),
            "gateways_without_interest": unknown,
            "last_events": last_events.collect::<Map<String, Value>>(),
        })
    }

    fn counts(&self) -> &'static [NamedCount] {
        &COUNTS
    }

    fn gauges(&self) -> &'static [NamedCount] {
        &GAUGES
    }

    fn ratios(&self) -> &'static [NamedRatio] {
        &RATIOS
    }

    fn stages(&self) -> &'static [NamedCount] {
        &STAGES
    }

    fn load(&self) -> RoleLoad {
        RoleLoad {
            pending: Some(&metrics::PENDING_MESSAGES),
            lag: lag(&self.sources.borrow(), wall()),
            route: Some(&metrics::LAG_SECONDS),
            cache: Some(CacheCounters { hits: &metrics::ROUTE_CACHE_HITS, misses: &metrics::ROUTE_CACHE_MISSES }),
            errors: &ERRORS,
            kinds: self.kinds.borrow().clone(),
            ..RoleLoad::default()
        }
    }
}

/// The endpoints of a router beside those of every node.
pub fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    [&RULES, &RULE, &PUT_RULE, &DELETE_RULE, &PUBLISH].into_iter()
}

/// The time of day, since 1970 in milliseconds, to compare with the times at which messages were stored.
fn wall() -> i64 {
    timestamp_now().0
}

/// A message that was stored at a time.
fn message(seq: Seq, stored: i64, wall: i64) -> Value {
    json!({ "seq": seq.0, "stored": Timestamp(stored).to_string(), "age_ms": age(stored, wall) })
}

fn described((tenure, progress): &(Tenure, SourceProgress), wall: i64) -> Value {
    let mark = progress.mark.map(|Mark { seq, stored }| message(seq, stored, wall));
    json!({
        "source": tenure.source.to_string(),
        "tenure": tenure.number,
        "checkpoint": progress.checkpoint.0,
        "last_message": mark,
    })
}

/// The age of the last message of the partition that is furthest behind. The catch-all gets no heartbeats, so its last
/// message may be old.
fn lag(sources: &[(Tenure, SourceProgress)], wall: i64) -> Option<Duration> {
    let partitions = sources.iter().filter(|(tenure, _)| tenure.source != Source::CatchAll);
    let ages = partitions.filter_map(|(_, progress)| Some(age(progress.mark?.stored, wall)));
    ages.max().map(Duration::from_millis)
}

/// The age of what was stored at a time, in milliseconds.
fn age(stored: i64, wall: i64) -> u64 {
    u64::try_from(wall.saturating_sub(stored)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::Partition;

    fn source(source: Source, stored: Option<i64>) -> (Tenure, SourceProgress) {
        let mark = stored.map(|stored| Mark { seq: Seq(8), stored });
        (Tenure { source, number: 2 }, SourceProgress { checkpoint: Seq(9), mark })
    }

    #[test]
    fn lag_is_that_of_the_partition_that_is_furthest_behind() {
        let partition = |number| Source::Partition(Partition(number));
        let mut sources = vec![source(Source::CatchAll, Some(0)), source(partition(1), None)];
        assert_eq!(lag(&sources, 10_000), None);
        sources.extend([source(partition(2), Some(9_000)), source(partition(3), Some(7_500))]);
        assert_eq!(lag(&sources, 10_000), Some(Duration::from_millis(2_500)));
        // The clock of NATS may be ahead.
        assert_eq!(lag(&sources[2..3], 8_000), Some(Duration::ZERO));
    }

    #[test]
    fn source_is_described_with_its_checkpoint() {
        let described = described(&source(Source::Partition(Partition(3)), Some(1_757_514_600_120)), 1_757_514_601_000);
        let last = json!({ "seq": 8, "stored": "2025-09-10T14:30:00.120Z", "age_ms": 880 });
        let expected = json!({ "source": "partition 3", "tenure": 2, "checkpoint": 9, "last_message": last });
        assert_eq!(described, expected);
    }
}
