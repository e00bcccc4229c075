//! Rules to begin with. A cluster has no rules until an operator loads some, and routes by content.

use serde_json::Value;

/// A list of rules in JSON, for an operator to load.
pub const DEFAULT_RULES: &str = include_str!("defaults.json");

/// The rules of [`DEFAULT_RULES`].
///
/// # Errors
/// Never, since the list is valid JSON; a test reads it.
pub fn default_rules() -> Result<Vec<Value>, serde_json::Error> {
    serde_json::from_str(DEFAULT_RULES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kinds;
    use crate::event::Strategy;
    use crate::rules::{RuleRevision, RuleSet};

    #[test]
    fn every_default_rule_is_valid() {
        let rules = default_rules().unwrap();
        let (set, skipped) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
        assert_eq!(skipped, []);
        let strategies: Vec<_> = set.rules().iter().map(|rule| (rule.id.as_str(), rule.actions.strategy)).collect();
        assert_eq!(
            strategies,
            [
                ("patterns", Some(Strategy::Content)),
                ("tier-daily", None),
                ("tier-combo", None),
                ("tier-intraday", Some(Strategy::LoadBalanced)),
                ("high-confidence", Some(Strategy::PriorityFirst)),
                ("market-state", Some(Strategy::Broadcast)),
                ("health", Some(Strategy::Content)),
                ("backtests", Some(Strategy::Content)),
            ]
        );
        assert!(set.rules().iter().all(|rule| rule.enabled && !rule.description.is_empty()));
    }
}
