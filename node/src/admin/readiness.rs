//! Whether the node is ready: named checks, each set by the component that it is about. A new check is not met.

use crate::metrics;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is missing, for each check; `None` when nothing is.
type Checks = BTreeMap<&'static str, Option<String>>;

/// All checks of a node. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    // Held only to read or write a map of a few texts.
    checks: Arc<Mutex<Checks>>,
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
}

impl Readiness {
    /// Adds a check. It is not met until its component sets it.
    pub fn register(&self, name: &'static str) -> Check {
        self.lock().insert(name, Some("not started yet".to_owned()));
        metrics::CHECK_OK.with(name).set(0.0);
        Check { readiness: self.clone(), name }
    }

    /// Every check. A node without checks is not ready, because it has not started its parts yet. A node that drains
    /// is not ready either.
    pub fn report(&self, draining: bool) -> ReadinessReport {
        let report = |(name, missing): (&&'static str, &Option<String>)| CheckReport {
            name,
            ok: missing.is_none(),
            missing: missing.clone(),
        };
        let mut checks: Vec<_> = self.lock().iter().map(report).collect();
        if draining {
            checks.push(CheckReport { name: "running", ok: false, missing: Some("the node is stopping".to_owned()) });
        }
        ReadinessReport { ready: !checks.is_empty() && checks.iter().all(|check| check.ok), checks }
    }

    fn lock(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// Nothing is missing.
    pub fn ok(&self) {
        self.set(None);
    }

    /// Something is missing, described for an operator.
    pub fn missing(&self, what: impl Into<String>) {
        self.set(Some(what.into()));
    }

    fn set(&self, missing: Option<String>) {
        metrics::CHECK_OK.with(self.name).set(f64::from(missing.is_none()));
        self.readiness.lock().insert(self.name, missing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        coverage.missing("partition 3 has no coverage for 12 s");
        let missing = Some("partition 3 has no coverage for 12 s".to_owned());
        assert_eq!(
            readiness.report(false),
            ReadinessReport {
                ready: false,
                checks: vec![
                    CheckReport { name: "coverage", ok: false, missing },
                    CheckReport { name: "nats", ok: true, missing: None },
                ]
            }
        );
    }
}
