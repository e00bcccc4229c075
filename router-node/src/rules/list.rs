//! How rules are described to operators: all that a router applies, and one as it is stored.

use super::book::{KnownRules, RuleOrigin};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tickwire_core::event::Kinds;
use tickwire_core::ids::NodeId;
use tickwire_core::rules::{Rule, RuleFault, RuleUsage, RuleUsages};
use tickwire_node::bucket::BucketEntry;
use tickwire_node::rule_bucket::StoredRule;

/// The answer of `GET /v1/rules`: the rules in their order, and behind them those that are skipped.
pub(super) fn all(node: &NodeId, known: &KnownRules, usages: &RuleUsages) -> Value {
    let usages: BTreeMap<&str, RuleUsage> = usages.iter().collect();
    let nowhere = RuleOrigin::default();
    let origin = |id: &str| known.origins.get(id).unwrap_or(&nowhere);
    let applied = known.set.rules().iter().map(|rule| {
        let id = rule.id.as_str();
        let mut described = described(id, origin(id), &json!(rule), None);
        described["usage"] = usage(usages.get(id).copied().unwrap_or_default());
        described
    });
    let skipped = known.skipped.iter().map(|skipped| {
        let id = skipped.id.as_deref().unwrap_or_default();
        let mut described = described(id, origin(id), &Value::Null, Some(&skipped.fault));
        described["usage"] = usage(RuleUsage::default());
        described
    });
    let rules: Vec<Value> = applied.chain(skipped).collect();
    json!({ "node": node.as_str(), "revision": known.set.revision().0, "rules": rules })
}

/// The answer of `GET /v1/rules/{id}`: a rule as it is stored. `known` says whether this router skips it for a reason
/// that lies in the other rules.
pub(super) fn one(entry: &BucketEntry, known: &KnownRules, kinds: &Kinds) -> Value {
    let (rule, fault) = match StoredRule::read(&entry.key, &entry.value) {
        Ok(stored) => {
            let fault = Rule::parse(&stored.rule, kinds).err();
            (stored.rule, fault)
        }
        Err(skipped) => (Value::Null, Some(skipped.fault)),
    };
    let is_known = known.origins.get(&entry.key).is_some_and(|origin| origin.revision == entry.revision);
    let of_others = || known.skipped.iter().find(|skipped| skipped.id.as_deref() == Some(entry.key.as_str()));
    let fault = fault.or_else(|| Some(of_others().filter(|_| is_known)?.fault.clone()));
    described(&entry.key, &RuleOrigin::of(entry), &rule, fault.as_ref())
}

/// A rule with its origin, and why it is skipped, if it is.
pub(super) fn described(id: &str, origin: &RuleOrigin, rule: &Value, skipped: Option<&RuleFault>) -> Value {
    let RuleOrigin { revision, updated_by, updated_at } = origin;
    json!({
        "id": id,
        "revision": revision,
        "updated_by": (!updated_by.is_empty()).then_some(updated_by),
        "updated_at": updated_at.map(|at| format!("{at:.3}")),
        "rule": rule,
        "skipped": skipped,
    })
}

fn usage(RuleUsage { matched, last_used, spent_ns }: RuleUsage) -> Value {
    json!({ "matched": matched, "last_used": last_used.map(|at| at.to_string()), "spent_ns": spent_ns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::book::RuleBook;
    use tickwire_core::event::Timestamp;
    use tickwire_core::ids::Seq;
    use tickwire_core::rules::Fate;
    use tickwire_node::bucket::{BucketNews, BucketState};
    use tickwire_testkit::blank_event;

    fn entry(key: &str, revision: u64, rule: &Value) -> BucketEntry {
        let value = json!({ "rule": rule, "updated_by": "ann", "updated_at": "2026-03-02T14:30:00.12Z" });
        BucketEntry { key: key.to_owned(), revision, stored: Timestamp(0), value: value.to_string().into_bytes() }
    }

    #[test]
    fn rules_are_listed_in_order_with_their_usage_and_behind_them_the_skipped_ones() {
        let (late, early) = (json!({ "id": "late", "order": 5, "ttl_ms": 5 }), json!({ "id": "early", "ttl_ms": 5 }));
        let entries =
            vec![entry("late", 2, &late), entry("early", 3, &early), entry("bad", 4, &json!({ "id": "bad" }))];
        let state = BucketState { created: 1, last: 4 };
        let news = BucketNews { state, is_other: true, is_all: true, entries };
        let known = RuleBook::new(Kinds::default()).take(news).unwrap();
        let mut usages = RuleUsages::of(&known.set, &RuleUsages::default());
        let mut asked = Vec::new();
        let event = blank_event();
        let routed = known.set.apply_observed(&event, Seq(1), |index, is_match| asked.push((index, is_match)));
        assert_eq!(routed.fate, Fate::Kept);
        for (index, is_match) in asked {
            usages.note(index, is_match, 700, Timestamp(1_757_514_600_120));
        }
        let list = all(&NodeId::new("r-1").unwrap(), &known, &usages);
        assert_eq!((&list["node"], &list["revision"]), (&json!("r-1"), &json!(4)));
        let used = json!({ "matched": 1, "last_used": "2025-09-10T14:30:00.120Z", "spent_ns": 700 });
        let expected = json!({
            "id": "early", "revision": 3, "updated_by": "ann", "updated_at": "2026-03-02T14:30:00.120Z",
            "rule": early, "skipped": null, "usage": used,
        });
        assert_eq!(list["rules"][0], expected);
        assert_eq!((&list["rules"][1]["id"], &list["rules"][1]["usage"]), (&json!("late"), &used));
        let skipped = &list["rules"][2];
        assert_eq!((&skipped["id"], &skipped["revision"], &skipped["rule"]), (&json!("bad"), &json!(4), &Value::Null));
        assert_eq!(skipped["skipped"]["path"], "rule");
        let unused = json!({ "matched": 0, "last_used": null, "spent_ns": 0 });
        assert_eq!((&skipped["usage"], list["rules"].as_array().unwrap().len()), (&unused, 3));
    }

    #[test]
    fn stored_rule_is_described_with_its_fault() {
        let known = KnownRules::default();
        let of = |entry: &BucketEntry| one(entry, &known, &Kinds::default());
        let good = of(&entry("a", 7, &json!({ "id": "a", "ttl_ms": 5 })));
        assert_eq!(
            (&good["revision"], &good["rule"]["ttl_ms"], &good["skipped"]),
            (&json!(7), &json!(5), &Value::Null)
        );
        let bad = of(&entry("a", 7, &json!({ "id": "a", "ttl_ms": 0 })));
        assert_eq!((&bad["rule"]["ttl_ms"], &bad["skipped"]["path"]), (&json!(0), &json!("ttl_ms")));
        let foreign = BucketEntry { value: b"{".to_vec(), ..entry("a", 7, &Value::Null) };
        let foreign = of(&foreign);
        let who = (&foreign["updated_by"], &foreign["rule"], &foreign["skipped"]["path"]);
        assert_eq!(who, (&Value::Null, &Value::Null, &json!("rule")));
    }
}
