//! What the rules of one kind test: by it, an event gets its class for the route cache.
//!
//! Two events of a kind with the same key pass the same conditions. What a condition asks of a value follows from:
//!
//! * whether there is a value, and of which type,
//! * its place among the scalars that rules compare the field with: at one of them, or between which two. So a
//!   confidence counts by its place among the thresholds. A list counts by those of its entries that rules look for.
//! * the text itself, if a rule searches it for a part or a beginning.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::Rule;
use super::condition::{Operator, RuleCondition};
use super::field::{FieldValue, RuleField};
use super::type_pattern::type_of_event;
use crate::event::Event;
use crate::filter::scalar::Scalar;
use crate::route_cache::ClassKey;

/// What comes first in the key of a value: its type, or that it is absent.
const ABSENT: u8 = 0;
const BOOL: u8 = 1;
const NUMBER: u8 = 2;
const TEXT: u8 = 3;
const LIST: u8 = 4;
const OBJECT: u8 = 5;
const NULL: u8 = 6;

/// What ends the places of a list's entries. No scalar has this place.
const END: usize = u32::MAX as usize;

/// What the rules of one kind test.
#[derive(Debug, Default)]
pub(super) struct TestedFields {
    /// Whether a rule tests the event type.
    event_type: bool,
    fields: Vec<(RuleField, Tests)>,
}

/// What rules ask of a field.
#[derive(Debug, Default)]
struct Tests {
    /// What it is compared with, sorted, without duplicates.
    scalars: Vec<Scalar>,
    /// Whether its text is searched for a part or a beginning.
    is_searched: bool,
}

impl TestedFields {
    /// What these rules test.
    pub(super) fn of<'r>(rules: impl Iterator<Item = &'r Rule>) -> Self {
        let (mut event_type, mut fields) = (false, BTreeMap::new());
        for rule in rules {
            event_type |= rule.when.event_type.is_some();
            rule.when.conditions.iter().for_each(|condition| note(&mut fields, condition));
        }
        let sorted = |(field, mut tests): (&RuleField, Tests)| {
            tests.scalars.sort_unstable();
            tests.scalars.dedup();
            (field.clone(), tests)
        };
        Self { event_type, fields: fields.into_iter().map(sorted).collect() }
    }

    /// How many fields are tested.
    pub(super) fn len(&self) -> usize {
        self.fields.len() + usize::from(self.event_type)
    }

    /// Writes the class of an event of this kind.
    pub(super) fn write_class(&self, event: &Event, key: &mut ClassKey) {
        key.text(event.kind.as_str());
        if self.event_type {
            key.text(type_of_event(event));
        }
        for (field, tests) in &self.fields {
            match field {
                // Its operators `min` and `max` know an order of their own.
                RuleField::Priority => key.byte(event.priority as u8),
                _ => tests.write(field.of(event), key),
            }
        }
    }
}

/// Notes what a condition asks, and those inside it.
fn note<'r>(fields: &mut BTreeMap<&'r RuleField, Tests>, condition: &'r RuleCondition) {
    match condition {
        RuleCondition::Field(field, operators) => {
            let tests = fields.entry(field).or_default();
            operators.iter().for_each(|operator| tests.note(operator));
        }
        RuleCondition::All(inner) | RuleCondition::Any(inner) => inner.iter().for_each(|one| note(fields, one)),
        RuleCondition::Not(inner) => note(fields, inner),
    }
}

impl Tests {
    fn note(&mut self, operator: &Operator) {
        match operator {
            Operator::Eq(scalar) | Operator::Ne(scalar) => self.scalars.push(scalar.clone()),
            Operator::In(scalars) => self.scalars.extend_from_slice(scalars),
            Operator::Contains(part) => {
                self.scalars.push(part.clone());
                self.is_searched |= matches!(part, Scalar::Text(_));
            }
            Operator::Prefix(_) => self.is_searched = true,
            Operator::Min(bound) | Operator::Max(bound) => self.scalars.push(Scalar::Number(*bound)),
            Operator::MinPriority(_) | Operator::MaxPriority(_) | Operator::Exists(_) => {}
        }
    }

    fn write(&self, value: Option<FieldValue<'_>>, key: &mut ClassKey) {
        let Some(value) = value else { return key.byte(ABSENT) };
        match value {
            FieldValue::Bool(_) => self.write_place(BOOL, value, key),
            FieldValue::Number(_) => self.write_place(NUMBER, value, key),
            FieldValue::Text(text) => {
                self.write_place(TEXT, value, key);
                if self.is_searched {
                    key.text(text);
                }
            }
            FieldValue::Tags(tags) => self.write_list(tags.iter().map(|tag| FieldValue::Text(tag)), key),
            FieldValue::Rooms(rooms) => self.write_list(rooms.iter().map(|room| FieldValue::Text(room.as_str())), key),
            FieldValue::List(entries) => self.write_list(entries.iter().map(FieldValue::of), key),
            FieldValue::Object => key.byte(OBJECT),
            FieldValue::Null => key.byte(NULL),
        }
    }

    /// Writes a type, and a place: an odd number at a scalar, an even one between two.
    fn write_place(&self, of_type: u8, value: FieldValue<'_>, key: &mut ClassKey) {
        key.byte(of_type);
        key.number(match self.place(value) {
            Ok(at) => 2 * at + 1,
            Err(at) => 2 * at,
        });
    }

    /// Writes which entries are equal to scalars.
    fn write_list<'e>(&self, entries: impl Iterator<Item = FieldValue<'e>>, key: &mut ClassKey) {
        key.byte(LIST);
        if !self.scalars.is_empty() {
            entries.filter_map(|entry| self.place(entry).ok()).for_each(|at| key.number(at));
        }
        key.number(END);
    }

    /// The place of a value among the scalars: at one of them, or before one.
    fn place(&self, value: FieldValue<'_>) -> Result<usize, usize> {
        // A value that is no scalar sorts after all of them, and is at none.
        let order = |scalar: &Scalar| value.compare(scalar).map_or(Ordering::Less, Ordering::reverse);
        self.scalars.binary_search_by(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Kinds, Priority, blank_event};
    use crate::ids::{Confidence, Room};
    use crate::route_cache::MAX_KEY;
    use serde_json::{Value, json};

    /// The number of classes of these events, for one rule with these conditions.
    fn classes(conditions: &Value, events: &[Event]) -> usize {
        let rule = json!({ "id": "a", "ttl_ms": 1, "when": { "conditions": conditions } });
        let rule = Rule::parse(&rule, &Kinds::default()).unwrap();
        let tested = TestedFields::of(std::iter::once(&rule));
        let key = |event: &Event| {
            let mut key = ClassKey::default();
            tested.write_class(event, &mut key);
            format!("{key:?}")
        };
        events.iter().map(key).collect::<std::collections::BTreeSet<_>>().len()
    }

    fn with_x(x: Value) -> Event {
        Event { data: serde_json::Map::from_iter([("x".to_owned(), x)]), ..blank_event() }
    }

    #[test]
    fn confidence_counts_by_its_place_among_the_thresholds() {
        let confident = |hundredths: u32| Confidence::new(f64::from(hundredths) / 100.0);
        let events: Vec<Event> =
            (50..=99).map(|hundredths| Event { confidence: confident(hundredths), ..blank_event() }).collect();
        let min = |least: f64| json!({ "field": "confidence", "min": least });
        // Below 0.6, at it, up to 0.9, at it, and above.
        assert_eq!(classes(&json!([{ "any": [min(0.6), min(0.9)] }]), &events), 5);
        assert_eq!(classes(&json!([{ "field": "symbol", "eq": "A" }]), &events), 1);
    }

    #[test]
    fn value_counts_by_what_rules_ask_of_it_and_no_more() {
        let texts: Vec<Event> = ["a", "b", "c", "d"].map(|text| with_x(json!(text))).to_vec();
        let asked = |operator: Value| {
            let mut condition = operator;
            condition["field"] = json!("data.x");
            json!([condition])
        };
        assert_eq!(classes(&asked(json!({ "exists": true })), &texts), 1);
        // Before, at and behind it.
        assert_eq!(classes(&asked(json!({ "eq": "b" })), &texts), 3);
        assert_eq!(classes(&asked(json!({ "min": 1 })), &texts), 1);
        assert_eq!(classes(&asked(json!({ "prefix": "b" })), &texts), 4);
        let lists = [json!([]), json!([1, 2]), json!([2, [1]]), json!([9, 1, 8]), json!({}), json!("1")];
        let lists = lists.map(with_x);
        // A list with 1 and one without, an object, a text.
        assert_eq!(classes(&asked(json!({ "contains": 1 })), &lists), 4);
        let rooms = ["r1", "r2", "r3"].map(|room| Event { rooms: vec![Room::new(room).unwrap()], ..blank_event() });
        assert_eq!(classes(&json!([{ "field": "rooms", "contains": "r2" }]), &rooms), 2);
        let priorities: Vec<Event> =
            Priority::ALL.iter().map(|priority| Event { priority: *priority, ..blank_event() }).collect();
        assert_eq!(classes(&json!([{ "field": "priority", "min": "high" }]), &priorities), 4);
    }

    #[test]
    fn key_of_the_largest_event_is_bounded() {
        let events = [with_x(json!("a".repeat(200_000))), with_x(json!(vec![1; 100_000]))];
        for operator in ["contains", "prefix"] {
            let mut condition = json!({ "field": "data.x" });
            condition[operator] = json!("a");
            let rule = json!({ "id": "a", "ttl_ms": 1, "when": { "conditions": [condition] } });
            let rule = Rule::parse(&rule, &Kinds::default()).unwrap();
            for event in &events {
                let mut key = ClassKey::default();
                TestedFields::of(std::iter::once(&rule)).write_class(event, &mut key);
                assert!(key.len() <= MAX_KEY);
            }
        }
    }
}
