//! Hostile rules at their limits, and events at theirs: a decision takes one step for each part of the rules and each
//! part of the event at most, so that no rules stop a partition.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::limits::{MAX_RULE_CONDITIONS, MAX_RULES, MAX_SET_BYTES};
use super::*;
use crate::event::decode::MAX_PAYLOAD;
use crate::event::{Kinds, blank_event};
use crate::ids::{Millis, Pattern};

/// Far more than the decisions below take together on any machine, and far less than a search that goes back would.
const DEADLINE: Duration = Duration::from_secs(30);

/// As many rules as a set may have, each with as many conditions as have room. No condition holds, so all are tested.
/// `condition` makes conditions of equal length, each from a number of five digits.
fn largest_set(event_type: &Value, condition: impl Fn(usize) -> Value) -> Arc<RuleSet> {
    let rule = |number: usize, count: usize| {
        let first = 10_000 + number * MAX_RULE_CONDITIONS;
        let conditions: Vec<Value> = (first..first + count).map(&condition).collect();
        let when = json!({ "type": event_type, "conditions": [{ "any": conditions }] });
        json!({ "id": format!("r{number:03}"), "ttl_ms": 1, "when": when })
    };
    let fits = |count: &usize| {
        let rule = rule(0, *count);
        rule.to_string().len() <= MAX_SET_BYTES / MAX_RULES && Rule::parse(&rule, &Kinds::default()).is_ok()
    };
    let count = (1..MAX_RULE_CONDITIONS).rev().find(fits).unwrap();
    let rules: Vec<Value> = (0..MAX_RULES).map(|number| rule(number, count)).collect();
    let (set, skipped) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
    assert_eq!((set.rules().len(), skipped), (MAX_RULES, vec![]));
    Arc::new(set)
}

/// An event of about the largest size that is accepted.
fn largest_event(x: Value) -> Event {
    let event = Event {
        pattern: Some(Pattern::new(&"a".repeat(Pattern::MAX)).unwrap()),
        data: Map::from_iter([("x".to_owned(), x)]),
        ..blank_event()
    };
    let bytes = serde_json::to_vec(&event.data).unwrap().len();
    assert!((MAX_PAYLOAD * 9 / 10..=MAX_PAYLOAD).contains(&bytes), "{bytes} bytes");
    event
}

#[test]
fn largest_rules_decide_on_the_largest_events_in_a_bounded_time() {
    let on_x = |operator: &str, operand: Value| {
        let mut condition = json!({ "field": "data.x" });
        condition[operator] = operand;
        condition
    };
    let contains = |number: usize| on_x("contains", json!(format!("aab{number}")));
    let (any, entry) = (json!("*"), "a".repeat(60));
    let sets = [
        largest_set(&any, contains),
        largest_set(&any, |number| on_x("prefix", json!(format!("aab{number}")))),
        largest_set(&any, |number| on_x("in", json!([number, format!("b{number}")]))),
        largest_set(&any, |number| on_x("min", json!(number))),
        // An even number of times, so that none holds.
        largest_set(&any, |number| (0..6).fold(contains(number), |inner, _| json!({ "not": inner }))),
        largest_set(&json!({ "regex": "^(a|a)*(a*)*(a+)+b" }), |number| on_x("eq", json!(number))),
        largest_set(&json!(format!("{}b", "*a".repeat(60))), |number| on_x("eq", json!(number))),
    ];
    let text = json!("a".repeat(MAX_PAYLOAD - 1_000));
    let list = json!(vec![entry; (MAX_PAYLOAD - 1_000) / 63]);
    let begun = Instant::now();
    for event in [largest_event(text), largest_event(list)] {
        for set in &sets {
            let mut asked = 0;
            let routed = set.apply_observed(&event, Seq(1), |_, _| asked += 1);
            assert_eq!((asked, &routed.matched[..]), (MAX_RULES, &[][..]), "each rule is asked once");
            let mut cache = RuleCache::new(1_000_000);
            for _ in 0..2 {
                assert!(cache.apply(Millis(0), set, &event, Seq(1), |_, _| {}).is_unchanged());
            }
        }
    }
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
}
