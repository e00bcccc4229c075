//! The rules for each kind. An event is shown only to the rules that name its kind, or no kind.

use std::collections::BTreeMap;

use compact_str::CompactString;

use super::tested::TestedFields;
use super::{Rule, RuleIndex};
use crate::event::Kind;

/// The enabled rules for each kind, in order.
#[derive(Debug, Default)]
pub(super) struct KindBuckets {
    /// For the kinds of [`Kind::BUILT_IN`], in that order.
    built_in: [KindBucket; 5],
    /// For the other kinds that rules name.
    others: BTreeMap<CompactString, KindBucket>,
    /// For all kinds that no rule names: the rules for any kind.
    any: KindBucket,
}

/// The enabled rules for one kind.
#[derive(Debug, Default)]
pub(super) struct KindBucket {
    /// The rules, in order.
    pub(super) rules: Vec<RuleIndex>,
    /// What they test.
    pub(super) tested: TestedFields,
}

impl KindBucket {
    /// Whether a lookup by what the rules test is cheaper than asking them. It takes a step for each tested field, and
    /// asking at least one for each rule.
    pub(super) fn is_worth_a_cache(&self) -> bool {
        self.tested.len() < self.rules.len()
    }
}

impl KindBuckets {
    /// Sorts `rules`, which are in order.
    pub(super) fn new(rules: &[Rule]) -> Self {
        let rules_for = |kind: Option<&Kind>| {
            let is_for = |rule: &Rule| match (&rule.when.kinds, kind) {
                (None, _) => true,
                (Some(kinds), Some(kind)) => kinds.contains(kind),
                (Some(_), None) => false,
            };
            let enabled = (0..=u16::MAX).zip(rules).filter(|&(_, rule)| rule.enabled && is_for(rule));
            let (rules, enabled): (Vec<RuleIndex>, Vec<&Rule>) =
                enabled.map(|(index, rule)| (RuleIndex(index), rule)).unzip();
            KindBucket { rules, tested: TestedFields::of(enabled.into_iter()) }
        };
        let named = rules.iter().filter_map(|rule| rule.when.kinds.as_ref()).flatten();
        let others = named.filter_map(|kind| match kind {
            Kind::Other(name) => Some((name.clone(), rules_for(Some(kind)))),
            _ => None,
        });
        Self {
            built_in: Kind::BUILT_IN.map(|kind| rules_for(Some(&kind))),
            others: others.collect(),
            any: rules_for(None),
        }
    }

    /// The rules for a kind.
    pub(super) fn of(&self, kind: &Kind) -> &KindBucket {
        let place = match kind {
            Kind::Pattern => 0,
            Kind::Market => 1,
            Kind::Health => 2,
            Kind::Alert => 3,
            Kind::Backtest => 4,
            Kind::Other(name) => return self.others.get(name).unwrap_or(&self.any),
        };
        &self.built_in[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{KindAudience, Kinds};
    use serde_json::json;

    #[test]
    fn each_kind_has_its_enabled_rules_in_order() {
        let kinds =
            Kinds::new([(Kind::from("news"), KindAudience::Public), (Kind::from("note"), KindAudience::Public)]);
        let rule = |id: &str, kind: &[&str], enabled: bool| {
            let mut rule = json!({ "id": id, "ttl_ms": 5, "enabled": enabled });
            if !kind.is_empty() {
                rule["when"] = json!({ "kind": kind });
            }
            Rule::parse(&rule, &kinds).unwrap()
        };
        let rules = [
            rule("a", &["pattern", "news"], true),
            rule("b", &[], true),
            rule("c", &["pattern"], false),
            rule("d", &["backtest"], true),
        ];
        let buckets = KindBuckets::new(&rules);
        let of = |kind: &str| buckets.of(&Kind::from(kind)).rules.iter().map(|index| index.0).collect::<Vec<_>>();
        assert_eq!(of("pattern"), [0, 1]);
        assert_eq!(of("news"), [0, 1]);
        assert_eq!(of("backtest"), [1, 3]);
        for kind in ["market", "health", "alert", "note"] {
            assert_eq!(of(kind), [1], "{kind}");
        }
    }
}
