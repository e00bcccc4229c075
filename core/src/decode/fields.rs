//! The payload's fields on their way out of it: each is taken by name and read as what it should be.

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde_json::Value;

use super::MAX_ROOMS;
use super::reason::{Reason, Refusal};
use crate::event::UnknownValue;
use crate::hint::{clipped, quoted, type_of};
use crate::ids::{Confidence, Room};
use crate::object::Object;

/// An object that fields are taken out of.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Where it stands in the payload: nothing, or the name of the object it is and a dot.
    prefix: &'static str,
    /// What has not been taken.
    pub(super) rest: Object,
}

/// A field that was there.
#[derive(Debug)]
pub(super) struct Found {
    prefix: &'static str,
    name: &'static str,
    pub(super) value: Value,
}

impl Fields {
    pub(super) fn new(prefix: &'static str, rest: Object) -> Self {
        Self { prefix, rest }
    }

    /// Takes the first of `names` that is there and not null. Nulls met on the way are let go.
    pub(super) fn take(&mut self, names: &[&'static str]) -> Option<Found> {
        let prefix = self.prefix;
        names.iter().find_map(|name| {
            let value = self.rest.remove(*name).filter(|value| !value.is_null())?;
            Some(Found { prefix, name, value })
        })
    }

    /// A copy of a field that stays where it is.
    pub(super) fn peek(&self, name: &'static str) -> Option<Found> {
        let value = self.rest.get(name).filter(|value| !value.is_null())?.clone();
        Some(Found { prefix: self.prefix, name, value })
    }
}

impl Found {
    /// Refuses the field: names it, shows it and says what is wrong.
    pub(super) fn refuse(&self, reason: Reason, problem: impl fmt::Display) -> Refusal {
        let shown = clipped(&self.value.to_string());
        Refusal::new(reason, format!("{}{}: {shown}: {problem}", self.prefix, self.name))
    }

    fn wrong_type(&self, reason: Reason, expected: &str) -> Refusal {
        self.refuse(reason, format_args!("expected {expected}, found {}", type_of(&self.value)))
    }

    pub(super) fn text(&self, reason: Reason) -> Result<&str, Refusal> {
        self.value.as_str().ok_or_else(|| self.wrong_type(reason, "text"))
    }

    /// Reads a value of an enumeration.
    pub(super) fn parse<T: FromStr<Err = UnknownValue>>(&self, reason: Reason) -> Result<T, Refusal> {
        self.text(reason)?
            .parse()
            .map_err(|e: UnknownValue| self.refuse(reason, format_args!("expected one of {}", e.allowed)))
    }

    /// Reads a number from 0 to 1, or a text that is one.
    pub(super) fn confidence(&self) -> Result<Confidence, Refusal> {
        let number = match &self.value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        number
            .and_then(Confidence::new)
            .ok_or_else(|| self.refuse(Reason::BadConfidence, "expected a number from 0 to 1"))
    }

    pub(super) fn tags(&self) -> Result<Vec<CompactString>, Refusal> {
        let list = self.value.as_array().ok_or_else(|| self.wrong_type(Reason::BadTags, "a list of texts"))?;
        list.iter()
            .map(|tag| tag.as_str().filter(|text| !text.is_empty()).map(CompactString::from))
            .collect::<Option<_>>()
            .ok_or_else(|| self.refuse(Reason::BadTags, "each tag must be text that is not empty"))
    }

    pub(super) fn rooms(&self) -> Result<Vec<Room>, Refusal> {
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

    pub(super) fn number_within(&self, reason: Reason, low: f64, high: f64) -> Result<f64, Refusal> {
        self.value
            .as_f64()
            .filter(|number| (low..=high).contains(number))
            .ok_or_else(|| self.refuse(reason, format_args!("expected a number from {low} to {high}")))
    }

    pub(super) fn object(&self, reason: Reason) -> Result<&Object, Refusal> {
        self.value.as_object().ok_or_else(|| self.wrong_type(reason, "an object"))
    }

    /// Reads an object whose values are all numbers.
    pub(super) fn numbers(&self, reason: Reason) -> Result<Vec<(&str, f64)>, Refusal> {
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
