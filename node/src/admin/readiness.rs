//! Whether the node is ready: named checks, each set by the component that it is about. A new check is not met.

use crate::metrics;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is missing before a component has set its check, and while the node starts.
const NOT_STARTED: &str = "not started yet";

/// The state of each check.
type Checks = BTreeMap<&'static str, CheckState>;

#[derive(Debug)]
enum CheckState {
    Ok,
    /// Nothing is missing, but something is wrong.
    Warning(String),
    Missing(String),
}

/// All checks of a node. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    // Held only to read or write a map of a few texts.
    checks: Arc<Mutex<Checks>>,
    /// Whether parts are missing, and with them their checks.
    is_starting: Arc<AtomicBool>,
}

/// One check, held by its component. It keeps its last state when the handle is dropped.
#[derive(Debug, Clone)]
pub struct Check {
    readiness: Readiness,
    name: &'static str,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    /// Whether nothing is missing.
    pub ready: bool,
    /// Every check, by name.
    pub checks: Vec<CheckReport>,
}

/// The result of one check in `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Its name.
    pub name: &'static str,
    /// Whether nothing is missing.
    pub ok: bool,
    /// What is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// What is wrong, although nothing is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl Readiness {
    /// Those of a node that starts. It is not ready before [`started`](Self::started): a part that is not there yet has
    /// no check that could say so.
    pub fn starting() -> Self {
        Self { is_starting: Arc::new(AtomicBool::new(true)), ..Self::default() }
    }

    /// Every part is there, and has registered its checks.
    pub fn started(&self) {
        self.is_starting.store(false, Ordering::Relaxed);
    }

    /// Adds a check. It is not met until its component sets it.
    pub fn register(&self, name: &'static str) -> Check {
        self.lock().insert(name, CheckState::Missing(NOT_STARTED.to_owned()));
        metrics::CHECK_OK.with(name).set(0.0);
        Check { readiness: self.clone(), name }
    }

    /// Every check. A node without checks is not ready, because it has not started its parts yet. A node that starts or
    /// drains is not ready either.
    pub fn report(&self, draining: bool) -> ReadinessReport {
        let mut checks: Vec<_> = self.lock().iter().map(|(name, state)| CheckReport::of(name, state)).collect();
        let is_starting = self.is_starting.load(Ordering::Relaxed);
        let not_running = if draining { Some("the node is stopping") } else { is_starting.then_some(NOT_STARTED) };
        let not_running = not_running.map(|why| CheckReport::of("running", &CheckState::Missing(why.to_owned())));
        checks.extend(not_running);
        ReadinessReport { ready: !checks.is_empty() && checks.iter().all(|check| check.ok), checks }
    }

    fn lock(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckReport {
    fn of(name: &'static str, state: &CheckState) -> Self {
        let (missing, warning) = match state {
            CheckState::Ok => (None, None),
            CheckState::Warning(text) => (None, Some(text.clone())),
            CheckState::Missing(text) => (Some(text.clone()), None),
        };
        Self { name, ok: missing.is_none(), missing, warning }
    }
}

impl Check {
    /// Nothing is missing.
    pub fn ok(&self) {
        self.set(CheckState::Ok);
    }

    /// Nothing is missing, but something is wrong, described for an operator.
    pub fn warning(&self, what: impl Into<String>) {
        self.set(CheckState::Warning(what.into()));
    }

    /// Something is missing, described for an operator.
    pub fn missing(&self, what: impl Into<String>) {
        self.set(CheckState::Missing(what.into()));
    }

    fn set(&self, state: CheckState) {
        metrics::CHECK_OK.with(self.name).set(f64::from(!matches!(state, CheckState::Missing(_))));
        self.readiness.lock().insert(self.name, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_starts_is_not_ready_although_the_checks_that_it_has_pass() {
        let readiness = Readiness::starting();
        readiness.register("nats").ok();
        let report = readiness.report(false);
        let missing: Vec<_> = report.checks.iter().map(|check| (check.name, check.missing.as_deref())).collect();
        assert_eq!((report.ready, missing), (false, vec![("nats", None), ("running", Some("not started yet"))]));
        let stopping = readiness.report(true);
        assert_eq!(stopping.checks[1].missing.as_deref(), Some("the node is stopping"));
        assert_eq!(stopping.checks.len(), 2);
        readiness.started();
        let report = readiness.report(false);
        assert_eq!((report.ready, report.checks.len()), (true, 1));
    }

    #[test]
    fn ready_only_when_all_checks_pass_and_no_drain() {
        let readiness = Readiness::default();
        assert!(!readiness.report(false).ready);
        let nats = readiness.register("nats");
        let coverage = readiness.register("coverage");
        nats.ok();
        assert!(!readiness.report(false).ready);
        coverage.ok();
        assert!(readiness.report(false).ready);
        assert!(!readiness.report(true).ready);
        nats.warning("it is slow");
        let report = readiness.report(false);
        assert_eq!((report.ready, report.checks[1].warning.as_deref()), (true, Some("it is slow")));
        nats.ok();
        coverage.missing("partition 3 has no coverage for 12 s");
        let missing = Some("partition 3 has no coverage for 12 s".to_owned());
        assert_eq!(
            readiness.report(false),
            ReadinessReport {
                ready: false,
                checks: vec![
                    CheckReport { name: "coverage", ok: false, missing, warning: None },
                    CheckReport { name: "nats", ok: true, missing: None, warning: None },
                ]
            }
        );
    }
}
