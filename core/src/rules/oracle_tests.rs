//! Tests of rules against a naive oracle, which reads the rules and the event as plain JSON.

use compact_str::CompactString;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::slots::SlotTable;
use super::{Fate, RuleOutcome, RuleRevision, RuleSet};
use crate::event::{Event, Kind, Kinds, Priority, Tier, blank_event};
use crate::ids::{Confidence, Pattern, Room, Seq, Symbol};
use crate::placement::hash;

/// What the oracle says of one event.
#[derive(Debug)]
struct Decision {
    matched: Vec<String>,
    is_kept: bool,
    strategy: String,
    ttl_ms: Option<u64>,
    event: Event,
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![Just(Kind::Pattern), Just(Kind::Market), Just(Kind::Alert)];
    let data = (0..4_u8, -2..3_i64, "[ab]{0,2}", prop::collection::vec(0..3_i64, 0..3));
    let names = (prop::option::of("[AB]"), prop::option::of("[xy]"), prop::collection::btree_set("[tu]", 0..3));
    (kind, names, prop::option::of(0..=10_u32), 0..4_usize, prop::option::of(0..3_usize), data).prop_map(
        |(kind, (symbol, pattern, tags), confidence, priority, tier, (form, number, text, list))| {
            let x = match form {
                0 => json!(number),
                1 => json!(number as f64 + 0.26),
                2 => json!(text),
                _ => Value::Null,
            };
            Event {
                key: symbol.as_deref().unwrap_or("none").into(),
                symbol: symbol.map(|text| Symbol::new(&text).unwrap()),
                pattern: pattern.map(|text| Pattern::new(&text).unwrap()),
                confidence: confidence.and_then(|tenths| Confidence::new(f64::from(tenths) / 10.0)),
                priority: Priority::ALL[priority],
                tier: tier.map(|tier| Tier::ALL[tier]),
                tags: tags.into_iter().map(Into::into).collect(),
                rooms: vec![Room::new("own").unwrap()],
                data: Map::from_iter([("x".to_owned(), x), ("list".to_owned(), json!(list))]),
                kind,
                ..blank_event()
            }
        },
    )
}

fn operand() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-2..3_i64).prop_map(|number| json!({ "field": "data.x", "min": number })),
        (-2..3_i64).prop_map(|number| json!({ "field": "data.x", "max": number as f64 + 0.25 })),
        (-2..3_i64).prop_map(|number| json!({ "field": "data.x", "ne": number })),
        prop::collection::vec(-2..3_i64, 1..4).prop_map(|numbers| json!({ "field": "data.x", "in": numbers })),
        "[ab]{1,2}".prop_map(|text| json!({ "field": "data.x", "prefix": text })),
        "[ab]".prop_map(|text| json!({ "field": "data.x", "contains": text })),
        (0..3_i64).prop_map(|number| json!({ "field": "data.list", "contains": number })),
        any::<bool>().prop_map(|exists| json!({ "field": "data.x", "exists": exists })),
        "[AB]".prop_map(|symbol| json!({ "field": "symbol", "eq": symbol })),
        "[tu]".prop_map(|tag| json!({ "field": "tags", "contains": tag })),
        (0..=10_u32).prop_map(|tenths| json!({ "field": "confidence", "min": f64::from(tenths) / 10.0 })),
        (0..4_usize).prop_map(|at| json!({ "field": "priority", "min": Priority::ALL[at].as_str() })),
        (0..4_usize).prop_map(|at| json!({ "field": "priority", "max": Priority::ALL[at].as_str() })),
    ]
}

fn condition() -> impl Strategy<Value = Value> {
    operand().prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..3).prop_map(|all| json!({ "all": all })),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|any| json!({ "any": any })),
            inner.prop_map(|not| json!({ "not": not })),
        ]
    })
}

fn when() -> impl Strategy<Value = Value> {
    let kind = prop::option::of(prop_oneof![Just("pattern"), Just("market"), Just("alert")]);
    let event_type = prop::option::of(prop_oneof![Just("x"), Just("*"), Just("m?rket"), Just("?")]);
    (kind, event_type, prop::collection::vec(condition(), 1..3)).prop_map(
        |(kind, event_type, conditions)| json!({ "kind": kind, "type": event_type, "conditions": conditions }),
    )
}

/// The actions of a rule, as fields.
fn actions() -> impl Strategy<Value = Value> {
    let rooms = || prop::collection::btree_set("r[1-5]", 1..4);
    let spread = prop_oneof![
        rooms().prop_map(|rooms| json!({ "rooms": rooms })),
        Just(json!({ "strategy": "content" })),
        rooms().prop_map(|rooms| json!({ "strategy": "broadcast", "rooms": rooms })),
        rooms().prop_map(|rooms| json!({ "strategy": "priority_first", "rooms": rooms })),
        rooms().prop_map(|rooms| json!({ "strategy": "load_balanced", "rooms": rooms })),
        rooms().prop_map(|rooms| json!({ "strategy": "round_robin", "rooms": rooms })),
    ];
    let change = prop_oneof![
        (0..4_usize).prop_map(|at| json!({ "set_priority": Priority::ALL[at].as_str() })),
        "[a-z]".prop_map(|tag| json!({ "add_tags": [tag] })),
        (1..9_u64).prop_map(|ttl| json!({ "ttl_ms": ttl })),
        Just(json!({ "transform": { "rename": { "data.x": "data.y" } } })),
        Just(json!({ "transform": { "drop": ["data.x"] } })),
        (0..3_i64).prop_map(|number| json!({ "transform": { "set": { "data.x": number } } })),
        Just(json!({ "transform": { "round": { "data.x": 0, "data.y": 1 } } })),
    ];
    let end = prop_oneof![Just(json!({ "drop": true })), Just(json!({ "sample": 0.5 }))];
    prop_oneof![6 => spread, 6 => change, 1 => end]
}

pub(super) fn rules() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec((when(), actions(), 0..3_i64), 0..8).prop_map(|rules| {
        let rule = |(i, (when, actions, order)): (usize, (Value, Value, i64))| {
            let mut rule = json!({ "id": format!("r{i}"), "when": when, "order": order });
            for (name, value) in actions.as_object().unwrap() {
                rule[name] = value.clone();
            }
            rule
        };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

/// The value of a field; `None` if it is absent.
fn field(event: &Value, name: &str) -> Option<Value> {
    let found = name.split('.').try_fold(event, |value, name| value.get(name))?;
    (!found.is_null() && *found != json!([]) || name == "data.list").then(|| found.clone())
}

fn rank(priority: &Value) -> Option<Priority> {
    priority.as_str()?.parse().ok()
}

fn holds(event: &Value, condition: &Value) -> bool {
    let list = |name: &str| condition[name].as_array();
    if let Some(all) = list("all") {
        return all.iter().all(|one| holds(event, one));
    }
    if let Some(any) = list("any") {
        return any.iter().any(|one| holds(event, one));
    }
    if let Some(not) = condition.get("not") {
        return !holds(event, not);
    }
    let name = condition["field"].as_str().unwrap();
    let found = field(event, name);
    if let Some(exists) = condition.get("exists") {
        return found.is_some() == exists.as_bool().unwrap();
    }
    let Some(found) = found else { return false };
    let is = |value: &Value, wanted: &Value| {
        value == wanted || value.as_f64().is_some() && value.as_f64() == wanted.as_f64()
    };
    let has = |operator: &str| condition.get(operator);
    if let Some(wanted) = has("eq") {
        is(&found, wanted)
    } else if let Some(unwanted) = has("ne") {
        !is(&found, unwanted)
    } else if let Some(wanted) = has("in") {
        wanted.as_array().unwrap().iter().any(|one| is(&found, one))
    } else if let Some(start) = has("prefix") {
        found.as_str().is_some_and(|text| text.starts_with(start.as_str().unwrap()))
    } else if let Some(part) = has("contains") {
        match (&found, part) {
            (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
            (Value::Array(entries), part) => entries.contains(part),
            _ => false,
        }
    } else if name == "priority" {
        has("min").is_none_or(|least| rank(&found) >= rank(least))
            && has("max").is_none_or(|most| rank(&found) <= rank(most))
    } else {
        let number = found.as_f64();
        number.is_some()
            && has("min").is_none_or(|least| number >= least.as_f64())
            && has("max").is_none_or(|most| number <= most.as_f64())
    }
}

fn matches(rule: &Value, event: &Value) -> bool {
    let when = &rule["when"];
    let event_type = event["pattern"].as_str().or(event["kind"].as_str()).unwrap();
    let is_type = match when["type"].as_str() {
        Some("?") => event_type.len() == 1,
        Some("m?rket") => event_type == "market",
        Some("*") | None => true,
        Some(exact) => event_type == exact,
    };
    (when["kind"].is_null() || when["kind"] == event["kind"])
        && is_type
        && when["conditions"].as_array().unwrap().iter().all(|condition| holds(event, condition))
}

fn room_names(rule: &Value) -> Vec<Room> {
    let names = rule["rooms"].as_array().into_iter().flatten();
    names.map(|name| Room::new(name.as_str().unwrap()).unwrap()).collect()
}

/// The one change of data that a generated rule makes.
fn transform(rule: &Value, data: &mut Map<String, Value>) {
    let transform = &rule["transform"];
    if transform.get("rename").is_some() && data.get("x").is_some_and(|value| !value.is_null()) {
        let value = data.remove("x").unwrap();
        data.insert("y".to_owned(), value);
    }
    if transform.get("drop").is_some() {
        data.remove("x");
    }
    if let Some(set) = transform.get("set") {
        data.insert("x".to_owned(), set["data.x"].clone());
    }
    if transform.get("round").is_some() {
        for (name, factor) in [("x", 1.0), ("y", 10.0)] {
            // No number is halfway between two others.
            if let Some(number) = data.get(name).filter(|value| value.is_f64()).and_then(Value::as_f64) {
                data.insert(name.to_owned(), json!((number * factor).round() / factor));
            }
        }
    }
}

/// What the rules say, by the words of their documentation.
fn decide(rules: &[Value], event: &Event, seq: u64) -> Decision {
    let published = serde_json::to_value(event).unwrap();
    let mut rules: Vec<&Value> = rules.iter().collect();
    rules.sort_by_key(|rule| (rule["order"].as_i64(), rule["id"].to_string()));
    let matching: Vec<&Value> = rules.into_iter().filter(|rule| matches(rule, &published)).collect();
    let place = (hash(&seq.to_be_bytes()) >> 11) as f64 / (1_u64 << 53) as f64;
    let end = matching
        .iter()
        .position(|rule| rule["drop"] == json!(true) || rule["sample"].as_f64().is_some_and(|share| place >= share));
    let counting = &matching[..end.map_or(matching.len(), |end| end + 1)];
    let last = |name: &str| counting.iter().rfind(|rule| !rule[name].is_null());
    let decider = last("strategy");
    let spread = decider.map_or("content", |rule| rule["strategy"].as_str().unwrap());

    let mut event = event.clone();
    for rule in counting {
        let owns = matches!(rule["strategy"].as_str(), Some("broadcast" | "load_balanced" | "round_robin"));
        if !owns || spread == "broadcast" && decider.is_some_and(|decider| decider["id"] == rule["id"]) {
            event.rooms.extend(room_names(rule));
        }
        let tags = rule["add_tags"].as_array().into_iter().flatten();
        event.tags.extend(tags.map(|tag| CompactString::from(tag.as_str().unwrap())));
        transform(rule, &mut event.data);
    }
    if let Some(decider) = decider {
        let names = room_names(decider);
        let chosen = match spread {
            "load_balanced" => SlotTable::new(&names).room_of(&event.key),
            "round_robin" => Some(seq as usize % names.len()),
            _ => None,
        };
        if let Some(chosen) = chosen {
            event.rooms.retain(|room| !names.contains(room));
            event.rooms.push(names[chosen].clone());
        }
    }
    event.rooms.sort();
    event.rooms.dedup();
    event.tags.sort();
    event.tags.dedup();
    event.priority = last("set_priority").and_then(|rule| rank(&rule["set_priority"])).unwrap_or(event.priority);
    Decision {
        matched: counting.iter().map(|rule| rule["id"].as_str().unwrap().to_owned()).collect(),
        is_kept: end.is_none(),
        strategy: spread.to_owned(),
        ttl_ms: last("ttl_ms").and_then(|rule| rule["ttl_ms"].as_u64()),
        event,
    }
}

proptest! {
    /// For any rules and any event: the compiled set decides as the oracle does, twice the same, and explains it.
    #[test]
    fn compiled_rules_decide_as_a_naive_reading_does(rules in rules(), event in event(), seq in 0..1_000_u64) {
        let (set, skipped) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
        prop_assert_eq!(skipped, vec![]);
        let routed = set.apply(&event, Seq(seq));
        let expected = decide(&rules, &event, seq);
        let matched: Vec<String> = routed.rules().map(|rule| rule.id.to_string()).collect();
        prop_assert_eq!(&matched, &expected.matched);
        prop_assert_eq!(routed.fate == Fate::Kept, expected.is_kept);

        let outcomes = set.explain(&event, Seq(seq));
        let explained = outcomes.iter().filter(|one| {
            matches!(one.outcome, RuleOutcome::Matched | RuleOutcome::SampledOut | RuleOutcome::Dropped)
        });
        prop_assert_eq!(explained.map(|one| one.rule.to_string()).collect::<Vec<_>>(), matched);

        if expected.is_kept {
            prop_assert_eq!(routed.strategy.as_str(), expected.strategy);
            prop_assert_eq!(routed.ttl_ms, expected.ttl_ms);
            let mut changed = event.clone();
            routed.change(&mut changed);
            prop_assert_eq!(changed, expected.event);
        }
    }
}
