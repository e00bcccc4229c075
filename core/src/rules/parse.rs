//! Reads a rule. Any mistake is refused with its path and a hint, so that nobody waits for a rule that does nothing.

mod actions;
mod when;

use compact_str::CompactString;
use serde_json::Value;

use super::fault::{Located, RuleFault};
use super::limits::{MAX_DESCRIPTION, MAX_RULE_BYTES, MAX_RULE_ID, MAX_RULE_NAME};
use super::rule::{Rule, RuleActions, When};
use crate::event::Kinds;
use crate::event::object;
use crate::hint::{found, quoted};

const FIELDS: [&str; 14] = [
    "id",
    "name",
    "description",
    "enabled",
    "order",
    "when",
    "strategy",
    "rooms",
    "set_priority",
    "add_tags",
    "transform",
    "ttl_ms",
    "sample",
    "drop",
];

/// The fields that say what is done with an event.
const ACTIONS: &str = "strategy, rooms, set_priority, add_tags, transform, ttl_ms, sample, drop";

impl Rule {
    /// Reads a rule from the text of a JSON object.
    ///
    /// # Errors
    /// The first [`RuleFault`].
    pub fn from_json(json: &[u8], kinds: &Kinds) -> Result<Self, RuleFault> {
        let unread = Value::Null;
        let whole = Located::whole(&unread);
        // Spaces do not count, but a text of any length is not read.
        if json.len() > 4 * MAX_RULE_BYTES {
            return Err(too_large(&whole, json.len()));
        }
        let object = object::from_json(json)
            .map_err(|error| whole.fault(error, "write one JSON object; each name stands once in an object"))?;
        Self::parse(&Value::Object(object), kinds)
    }

    /// Reads a rule. `kinds` are those of this cluster.
    ///
    /// # Errors
    /// The first [`RuleFault`], in the alphabetical order of the fields.
    pub fn parse(value: &Value, kinds: &Kinds) -> Result<Self, RuleFault> {
        let whole = Located::whole(value);
        let bytes = value.to_string().len();
        if bytes > MAX_RULE_BYTES {
            return Err(too_large(&whole, bytes));
        }
        let (mut id, mut name, mut description) = (None, None, String::new());
        let (mut enabled, mut order) = (true, 0);
        let (mut when, mut actions) = (When::default(), RuleActions::default());
        for (field, value) in whole.fields(&FIELDS)? {
            match field {
                "id" => id = Some(rule_id(&value)?),
                "name" => name = Some(value.text(MAX_RULE_NAME)?.to_owned()),
                "description" => description = text_or_empty(&value)?,
                "enabled" => enabled = value.flag()?,
                "order" => order = whole_number(&value)?,
                "when" => when = when::read(&value, kinds)?,
                _ => actions::read(&mut actions, field, &value)?,
            }
        }
        let id = id.ok_or_else(|| whole.fault("it has no id", "add \"id\", such as \"high-confidence\""))?;
        actions::check(&mut actions, &whole)?;
        let name = name.unwrap_or_else(|| id.to_string());
        let source = value.clone();
        Ok(Self { id, name, description, enabled, order, when, actions, source, bytes })
    }
}

fn too_large(whole: &Located<'_>, bytes: usize) -> RuleFault {
    whole.fault(format_args!("{bytes} bytes"), format_args!("the limit is {MAX_RULE_BYTES}; split the rule in several"))
}

/// An id is a key of a bucket, hence its small alphabet.
fn rule_id(id: &Located<'_>) -> Result<CompactString, RuleFault> {
    let text = id.text(MAX_RULE_ID)?;
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
        Some(character) => {
            Err(id.fault(format_args!("it has the character {character:?}"), "use letters, digits, '-' and '_'"))
        }
        None => Ok(CompactString::from(text)),
    }
}

fn text_or_empty(description: &Located<'_>) -> Result<String, RuleFault> {
    if description.value.as_str() == Some("") {
        return Ok(String::new());
    }
    Ok(description.text(MAX_DESCRIPTION)?.to_owned())
}

fn whole_number(order: &Located<'_>) -> Result<i64, RuleFault> {
    order.value.as_i64().ok_or_else(|| {
        let reason = format!("found {}", found(order.value));
        order.fault(reason, "it must be a whole number; rules with lower numbers come first")
    })
}

/// Refuses a name that is surely a mistake: with white space at an end.
fn check_padding(name: &Located<'_>, text: &str) -> Result<(), RuleFault> {
    if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        let reason = format!("{} begins or ends with white space", quoted(text));
        return Err(name.fault(reason, "names are compared as written; remove it"));
    }
    Ok(())
}
