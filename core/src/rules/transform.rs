//! The changes that a rule makes to an event's data: it renames and drops fields, sets constants, and rounds numbers.
//!
//! A rule changes only the data. The other fields of an event decide its order, its audience and who wants it.

use serde_json::Value;

use crate::event::object::{MAX_DEPTH, Object};
use crate::filter::conditions::DataPath;

/// The changes of one rule, in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Transform {
    /// From, and to. A field that is absent is not renamed. A value at the new place is replaced.
    pub(super) rename: Vec<(DataPath, DataPath)>,
    /// These are removed.
    pub(super) drop: Vec<DataPath>,
    /// These become constants: texts, numbers or booleans.
    pub(super) set: Vec<(DataPath, Value)>,
    /// These are rounded to a number of decimal places, if they are numbers.
    pub(super) round: Vec<(DataPath, u8)>,
}

impl Transform {
    pub(super) fn is_empty(&self) -> bool {
        self.rename.is_empty() && self.drop.is_empty() && self.set.is_empty() && self.round.is_empty()
    }

    pub(super) fn change(&self, data: &mut Object) {
        for (from, to) in &self.rename {
            rename(data, from, to);
        }
        for path in &self.drop {
            take(data, path);
        }
        for (path, constant) in &self.set {
            put(data, path, constant.clone());
        }
        for (path, places) in &self.round {
            if let Some(number) = value_mut(data, path) {
                round(number, usize::from(*places));
            }
        }
    }
}

/// Moves a value. It stays where it is if the new place would be too deep, or inside a value that is no object.
fn rename(data: &mut Object, from: &DataPath, to: &DataPath) {
    let Some(levels) = from.find(data).map(levels) else { return };
    if names(to).count() + levels > MAX_DEPTH || !can_put(data, to) {
        return;
    }
    if let Some(value) = take(data, from) {
        put(data, to, value);
    }
}

fn names(path: &DataPath) -> impl DoubleEndedIterator<Item = &str> {
    path.as_str().split('.')
}

/// The object that holds the last name of the path, and that name.
fn parent_mut<'d, 'p>(data: &'d mut Object, path: &'p DataPath) -> Option<(&'d mut Object, &'p str)> {
    let mut names = names(path);
    let last = names.next_back()?;
    let mut parent = data;
    for name in names {
        parent = parent.get_mut(name)?.as_object_mut()?;
    }
    Some((parent, last))
}

fn value_mut<'d>(data: &'d mut Object, path: &DataPath) -> Option<&'d mut Value> {
    let (parent, last) = parent_mut(data, path)?;
    parent.get_mut(last)
}

fn take(data: &mut Object, path: &DataPath) -> Option<Value> {
    let (parent, last) = parent_mut(data, path)?;
    parent.remove(last)
}

/// Whether all that is on the way to the path are objects, or absent.
fn can_put(data: &Object, path: &DataPath) -> bool {
    let mut names = names(path);
    if names.next_back().is_none() {
        return false;
    }
    let mut parent = data;
    for name in names {
        match parent.get(name) {
            None => return true,
            Some(Value::Object(object)) => parent = object,
            Some(_) => return false,
        }
    }
    true
}

/// Puts a value, and the objects around it that are absent.
fn put(data: &mut Object, path: &DataPath, value: Value) {
    if !can_put(data, path) {
        return;
    }
    let mut names = names(path);
    let Some(last) = names.next_back() else { return };
    let mut parent = data;
    for name in names {
        let Value::Object(object) = parent.entry(name).or_insert_with(|| Value::Object(Object::new())) else { return };
        parent = object;
    }
    parent.insert(last.to_owned(), value);
}

/// The levels of lists and objects of a value. Values that producers sent have at most [`MAX_DEPTH`].
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(levels).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

/// Rounds a fraction as it is written in decimals; whole numbers and other values stay.
fn round(value: &mut Value, places: usize) {
    let Value::Number(number) = &*value else { return };
    if !number.is_f64() {
        return;
    }
    let rounded = number.as_f64().and_then(|float| format!("{float:.places$}").parse::<f64>().ok());
    // Adding zero turns -0.0 into 0.0.
    if let Some(rounded) = rounded.and_then(|rounded| serde_json::Number::from_f64(rounded + 0.0)) {
        *value = Value::Number(rounded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(text: &str) -> DataPath {
        DataPath::new(text).unwrap()
    }

    fn changed(transform: &Transform, data: Value) -> Value {
        let Value::Object(mut data) = data else { panic!("data is an object") };
        transform.change(&mut data);
        Value::Object(data)
    }

    #[test]
    fn renames_then_drops_then_sets_then_rounds() {
        let transform = Transform {
            rename: vec![(path("px"), path("price.last"))],
            drop: vec![path("debug"), path("px")],
            set: vec![(path("desk.name"), json!("one"))],
            round: vec![(path("price.last"), 2), (path("volume"), 0)],
        };
        let data = json!({ "px": 1.23456, "debug": { "a": 1 }, "volume": 17, "price": { "open": 1 } });
        let expected = json!({
            "price": { "open": 1, "last": 1.23 }, "desk": { "name": "one" }, "volume": 17,
        });
        assert_eq!(changed(&transform, data), expected);
    }

    #[test]
    fn absent_field_is_neither_renamed_nor_rounded() {
        let transform =
            Transform { rename: vec![(path("a"), path("b"))], round: vec![(path("c"), 1)], ..Transform::default() };
        assert_eq!(changed(&transform, json!({ "b": 1 })), json!({ "b": 1 }));
    }

    #[test]
    fn value_is_not_moved_into_a_value_that_is_no_object() {
        let transform = Transform { rename: vec![(path("a"), path("b.c"))], ..Transform::default() };
        assert_eq!(changed(&transform, json!({ "a": 1, "b": 2 })), json!({ "a": 1, "b": 2 }));
    }

    #[test]
    fn renamed_value_stays_within_the_depth_that_nodes_read() {
        let mut deep = json!(1);
        for _ in 0..MAX_DEPTH - 1 {
            deep = json!([deep]);
        }
        let data = json!({ "a": deep });
        let to = |name: &str| Transform { rename: vec![(path("a"), path(name))], ..Transform::default() };
        assert_eq!(changed(&to("b.c"), data.clone()), data);
        assert!(changed(&to("b"), data).get("b").is_some());
    }

    #[test]
    fn numbers_are_rounded_as_they_are_written() {
        for (number, places, rounded) in
            [(1.005, 1, 1.0), (2.675, 2, 2.67), (-0.04, 1, 0.0), (1e300, 2, 1e300), (0.1 + 0.2, 12, 0.3)]
        {
            let transform = Transform { round: vec![(path("x"), places)], ..Transform::default() };
            assert_eq!(changed(&transform, json!({ "x": number })), json!({ "x": rounded }), "{number}");
        }
    }
}
