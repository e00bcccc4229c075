//! What is explained of a decision.

use serde_json::json;

use super::tests::{pattern_event, set};
use super::*;

#[test]
fn explanation_names_the_first_condition_that_fails() {
    let set = set(json!([
        { "id": "a", "order": 1, "ttl_ms": 1, "when": { "kind": ["market", "health"] } },
        { "id": "b", "order": 2, "ttl_ms": 1, "when": { "type": "Doji*" } },
        { "id": "c", "order": 3, "ttl_ms": 1, "when": { "conditions": [
            { "field": "symbol", "eq": "AAPL" },
            { "all": [{ "field": "data.levels.support", "min": 90 }, { "field": "confidence", "min": 0.9 }] },
        ] } },
        { "id": "d", "order": 4, "ttl_ms": 1, "when": { "conditions": [{ "field": "regime", "eq": "bull" }] } },
        { "id": "e", "order": 5, "ttl_ms": 1, "enabled": false },
        { "id": "f", "order": 6, "ttl_ms": 1, "when": { "conditions": [{ "not": { "field": "tags", "contains": "high_confidence" } }] } },
        { "id": "g", "order": 7, "drop": true, "when": { "conditions": [{ "any": [{ "field": "tier", "in": ["daily", "combo"] }] }] } },
        { "id": "h", "order": 8, "ttl_ms": 1 },
    ]));
    let failed = |path: &str, actual: &str, expected: &str| RuleOutcome::Failed {
        path: path.to_owned(),
        actual: actual.to_owned(),
        expected: expected.to_owned(),
    };
    let found: Vec<_> = set.explain(&pattern_event(), Seq(1)).into_iter().map(|one| one.outcome).collect();
    assert_eq!(
        found,
        [
            failed("when.kind", "\"pattern\"", "the kind must be one of market, health"),
            failed("when.type", "\"BreakoutBO\"", "the type must match the glob \"Doji*\""),
            failed("when.conditions[1].all[1].min", "0.85", "confidence must be a number from 0.9"),
            failed("when.conditions[0].eq", "absent", "regime must be \"bull\""),
            RuleOutcome::Disabled,
            failed(
                "when.conditions[0].not",
                "[\"high_confidence\"]",
                "tags must not be a text or a list that contains \"high_confidence\""
            ),
            RuleOutcome::Dropped,
            RuleOutcome::NotReached { ended_by: "g".into() },
        ]
    );
}

#[test]
fn explanation_of_alternatives_has_the_value_of_the_first_one() {
    let tier = json!({ "field": "tier", "eq": "combo" });
    let price = json!({ "field": "data.price", "max": 50 });
    let daily = json!({ "all": [{ "field": "tier", "eq": "daily" }] });
    for (condition, path, actual, expected) in [
        (json!({ "any": [tier] }), "any[0].eq", "\"daily\"", "tier must be \"combo\""),
        (
            json!({ "any": [price, tier] }),
            "any",
            "101.237",
            "one of 2 conditions must hold, such as: data.price must be a number up to 50",
        ),
        (json!({ "not": daily }), "not", "met", "the condition must not be met"),
        (
            json!({ "not": { "field": "data.price", "min": 1, "max": 200 } }),
            "not",
            "101.237",
            "data.price must not be a number up to 200 and a number from 1",
        ),
    ] {
        let set = set(json!([{ "id": "a", "ttl_ms": 1, "when": { "conditions": [condition] } }]));
        let outcome = set.explain(&pattern_event(), Seq(1)).remove(0).outcome;
        let failed = RuleOutcome::Failed {
            path: format!("when.conditions[0].{path}"),
            actual: actual.to_owned(),
            expected: expected.to_owned(),
        };
        assert_eq!(outcome, failed);
    }
}
