//! Tests of rules: their faults, and how they combine.

use serde_json::{Value, json};

use super::*;
use crate::event::{Audience, Handling, Kind, Kinds, Priority, Strategy, Tier, blank_event};
use crate::ids::{Confidence, Pattern, Room, Symbol, UserId};

pub(super) fn set(rules: Value) -> RuleSet {
    let Value::Array(rules) = rules else { panic!("a list of rules") };
    let (set, skipped) = RuleSet::compile(RuleRevision(7), &rules, &Kinds::default());
    assert_eq!(skipped, []);
    set
}

fn fault(rule: &Value) -> RuleFault {
    Rule::parse(rule, &Kinds::default()).unwrap_err()
}

pub(super) fn pattern_event() -> Event {
    let Value::Object(data) = json!({ "price": 101.237, "levels": { "support": 99 }, "source": "feed" }) else {
        panic!("data is an object")
    };
    Event {
        symbol: Some(Symbol::new("AAPL").unwrap()),
        pattern: Some(Pattern::new("BreakoutBO").unwrap()),
        tier: Some(Tier::Daily),
        confidence: Confidence::new(0.85),
        priority: Priority::High,
        tags: vec!["high_confidence".into()],
        data,
        ..blank_event()
    }
}

fn names(routed: &Routed<'_>) -> Vec<String> {
    routed.rules().map(|rule| rule.id.to_string()).collect()
}

fn rooms(event: &Event) -> Vec<&str> {
    event.rooms.iter().map(Room::as_str).collect()
}

fn changed(set: &RuleSet, event: &Event, seq: u64) -> Event {
    let mut changed = event.clone();
    set.apply(event, Seq(seq)).change(&mut changed);
    changed
}

#[test]
fn fault_has_the_path_and_a_hint() {
    let with = |conditions: Value| json!({ "id": "a", "drop": true, "when": { "conditions": conditions } });
    for (rule, path, hint) in [
        (json!([]), "rule", "it must be an object"),
        (json!({ "drop": true }), "rule", "add \"id\", such as \"high-confidence\""),
        (json!({ "id": "a b", "drop": true }), "id", "use letters, digits, '-' and '_'"),
        (json!({ "id": "a", "stratgy": "content" }), "stratgy", "did you mean \"strategy\"?"),
        (json!({ "id": "a", "strategy": "broadcst" }), "strategy", "did you mean \"broadcast\"?"),
        (json!({ "id": "a", "strategy": "round_robin" }), "rule", "add \"rooms\": […]"),
        (json!({ "id": "a", "rooms": ["x", "x"] }), "rooms[1]", "remove one of them"),
        (json!({ "id": "a", "set_priority": "hihg" }), "set_priority", "did you mean \"high\"?"),
        (json!({ "id": "a", "ttl_ms": 0 }), "ttl_ms", "it must be a whole number from 1 to 604800000"),
        (json!({ "id": "a", "enabled": 1, "drop": true }), "enabled", "it must be true or false"),
        (json!({ "id": "a", "drop": true, "ttl_ms": 5 }), "rule", "remove one of them"),
        (json!({ "id": "a", "when": { "kind": "patern" }, "drop": true }), "when.kind", "did you mean \"pattern\"?"),
        (
            json!({ "id": "a", "when": { "kind": [] }, "drop": true }),
            "when.kind",
            "leave the field out, or name at least one entry",
        ),
        (
            with(json!([{ "field": "symbl", "eq": "A" }])),
            "when.conditions[0].field",
            "did you mean \"symbol\"? (all else that producers send is under data.)",
        ),
        (with(json!([{ "field": "tier", "eq": "dayly" }])), "when.conditions[0].eq", "did you mean \"daily\"?"),
        (
            with(json!([{ "field": "key", "eq": "A" }, { "field": "data.x", "min": "1" }])),
            "when.conditions[1].min",
            "it must be a number",
        ),
        (
            with(json!([{ "field": "confidence", "min": 90 }])),
            "when.conditions[0].min",
            "a confidence is a number from 0 to 1",
        ),
        (
            with(json!([{ "any": [{ "field": "data.x", "mni": 1 }] }])),
            "when.conditions[0].any[0].mni",
            "did you mean \"min\"?",
        ),
        (
            with(json!([{ "field": "data.x", "min": 2, "max": 1 }])),
            "when.conditions[0]",
            "no value is in this range; exchange them",
        ),
        (with(json!([{ "field": "tags", "eq": "x" }])), "when.conditions[0].eq", "use \"contains\" or \"exists\""),
        (
            with(json!([{ "field": "data.x" }])),
            "when.conditions[0]",
            "use one or more of eq, ne, in, contains, prefix, min, max, exists",
        ),
        (
            json!({ "id": "a", "transform": { "set": { "symbol": "B" } } }),
            "transform.set.symbol",
            "a rule changes only the data: write data. and the path, such as data.price",
        ),
        (
            json!({ "id": "a", "transform": { "round": { "data.x": 13 } } }),
            "transform.round.data.x",
            "it must be a whole number from 0 to 12",
        ),
    ] {
        let found = fault(&rule);
        assert_eq!((found.path.as_str(), found.hint.as_str()), (path, hint), "{rule}: {found}");
    }
}

#[test]
fn rule_that_does_nothing_is_refused() {
    assert_eq!(fault(&json!({ "id": "a", "when": { "kind": "pattern" } })).reason, "it does nothing");
    assert_eq!(fault(&json!({ "id": "a", "drop": false, "rooms": null })).reason, "it does nothing");
}

#[test]
fn bad_or_costly_regex_is_refused() {
    let with = |regex: &str| fault(&json!({ "id": "a", "drop": true, "when": { "type": { "regex": regex } } }));
    for regex in ["(", r"\w{1000}", r"(a)\1"] {
        assert_eq!(with(regex).path, "when.type.regex", "{regex}");
    }
    assert!(with(&"a".repeat(limits::MAX_REGEX + 1)).hint.contains("256"));
}

#[test]
fn limits_are_kept() {
    let with = |conditions: Value| fault(&json!({ "id": "a", "drop": true, "when": { "conditions": conditions } }));
    let leaf = json!({ "field": "key", "exists": true });
    let mut deep = leaf.clone();
    for _ in 0..=limits::MAX_CONDITION_DEPTH {
        deep = json!({ "not": deep });
    }
    assert_eq!(with(json!([deep])).reason, "nested too deeply");
    let many = vec![leaf; limits::MAX_RULE_CONDITIONS / 2 + 1];
    assert_eq!(with(json!([{ "any": many }, { "all": many }])).reason, "too many conditions");
    let long = "x".repeat(limits::MAX_RULE_BYTES);
    assert_eq!(fault(&json!({ "id": "a", "description": long, "drop": true })).path, "rule");
}

#[test]
fn json_that_is_no_object_or_too_long_is_refused() {
    let kinds = Kinds::default();
    for json in ["", "[]", "{\"id\":\"a\",\"id\":\"b\"}"] {
        assert_eq!(Rule::from_json(json.as_bytes(), &kinds).unwrap_err().path, "rule", "{json}");
    }
    let spaces = " ".repeat(4 * limits::MAX_RULE_BYTES + 1);
    assert!(Rule::from_json(spaces.as_bytes(), &kinds).unwrap_err().reason.ends_with("bytes"));
    let rule = Rule::from_json(br#"{"id":"a","order":-3,"ttl_ms":5}"#, &kinds).unwrap();
    assert_eq!((rule.id.as_str(), rule.name.as_str(), rule.order, rule.enabled), ("a", "a", -3, true));
    assert_eq!(serde_json::to_value(&rule).unwrap(), json!({ "id": "a", "order": -3, "ttl_ms": 5 }));
}

#[test]
fn bad_rule_is_skipped_and_the_others_count() {
    let rules = [
        json!({ "id": "bad", "strategy": "any" }),
        json!({ "id": "b", "order": 1, "ttl_ms": 1 }),
        json!(7),
        json!({ "id": "a", "order": 1, "ttl_ms": 2 }),
        json!({ "id": "a", "order": 2, "ttl_ms": 3 }),
    ];
    let (set, skipped) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
    let ids: Vec<_> = set.rules().iter().map(|rule| (rule.id.as_str(), rule.order)).collect();
    assert_eq!(ids, [("a", 1), ("b", 1)]);
    let skipped: Vec<_> = skipped.iter().map(|rule| (rule.id.as_deref(), rule.fault.path.as_str())).collect();
    assert_eq!(skipped, [(Some("bad"), "strategy"), (None, "rule"), (Some("a"), "id")]);
}

#[test]
fn rules_beyond_the_limit_are_skipped_last_in_order_first() {
    let rules: Vec<Value> =
        (0..=limits::MAX_RULES).rev().map(|i| json!({ "id": format!("r{i}"), "order": i, "ttl_ms": 1 })).collect();
    let (set, skipped) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
    assert_eq!(set.rules().len(), limits::MAX_RULES);
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].id, Some(format!("r{}", limits::MAX_RULES)));
}

#[test]
fn far_too_many_rules_are_skipped_unread() {
    let mut rules: Vec<Value> = (0..limits::MAX_READ_RULES)
        .rev()
        .map(|i| json!({ "id": format!("r{i:05}"), "order": i, "ttl_ms": u8::from(i < 5) }))
        .collect();
    rules.extend((0..9_000).map(|i| json!({ "id": format!("x{i}"), "order": 1_000_000, "ttl_ms": 1 })));
    let (set, skipped) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
    let ids: Vec<_> = set.rules().iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids, ["r00000", "r00001", "r00002", "r00003", "r00004"]);
    assert_eq!(skipped.len(), rules.len() - ids.len());
    let unread = skipped.iter().filter(|rule| rule.fault.reason == "too many rules").count();
    assert_eq!(unread, 9_000, "those that are read have their own fault");
    rules.reverse();
    let (other, _) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
    assert!(
        set.rules().iter().zip(other.rules()).all(|(one, other)| one.id == other.id),
        "in whatever order they come"
    );
}

#[test]
fn no_rules_leave_the_event_as_it_is() {
    let set = RuleSet::default();
    let event = pattern_event();
    let routed = set.apply(&event, Seq(1));
    assert!(set.is_inactive() && routed.is_unchanged());
    assert_eq!((routed.fate, routed.handling()), (Fate::Kept, None));
    assert_eq!(changed(&set, &event, 1), event);
}

#[test]
fn last_matching_rule_wins_and_lists_add_up() {
    let set = set(json!([
        { "id": "late", "order": 9, "strategy": "priority_first", "ttl_ms": 9, "add_tags": ["z", "a"], "rooms": ["r2"] },
        { "id": "early", "order": 1, "strategy": "broadcast", "rooms": ["r1"], "set_priority": "critical", "ttl_ms": 1,
          "add_tags": ["a"] },
        { "id": "other", "order": 5, "when": { "kind": "market" }, "ttl_ms": 5 },
        { "id": "off", "order": 99, "enabled": false, "ttl_ms": 99 },
    ]));
    let event = pattern_event();
    let routed = set.apply(&event, Seq(1));
    assert_eq!(names(&routed), ["early", "late"]);
    let handling = Handling { strategy: Strategy::PriorityFirst, rooms: Vec::new(), ttl_ms: Some(9) };
    assert_eq!(routed.handling(), Some(handling));
    assert_eq!(routed.priority, Some(Priority::Critical));
    let changed = changed(&set, &event, 1);
    assert_eq!(changed.tags, ["a", "high_confidence", "z"]);
    assert_eq!(rooms(&changed), ["r2"], "the rooms of the broadcast do not count");
    assert_eq!(changed.priority, Priority::Critical);
}

#[test]
fn conditions_see_the_event_as_published_and_transforms_see_each_other() {
    let set = set(json!([
        { "id": "a", "set_priority": "low", "transform": { "rename": { "data.price": "data.px" } } },
        { "id": "b", "when": { "conditions": [{ "field": "priority", "eq": "high" }, { "field": "data.price", "exists": true }] },
          "transform": { "round": { "data.px": 1 } } },
    ]));
    let changed = changed(&set, &pattern_event(), 1);
    assert_eq!(Value::Object(changed.data), json!({ "px": 101.2, "levels": { "support": 99 }, "source": "feed" }));
}

#[test]
fn drop_ends_the_event_and_later_rules_are_not_asked() {
    let set = set(json!([
        { "id": "a", "order": 1, "add_tags": ["x"] },
        { "id": "b", "order": 2, "drop": true },
        { "id": "c", "order": 3, "add_tags": ["y"] },
    ]));
    let mut asked = Vec::new();
    let event = pattern_event();
    let routed = set.apply_observed(&event, Seq(1), |index, is_match| asked.push((index, is_match)));
    assert_eq!(names(&routed), ["a", "b"]);
    assert_eq!(routed.fate, Fate::Dropped(RuleIndex(1)));
    assert_eq!(asked, [(RuleIndex(0), true), (RuleIndex(1), true)]);
}

#[test]
fn sample_keeps_the_same_events_at_every_time() {
    let set = set(json!([{ "id": "a", "sample": 0.25 }]));
    let event = pattern_event();
    let kept: Vec<u64> = (1..=28).filter(|seq| set.apply(&event, Seq(*seq)).fate == Fate::Kept).collect();
    assert_eq!(kept, [5, 6, 7, 19, 21, 24, 27, 28]);
}

#[test]
fn load_balanced_puts_a_key_in_one_room_for_good() {
    let set = set(json!([
        { "id": "a", "order": 1, "rooms": ["extra", "w2"] },
        { "id": "b", "order": 2, "strategy": "load_balanced", "rooms": ["w1", "w2", "w3"] },
    ]));
    let event = Event { rooms: vec![Room::new("w1").unwrap(), Room::new("zone").unwrap()], ..pattern_event() };
    let first = changed(&set, &event, 1);
    for seq in 2..50 {
        assert_eq!(changed(&set, &event, seq).rooms, first.rooms);
    }
    assert_eq!(rooms(&first).len(), 3, "{:?}", first.rooms);
    assert_eq!(rooms(&first).iter().filter(|room| room.starts_with('w')).count(), 1, "{:?}", first.rooms);
}

#[test]
fn round_robin_takes_the_rooms_in_turn() {
    let set = set(json!([{ "id": "a", "strategy": "round_robin", "rooms": ["b", "a", "c"] }]));
    let event = pattern_event();
    let rooms: Vec<_> =
        (3..7).map(|seq| set.apply(&event, Seq(seq)).chosen_room.unwrap().as_str().to_owned()).collect();
    assert_eq!(rooms, ["b", "a", "c", "b"]);
}

#[test]
fn broadcast_to_rooms_names_them_for_the_gateway() {
    let set = set(json!([{ "id": "a", "strategy": "broadcast", "rooms": ["ops"] }]));
    let event = pattern_event();
    let handling = set.apply(&event, Seq(1)).handling().unwrap();
    assert_eq!((handling.strategy, handling.rooms), (Strategy::Broadcast, vec![Room::new("ops").unwrap()]));
    assert_eq!(rooms(&changed(&set, &event, 1)), ["ops"]);
}

#[test]
fn no_rule_changes_the_audience_or_the_key() {
    let set = set(json!([{
        "id": "a", "strategy": "broadcast", "rooms": ["all"], "set_priority": "critical", "add_tags": ["x"],
        "transform": { "set": { "data.audience": "Public", "data.key": "other" } },
    }]));
    let user = Audience::User(UserId::new("u1").unwrap());
    let event = Event { kind: Kind::Alert, key: "u1".into(), audience: user.clone(), ..pattern_event() };
    let changed = changed(&set, &event, 1);
    assert_eq!((changed.audience, changed.key, changed.kind), (user, event.key, Kind::Alert));
}

#[test]
fn absent_field_passes_no_operator_but_exists_false() {
    let matches = |condition: Value| {
        let set = set(json!([{ "id": "a", "ttl_ms": 1, "when": { "conditions": [condition] } }]));
        !set.apply(&pattern_event(), Seq(1)).is_unchanged()
    };
    assert!(!matches(json!({ "field": "data.absent", "ne": 1 })));
    assert!(matches(json!({ "not": { "field": "data.absent", "eq": 1 } })));
    assert!(matches(json!({ "field": "data.absent", "exists": false })));
    assert!(!matches(json!({ "field": "rooms", "exists": true })));
}

#[test]
fn usage_goes_on_when_the_rules_change() {
    let first = set(json!([{ "id": "a", "ttl_ms": 1 }, { "id": "b", "ttl_ms": 1 }]));
    let mut usages = RuleUsages::of(&first, &RuleUsages::default());
    let now = crate::event::Timestamp(5);
    usages.note(RuleIndex(1), true, 30, now);
    usages.note(RuleIndex(1), false, 12, now);
    let second = set(json!([{ "id": "b", "ttl_ms": 2 }, { "id": "c", "ttl_ms": 1 }]));
    let usages = RuleUsages::of(&second, &usages);
    let of_b = RuleUsage { matched: 1, last_used: Some(now), spent_ns: 42 };
    assert_eq!(usages.iter().collect::<Vec<_>>(), [("b", of_b), ("c", RuleUsage::default())]);
}
