//! Takes fields out of the payload by name, and checks their types.

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde_json::Value;

use super::MAX_ROOMS;
use super::reason::{Reason, Undecodable};
use crate::event::UnknownValue;
use crate::event::object::Object;
use crate::hint::{clipped, quoted, type_of};
use crate::ids::{Confidence, Room};

/// An object that fields are taken out of.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// The path in the payload for error texts: empty, or the object's name and a dot.
    prefix: &'static str,
    /// The fields that were not taken.
    pub(crate) rest: Object,
}

/// A field that is present.
#[derive(Debug)]
pub(crate) struct FoundField {
    prefix: &'static str,
    name: &'static str,
    pub(crate) value: Value,
}

impl Fields {
    pub(crate) fn new(prefix: &'static str, rest: Object) -> Self {
        Self { prefix, rest }
    }

    /// Takes the first of `names` that is present and not null. Nulls before it are removed.
    pub(crate) fn take(&mut self, names: &[&'static str]) -> Option<FoundField> {
        let prefix = self.prefix;
        names.iter().find_map(|name| {
            let value = self.rest.remove(*name).filter(|value| !value.is_null())?;
            Some(FoundField { prefix, name, value })
        })
    }

    /// A copy of a field that stays where it is.
    pub(crate) fn peek(&self, name: &'static str) -> Option<FoundField> {
        let value = self.rest.get(name).filter(|value| !value.is_null())?.clone();
        Some(FoundField { prefix: self.prefix, name, value })
    }
}

impl FoundField {
    /// An error with the field's name, its value and the problem.
    pub(crate) fn refuse(&self, reason: Reason, problem: impl fmt::Display) -> Undecodable {
        let shown = clipped(&self.value.to_string());
        Undecodable::new(reason, format!("{}{}: {shown}: {problem}", self.prefix, self.name))
    }

    fn wrong_type(&self, reason: Reason, expected: &str) -> Undecodable {
        self.refuse(reason, format_args!("expected {expected}, found {}", type_of(&self.value)))
    }

    pub(crate) fn text(&self, reason: Reason) -> Result<&str, Undecodable> {
        self.value.as_str().ok_or_else(|| self.wrong_type(reason, "text"))
    }

    /// Reads a value of an enumeration.
    pub(crate) fn parse<T: FromStr<Err = UnknownValue>>(&self, reason: Reason) -> Result<T, Undecodable> {
        self.text(reason)?
            .parse()
            .map_err(|e: UnknownValue| self.refuse(reason, format_args!("expected one of {}", e.allowed)))
    }

    /// Reads a number from 0 to 1, also as text.
    pub(crate) fn confidence(&self) -> Result<Confidence, Undecodable> {
        let number = match &self.value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        number
            .and_then(Confidence::new)
            .ok_or_else(|| self.refuse(Reason::BadConfidence, "expected a number from 0 to 1"))
    }

    pub(crate) fn tags(&self) -> Result<Vec<CompactString>, Undecodable> {
        let list = self.value.as_array().ok_or_else(|| self.wrong_type(Reason::BadTags, "a list of texts"))?;
        list.iter()
            .map(|tag| tag.as_str().filter(|text| !text.is_empty()).map(CompactString::from))
            .collect::<Option<_>>()
            .ok_or_else(|| self.refuse(Reason::BadTags, "each tag must be text that is not empty"))
    }

    pub(crate) fn rooms(&self) -> Result<Vec<Room>, Undecodable> {
        let list = self.value.as_array().ok_or_else(|| self.wrong_type(Reason::BadRooms, "a list of texts"))?;
        if list.len() > MAX_ROOMS {
            return Err(self.refuse(Reason::BadRooms, format_args!("an event is sent to at most {MAX_ROOMS} rooms")));
        }
        let mut rooms = list
            .iter()
            .map(|room| room.as_str().and_then(|text| Room::new(text).ok()))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                self.refuse(Reason::BadRooms, format_args!("each room must be text of 1 to {} bytes", Room::MAX))
            })?;
        rooms.sort_unstable();
        rooms.dedup();
        Ok(rooms)
    }

    pub(crate) fn number_within(&self, reason: Reason, low: f64, high: f64) -> Result<f64, Undecodable> {
        self.value
            .as_f64()
            .filter(|number| (low..=high).contains(number))
            .ok_or_else(|| self.refuse(reason, format_args!("expected a number from {low} to {high}")))
    }

    pub(crate) fn object(&self, reason: Reason) -> Result<&Object, Undecodable> {
        self.value.as_object().ok_or_else(|| self.wrong_type(reason, "an object"))
    }

    /// Reads an object whose values are all numbers.
    pub(crate) fn numbers(&self, reason: Reason) -> Result<Vec<(&str, f64)>, Undecodable> {
        self.object(reason)?
            .iter()
            .map(|(name, value)| {
                value
                    .as_f64()
                    .map(|number| (name.as_str(), number))
                    .ok_or_else(|| self.refuse(reason, format_args!("{} must be a number", quoted(name))))
            })
            .collect()
    }
}
