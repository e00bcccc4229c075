//! `/v1/health`: a grade for each part of a node, with a message. The checks of `/readyz` are errors when something is
//! missing, and warnings when they say so. What is measured has two thresholds in `[health]`, one of a warning and one
//! of an error.
//!
//! * [`load`] is what a role measures;
//! * `measured` grades it. Pure;
//! * `silence` grades the time without events of a kind. Pure.

mod load;
mod measured;
mod silence;

pub use load::{CacheCounters, KindLast, RoleLoad};

use super::Status;
use crate::admin::{CheckReport, ReadinessReport};
use crate::clock::timestamp_now;
use measured::of_load;
use serde::{Deserialize, Serialize};

/// How healthy a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    Healthy,
    Warning,
    Error,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct HealthReport {
    node: String,
    role: &'static str,
    pub(super) status: Grade,
    pub(super) parts: Vec<HealthPart>,
}

/// One part.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct HealthPart {
    pub(super) name: &'static str,
    pub(super) status: Grade,
    pub(super) message: String,
}

pub(super) fn report(status: &Status) -> HealthReport {
    let mut parts = of_checks(status.readiness.report(status.drain.is_cancelled()));
    let load = status.of_role.load();
    if let Some((newest, oldest)) = status.readings.span() {
        parts.extend(of_load(&status.thresholds, &load, &newest, &oldest));
    }
    parts.extend(silence::of_kinds(&status.thresholds, timestamp_now(), &load.kinds));
    parts.extend(status.secrets.all().map(|wrong| of_secrets(&wrong)));
    let worst = parts.iter().map(|part| part.status).max().unwrap_or(Grade::Error);
    HealthReport { node: status.me.id.to_string(), role: status.role.as_str(), status: worst, parts }
}

fn of_checks(report: ReadinessReport) -> Vec<HealthPart> {
    let part = |CheckReport { name, missing, warning, .. }| {
        let (status, message) = match (missing, warning) {
            // A node that stops does what it should, but it takes no new work.
            (Some(message), _) if name == "running" => (Grade::Warning, message),
            (Some(message), _) => (Grade::Error, message),
            (None, Some(message)) => (Grade::Warning, message),
            (None, None) => (Grade::Healthy, "nothing is missing".to_owned()),
        };
        HealthPart { name, status, message }
    };
    report.checks.into_iter().map(part).collect()
}

/// The files of secrets. While one is wrong, what was in effect before stays, so it is a warning.
fn of_secrets(wrong: &[String]) -> HealthPart {
    let (status, message) = match wrong {
        [] => (Grade::Healthy, "what the files hold is in effect".to_owned()),
        some => (Grade::Warning, format!("{}; what was in effect before stays", some.join("; "))),
    };
    HealthPart { name: "secrets", status, message }
}

/// The grade of a value that should be low.
fn grade<T: PartialOrd>(value: &T, warning: &T, error: &T) -> Grade {
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

    #[test]
    fn invalid_file_of_a_secret_is_a_warning_that_names_it() {
        assert_eq!(of_secrets(&[]).status, Grade::Healthy);
        let part = of_secrets(&["token secrets: auth.jwt_secret_file = /x: is empty".to_owned()]);
        assert_eq!((part.name, part.status), ("secrets", Grade::Warning));
        assert!(part.message.contains("auth.jwt_secret_file = /x"), "{}", part.message);
    }

    #[test]
    fn missing_check_is_an_error_and_a_drain_or_a_check_that_says_so_a_warning() {
        let readiness = Readiness::default();
        let [name, nats, storage] = ["name", "nats", "storage"].map(|check| readiness.register(check));
        name.warning("two of one name");
        nats.ok();
        storage.missing("full");
        let parts = of_checks(readiness.report(true));
        let found: Vec<_> = parts.iter().map(|part| (part.name, part.status)).collect();
        let expected = [
            ("name", Grade::Warning),
            ("nats", Grade::Healthy),
            ("storage", Grade::Error),
            ("running", Grade::Warning),
        ];
        assert_eq!(found, expected);
        assert_eq!((parts[0].message.as_str(), parts[2].message.as_str()), ("two of one name", "full"));
    }
}
