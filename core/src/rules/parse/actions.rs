//! Reads what a rule does with the events that it matches.

use compact_str::CompactString;
use serde_json::Value;

use super::super::fault::{Located, RuleFault};
use super::super::field::DATA;
use super::super::limits::{MAX_PLACES, MAX_RULE_ROOMS, MAX_RULE_TAGS, MAX_TRANSFORMED, MAX_TTL_MS};
use super::super::rule::{RuleActions, Sample};
use super::super::slots::SlotTable;
use super::super::transform::Transform;
use super::{ACTIONS, check_padding};
use crate::event::Strategy;
use crate::filter::conditions::DataPath;
use crate::filter::{MAX_TAG, MAX_TEXT};
use crate::hint::{found, quoted};
use crate::ids::Room;

/// Reads one field of a rule into `actions`.
pub(super) fn read(actions: &mut RuleActions, field: &str, value: &Located<'_>) -> Result<(), RuleFault> {
    match field {
        "strategy" => actions.strategy = Some(value.one_of()?),
        "rooms" => actions.rooms = rooms(value)?,
        "set_priority" => actions.set_priority = Some(value.one_of()?),
        "add_tags" => actions.add_tags = tags(value)?,
        "transform" => actions.transform = transform(value)?,
        "ttl_ms" => actions.ttl_ms = Some(value.whole_within(1, MAX_TTL_MS)?),
        "sample" => actions.sample = Some(sample(value)?),
        _ => actions.drop = value.flag()?,
    }
    Ok(())
}

/// Checks the actions together, and completes them.
pub(super) fn check(actions: &mut RuleActions, whole: &Located<'_>) -> Result<(), RuleFault> {
    let RuleActions { strategy, rooms, slots, set_priority, add_tags, transform, ttl_ms, sample, drop } = actions;
    if let Some(strategy) = strategy.filter(|strategy| strategy.chooses_room() && rooms.is_empty()) {
        let reason = format!("the strategy {strategy} chooses one of the rule's rooms, and the rule has none");
        return Err(whole.fault(reason, "add \"rooms\": […]"));
    }
    if *strategy == Some(Strategy::LoadBalanced) {
        *slots = Some(SlotTable::new(rooms));
    }
    let changes = strategy.is_some()
        || !rooms.is_empty()
        || set_priority.is_some()
        || !add_tags.is_empty()
        || !transform.is_empty()
        || ttl_ms.is_some();
    match (*drop, changes || sample.is_some()) {
        (true, true) => {
            Err(whole.fault("it drops the event, so its other actions have no effect", "remove one of them"))
        }
        (false, false) => Err(whole.fault("it does nothing", format_args!("add one or more of {ACTIONS}"))),
        _ => Ok(()),
    }
}

fn rooms(list: &Located<'_>) -> Result<Vec<Room>, RuleFault> {
    let mut rooms = Vec::new();
    for entry in list.entries(MAX_RULE_ROOMS)? {
        let text = entry.text(Room::MAX)?;
        check_padding(&entry, text)?;
        let room = Room::new(text).map_err(|error| entry.fault(error, "a room is a text, such as \"desk 1\""))?;
        if rooms.contains(&room) {
            return Err(entry.fault(format_args!("the room {} stands twice", quoted(text)), "remove one of them"));
        }
        rooms.push(room);
    }
    Ok(rooms)
}

fn tags(list: &Located<'_>) -> Result<Vec<CompactString>, RuleFault> {
    list.entries(MAX_RULE_TAGS)?
        .iter()
        .map(|entry| {
            let text = entry.text(MAX_TAG)?;
            check_padding(entry, text)?;
            Ok(CompactString::from(text))
        })
        .collect()
}

fn sample(value: &Located<'_>) -> Result<Sample, RuleFault> {
    let share = value.value.as_f64().ok_or_else(|| value.wrong_type("a number above 0, up to 1"))?;
    if share > 0.0 && share <= 1.0 {
        return Ok(Sample(share));
    }
    let reason = format!("found {}", found(value.value));
    Err(value.fault(reason, "it must be above 0 and at most 1: 0.1 keeps one event of ten; use \"drop\" to keep none"))
}

fn transform(value: &Located<'_>) -> Result<Transform, RuleFault> {
    let mut transform = Transform::default();
    for (name, value) in value.fields(&["rename", "drop", "set", "round"])? {
        match name {
            "rename" => transform.rename = renames(&value)?,
            "drop" => {
                let entries = value.entries(MAX_TRANSFORMED)?;
                transform.drop = entries.iter().map(path).collect::<Result<_, _>>()?;
            }
            "set" => transform.set = by_path(&value, constant)?,
            _ => transform.round = by_path(&value, places)?,
        }
    }
    Ok(transform)
}

/// Reads an object of paths.
fn by_path<T>(
    object: &Located<'_>,
    read: impl Fn(&Located<'_>) -> Result<T, RuleFault>,
) -> Result<Vec<(DataPath, T)>, RuleFault> {
    let fields = object.object("an object of paths, each with a value")?;
    match fields.len() {
        0 => return Err(object.fault("an empty object", "leave the field out, or name at least one path")),
        count if count > MAX_TRANSFORMED => return Err(object.too_many(count, MAX_TRANSFORMED, "paths")),
        _ => {}
    }
    fields
        .iter()
        .map(|(name, value)| {
            let value = object.field(name, value);
            Ok((data_path(&value, name)?, read(&value)?))
        })
        .collect()
}

/// Renames are made one after the other, so none may depend on another.
fn renames(object: &Located<'_>) -> Result<Vec<(DataPath, DataPath)>, RuleFault> {
    let renames = by_path(object, path)?;
    for (i, (from, to)) in renames.iter().enumerate() {
        let is_taken =
            renames.iter().any(|(other, _)| other == to) || renames[..i].iter().any(|(_, other)| other == to);
        if is_taken {
            let reason = format!("{DATA}{} is named twice", to.as_str());
            let hint = format!("{DATA}{} must get a name that no other rename has", from.as_str());
            return Err(object.fault(reason, hint));
        }
    }
    Ok(renames)
}

/// Reads a path of the data as text.
fn path(value: &Located<'_>) -> Result<DataPath, RuleFault> {
    data_path(value, value.text(DATA.len() + DataPath::MAX)?)
}

fn data_path(value: &Located<'_>, text: &str) -> Result<DataPath, RuleFault> {
    let Some(path) = text.strip_prefix(DATA) else {
        let reason = format!("{} is not in the data", quoted(text));
        return Err(value.fault(reason, "a rule changes only the data: write data. and the path, such as data.price"));
    };
    DataPath::new(path).map_err(|error| value.fault(error, "write it as data.levels.support"))
}

fn constant(value: &Located<'_>) -> Result<Value, RuleFault> {
    match value.value {
        Value::String(text) if text.len() > MAX_TEXT => {
            Err(value.fault(format_args!("{} bytes", text.len()), format_args!("the limit is {MAX_TEXT} bytes")))
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) => Ok(value.value.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(value.wrong_type("text, a number, true or false")),
    }
}

fn places(value: &Located<'_>) -> Result<u8, RuleFault> {
    let places = value.whole_within(0, MAX_PLACES)?;
    u8::try_from(places).map_err(|error| value.fault(error, "it is a number of decimal places"))
}
