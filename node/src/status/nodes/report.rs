//! What a node reports of itself. It is sent to the node that asks.

use crate::admin::Reading;
use crate::clock::millis;
use crate::metrics::{self, Metric};
use crate::status::health::{self, CacheCounters, Grade};
use crate::status::{NamedCount, Status};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How old the numbers may be: however many questions come, a node renders its metrics at most this often.
const MOST_AGE: Duration = Duration::from_millis(500);

/// How many problems a report has, and how many bytes the text of each.
const MOST_PROBLEMS: usize = 16;
const MOST_TEXT: usize = 400;

/// The quantile of the times.
const SLOWEST: f64 = 0.99;

/// The message between nodes: `[up_ms, ready, health, problems, counts, levels, times]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeReport {
    /// How long the node had run when its numbers were read, in milliseconds. Rates are differences of counts by this
    /// clock, so a late answer does not change them.
    pub(super) up_ms: u64,
    /// Whether `/readyz` has nothing missing.
    pub(super) ready: bool,
    /// That of the worst part of `/v1/health`.
    pub(super) health: Grade,
    /// The parts of `/v1/health` that are not healthy.
    pub(super) problems: Vec<NodeProblem>,
    /// The counts of `/v1/stats` since the start.
    pub(super) counts: BTreeMap<String, ReportedCount>,
    /// What goes up and down. The unit is in the name.
    pub(super) levels: BTreeMap<String, f64>,
    /// For each stage of `/v1/stats` that was measured in the last minute, the time that 99 % did not exceed, in
    /// seconds; `None` beyond the last bound of the histogram.
    pub(super) times: BTreeMap<String, Option<f64>>,
}

/// A part of a node that is not healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeProblem {
    part: String,
    status: Grade,
    message: String,
}

/// A count since the start, and by the values of its label if it has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReportedCount {
    total: u64,
    by: BTreeMap<String, u64>,
}

impl NodeReport {
    /// The report of this node.
    pub(super) fn of(status: &Status) -> Self {
        let newest = status.readings.fresh(MOST_AGE);
        let (role, load, health) = (&status.of_role, status.of_role.load(), health::report(status));
        let mut counts: BTreeMap<String, ReportedCount> =
            role.counts().iter().map(|count| named(count, |name| counted(name, &newest))).collect();
        if let Some(CacheCounters { hits, misses }) = load.cache {
            counts.extend(
                [("cache_hits", hits), ("cache_misses", misses)]
                    .map(|count| named(&count, |name| counted(name, &newest))),
            );
        }
        let mut levels: BTreeMap<String, f64> =
            role.gauges().iter().map(|gauge| named(gauge, |name| newest.total(name))).collect();
        let measured = [
            ("sessions", load.sessions.map(|(count, _)| count as f64)),
            ("most_sessions", load.sessions.map(|(_, most)| most as f64)),
            ("queue_bytes", load.queue.map(|(bytes, _)| bytes as f64)),
            ("lag_s", load.lag.map(|lag| lag.as_secs_f64())),
            ("view", Some(newest.total(metrics::VIEW_VERSION.named().name()))),
            ("coordinator", Some(newest.total(metrics::COORDINATOR.named().name()))),
        ];
        levels.extend(measured.into_iter().filter_map(|(name, level)| Some((name.to_owned(), level?))));
        Self {
            up_ms: millis(newest.after(status.started)),
            ready: status.readiness.report(status.drain.is_cancelled()).ready,
            health: health.status,
            problems: problems(health.parts.into_iter().map(|part| (part.name, part.status, part.message))),
            counts,
            levels,
            times: status.readings.span().map(|(_, oldest)| times(role.stages(), &newest, &oldest)).unwrap_or_default(),
        }
    }

    /// Removes what has no form in JSON. Only a stranger sends it.
    pub(super) fn without_infinite_numbers(mut self) -> Self {
        self.levels.retain(|_, level| level.is_finite());
        self.times.retain(|_, time| time.is_none_or(f64::is_finite));
        self
    }
}

fn named<T>((name, metric): &NamedCount, read: impl Fn(&str) -> T) -> (String, T) {
    ((*name).to_owned(), read(metric.named().name()))
}

fn counted(metric: &str, newest: &Reading) -> ReportedCount {
    let by = newest.by_label(metric).into_iter().map(|(label, count)| (label.to_owned(), count as u64));
    ReportedCount { total: newest.total(metric) as u64, by: by.collect() }
}

fn times(stages: &[NamedCount], newest: &Reading, oldest: &Reading) -> BTreeMap<String, Option<f64>> {
    let measured = stages.iter().filter_map(|stage| {
        let (name, distribution) = named(stage, |metric| newest.distribution_since(oldest, metric));
        (distribution.count() > 0.0).then(|| (name, distribution.quantile(SLOWEST)))
    });
    measured.collect()
}

/// The worst ones, each with a text of a bounded length.
fn problems(parts: impl Iterator<Item = (&'static str, Grade, String)>) -> Vec<NodeProblem> {
    let mut problems: Vec<NodeProblem> = parts
        .filter(|(_, status, _)| *status != Grade::Healthy)
        .map(|(part, status, mut message)| {
            message.truncate(message.floor_char_boundary(MOST_TEXT));
            NodeProblem { part: part.to_owned(), status, message }
        })
        .collect();
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.status));
    problems.truncate(MOST_PROBLEMS);
    problems
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tickwire_core::wire;
    use tokio::time::Instant;

    crate::metrics! {
        TESTED:
        counter DROPPED by "reason" within "any" = "dropped_total", "Dropped", "Nothing.";
        histogram DELIVER = "deliver_seconds", "Deliver", "Nothing.";
        histogram REPAIR = "repair_seconds", "Repair", "Nothing.";
    }

    /// A report with one of everything.
    pub(in crate::status::nodes) fn report() -> NodeReport {
        let by = BTreeMap::from([("quota".to_owned(), 2)]);
        let problem = NodeProblem { part: "drops".to_owned(), status: Grade::Warning, message: "2 events".to_owned() };
        NodeReport {
            up_ms: 1_500,
            ready: true,
            health: Grade::Warning,
            problems: vec![problem],
            counts: BTreeMap::from([("dropped".to_owned(), ReportedCount { total: 2, by })]),
            levels: BTreeMap::from([("sessions".to_owned(), 3.0)]),
            times: BTreeMap::from([("deliver".to_owned(), Some(0.25)), ("total".to_owned(), None)]),
        }
    }

    #[test]
    fn form_between_nodes_does_not_change() {
        let sent = wire::encode(&report()).unwrap();
        let form: Value = wire::decode(&sent).unwrap();
        let expected = json!([
            1_500, true, "warning", [["drops", "warning", "2 events"]], { "dropped": [2, { "quota": 2 }] },
            { "sessions": 3.0 }, { "deliver": 0.25, "total": null },
        ]);
        assert_eq!(form, expected);
        assert_eq!(wire::decode::<NodeReport>(&sent).unwrap(), report());
    }

    #[test]
    fn infinite_numbers_of_a_stranger_are_removed() {
        let mut forged = report();
        forged.levels.insert("lag_s".to_owned(), f64::NAN);
        forged.times.insert("filter".to_owned(), Some(f64::INFINITY));
        assert_eq!(forged.without_infinite_numbers(), report());
    }

    #[test]
    fn counts_have_their_labels_and_times_only_those_that_were_measured() {
        let text = "dropped_total{reason=\"quota\"} 2\ndropped_total{reason=\"expired\"} 1\n\
                    deliver_seconds_bucket{le=\"0.1\"} 5\ndeliver_seconds_bucket{le=\"+Inf\"} 5\n";
        let (before, now) = (Reading::parse(Instant::now(), ""), Reading::parse(Instant::now(), text));
        let dropped: NamedCount = ("dropped", &DROPPED);
        let (name, count) = named(&dropped, |metric| counted(metric, &now));
        assert_eq!((name.as_str(), count.total, count.by.len()), ("dropped", 3, 2));
        let stages: [NamedCount; 2] = [("deliver", &DELIVER), ("repair", &REPAIR)];
        assert_eq!(times(&stages, &now, &before), BTreeMap::from([("deliver".to_owned(), Some(0.1))]));
        assert_eq!(TESTED.len(), 3);
    }

    #[test]
    fn worst_problems_come_first_and_are_bounded() {
        let parts = (0..40).map(|number| {
            let grade = [Grade::Healthy, Grade::Warning, Grade::Error][number % 3];
            ("part", grade, "é".repeat(1_000))
        });
        let problems = problems(parts);
        assert_eq!(problems.len(), MOST_PROBLEMS);
        assert_eq!((problems[0].status, problems[MOST_PROBLEMS - 1].status), (Grade::Error, Grade::Warning));
        assert!(problems.iter().all(|problem| problem.message.len() <= MOST_TEXT));
    }
}
