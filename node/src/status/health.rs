//! `/v1/health`: a grade for each part of a node, with a message. The checks of `/readyz` are errors when something is
//! missing. What is measured has two thresholds in `[health]`, that of a warning and that of an error.

use super::Status;
use crate::admin::ReadinessReport;
use crate::config::HealthConfig;
use crate::metrics::Metric;
use serde::Serialize;
use std::fmt::Debug;
use std::time::Duration;

/// What a role measures, and `[health]` has thresholds for.
#[derive(Default)]
pub struct RoleLoad {
    /// How many sessions there are, and how many there may be.
    pub sessions: Option<(usize, usize)>,
    /// The counter of dropped events.
    pub drops: Option<&'static dyn Metric>,
    /// The age of the last message of the partition that is furthest behind.
    pub lag: Option<Duration>,
}

impl Debug for RoleLoad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sessions, lag, .. } = self;
        f.debug_struct("RoleLoad").field("sessions", sessions).field("lag", lag).finish_non_exhaustive()
    }
}

/// How healthy a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Healthy,
    Warning,
    Error,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct HealthReport {
    node: String,
    role: &'static str,
    status: Grade,
    parts: Vec<HealthPart>,
}

/// One part.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct HealthPart {
    name: &'static str,
    status: Grade,
    message: String,
}

pub(super) fn report(status: &Status) -> HealthReport {
    let mut parts = of_checks(status.readiness.report(status.drain.is_cancelled()));
    let load = status.of_role.load();
    let dropped = load.drops.and_then(|metric| {
        let (newest, oldest) = status.readings.span()?;
        let name = metric.named().name();
        Some((newest.total(name) - oldest.total(name)).max(0.0) as u64)
    });
    parts.extend(of_load(&status.thresholds, &load, dropped));
    let worst = parts.iter().map(|part| part.status).max().unwrap_or(Grade::Error);
    HealthReport { node: status.me.id.to_string(), role: status.role.as_str(), status: worst, parts }
}

fn of_checks(report: ReadinessReport) -> Vec<HealthPart> {
    let part = |check: crate::admin::CheckReport| match check.missing {
        // A node that stops does what it should, but it takes no new work.
        Some(message) if check.name == "running" => HealthPart { name: check.name, status: Grade::Warning, message },
        Some(message) => HealthPart { name: check.name, status: Grade::Error, message },
        None => HealthPart { name: check.name, status: Grade::Healthy, message: "nothing is missing".to_owned() },
    };
    report.checks.into_iter().map(part).collect()
}

/// The parts that are measured. `dropped` is how many events were dropped in the last minute.
fn of_load(thresholds: &HealthConfig, load: &RoleLoad, dropped: Option<u64>) -> Vec<HealthPart> {
    let mut parts = Vec::new();
    if let Some((count, most)) = load.sessions {
        let percent = count.saturating_mul(100) / most.max(1);
        let status = grade(&percent, &thresholds.sessions_warning.into(), &thresholds.sessions_error.into());
        let advice = advice(status, "add gateways, or raise gateway.max_sessions");
        parts.push(HealthPart {
            name: "sessions",
            status,
            message: format!("{count} of {most} sessions, {percent} %{advice}"),
        });
    }
    if let Some(dropped) = dropped {
        let status = grade(&dropped, &thresholds.drops_warning.into(), &thresholds.drops_error.into());
        let advice = advice(status, "tickwire_gateway_dropped_events_total has the reasons");
        parts.push(HealthPart {
            name: "drops",
            status,
            message: format!("{dropped} events dropped in the last minute{advice}"),
        });
    }
    if let Some(lag) = load.lag {
        let status = grade(&lag, &thresholds.lag_warning, &thresholds.lag_error);
        let advice = advice(status, "/v1/cluster has the partitions; see the processors of routers and NATS");
        let message = format!("the last message of a partition is {:.1} s old{advice}", lag.as_secs_f64());
        parts.push(HealthPart { name: "lag", status, message });
    }
    parts
}

fn grade<T: Ord>(value: &T, warning: &T, error: &T) -> Grade {
    if value >= error {
        Grade::Error
    } else if value >= warning {
        Grade::Warning
    } else {
        Grade::Healthy
    }
}

/// What to do about a part, if there is something to do.
fn advice(status: Grade, text: &str) -> String {
    match status {
        Grade::Healthy => String::new(),
        Grade::Warning | Grade::Error => format!(": {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Readiness;
    use crate::config::{Config, LoadOptions};

    #[test]
    fn measured_parts_are_graded_by_their_thresholds() {
        let thresholds = Config::load(&LoadOptions::default()).unwrap().health;
        let grades = |sessions, dropped, lag| {
            let load = RoleLoad { sessions: Some((sessions, 1_000)), drops: None, lag: Some(Duration::from_secs(lag)) };
            let parts = of_load(&thresholds, &load, Some(dropped));
            parts.into_iter().map(|part| (part.name, part.status)).collect::<Vec<_>>()
        };
        let expected = |status| vec![("sessions", status), ("drops", status), ("lag", status)];
        assert_eq!(grades(799, 0, 14), expected(Grade::Healthy));
        assert_eq!(grades(800, 1, 15), expected(Grade::Warning));
        assert_eq!(grades(949, 9_999, 59), expected(Grade::Warning));
        assert_eq!(grades(950, 10_000, 60), expected(Grade::Error));
        assert!(of_load(&thresholds, &RoleLoad::default(), None).is_empty());
    }

    #[test]
    fn missing_check_is_an_error_and_a_drain_a_warning() {
        let readiness = Readiness::default();
        let (nats, storage) = (readiness.register("nats"), readiness.register("storage"));
        nats.ok();
        storage.missing("full");
        let parts = of_checks(readiness.report(true));
        let found: Vec<_> = parts.iter().map(|part| (part.name, part.status)).collect();
        let expected = [("nats", Grade::Healthy), ("storage", Grade::Error), ("running", Grade::Warning)];
        assert_eq!(found, expected);
        assert_eq!(parts[1].message, "full");
    }
}
