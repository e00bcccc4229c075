//! How much the rules are used. The caller measures the time, since nothing here has a clock.

use compact_str::CompactString;
use serde::Serialize;

use super::{Rule, RuleIndex, RuleSet};
use crate::event::Timestamp;

/// How much a rule was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleUsage {
    /// How many events it matched.
    pub matched: u64,
    /// When it last matched one.
    pub last_used: Option<Timestamp>,
    /// The time spent on it, in nanoseconds, also for events that it did not match.
    pub spent_ns: u64,
}

/// The usage of each rule of one set.
#[derive(Clone, Debug, Default)]
pub struct RuleUsages(Vec<(CompactString, RuleUsage)>);

impl RuleUsages {
    /// The usages for `set`, which go on from those `before` for rules with the same id.
    #[must_use]
    pub fn of(set: &RuleSet, before: &Self) -> Self {
        let usage = |rule: &Rule| {
            let known = before.0.iter().find(|(id, _)| *id == rule.id);
            (rule.id.clone(), known.map(|(_, usage)| *usage).unwrap_or_default())
        };
        Self(set.rules().iter().map(usage).collect())
    }

    /// Notes that a rule of the set was asked at `now`, and took `spent_ns`.
    pub fn note(&mut self, index: RuleIndex, is_match: bool, spent_ns: u64, now: Timestamp) {
        let Some((_, usage)) = self.0.get_mut(usize::from(index.0)) else { return };
        usage.spent_ns = usage.spent_ns.saturating_add(spent_ns);
        if is_match {
            usage.matched = usage.matched.saturating_add(1);
            usage.last_used = usage.last_used.max(Some(now));
        }
    }

    /// The id and the usage of each rule, in the order of the set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, RuleUsage)> {
        self.0.iter().map(|(id, usage)| (id.as_str(), *usage))
    }
}
