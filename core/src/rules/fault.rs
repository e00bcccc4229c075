//! The fault of a rule: its path, the reason, and a hint. [`Located`] is a value of a rule with its path, and reads it.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use crate::event::UnknownValue;
use crate::event::object::{Object, whole_number};
use crate::hint::{bounded, clipped, found, hint, quoted, type_of};

/// Why a rule was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{path}: {reason}; {hint}")]
pub struct RuleFault {
    /// The place in the rule, such as `when.conditions[2].min`; `rule` for the rule as a whole.
    pub path: String,
    /// What is wrong there.
    pub reason: String,
    /// How to mend it.
    pub hint: String,
}

/// A value of a rule as written, with its path.
#[derive(Clone, Debug)]
pub(super) struct Located<'v> {
    path: String,
    pub(super) value: &'v Value,
}

impl<'v> Located<'v> {
    /// The rule as a whole.
    pub(super) fn whole(value: &'v Value) -> Self {
        Self { path: String::new(), value }
    }

    /// The value of a field of this object.
    pub(super) fn field(&self, name: &str, value: &'v Value) -> Self {
        let name = clipped(name);
        let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
        Self { path, value }
    }

    /// A fault at this place.
    pub(super) fn fault(&self, reason: impl fmt::Display, hint: impl fmt::Display) -> RuleFault {
        let path = if self.path.is_empty() { "rule".to_owned() } else { bounded(self.path.clone()) };
        RuleFault { path, reason: bounded(reason.to_string()), hint: bounded(hint.to_string()) }
    }

    /// The fault that this value is of another type.
    pub(super) fn wrong_type(&self, expected: &str) -> RuleFault {
        self.fault(format_args!("found {}", type_of(self.value)), format_args!("it must be {expected}"))
    }

    /// Reads an object that has only fields of these names. Null counts as absent.
    pub(super) fn fields(&self, names: &[&str]) -> Result<Vec<(&'v str, Self)>, RuleFault> {
        let object = self.object("an object")?;
        object
            .iter()
            .map(|(name, value)| {
                let field = self.field(name, value);
                if !names.contains(&name.as_str()) {
                    let reason = format!("unknown field {}", quoted(name));
                    return Err(field.fault(reason, hint(name, names.iter().copied())));
                }
                Ok((name.as_str(), field))
            })
            .filter(|field| !field.as_ref().is_ok_and(|(_, field)| field.value.is_null()))
            .collect()
    }

    /// Reads an object with any names.
    pub(super) fn object(&self, expected: &str) -> Result<&'v Object, RuleFault> {
        self.value.as_object().ok_or_else(|| self.wrong_type(expected))
    }

    /// Reads a list of 1 to `most` entries.
    pub(super) fn entries(&self, most: usize) -> Result<Vec<Self>, RuleFault> {
        let list = self.value.as_array().ok_or_else(|| self.wrong_type("a list"))?;
        match list.len() {
            0 => Err(self.fault("an empty list", "leave the field out, or name at least one entry")),
            len if len > most => Err(self.too_many(len, most, "entries")),
            _ => Ok(list
                .iter()
                .enumerate()
                .map(|(i, value)| Self { path: format!("{}[{i}]", self.path), value })
                .collect()),
        }
    }

    /// The fault that there are too many of something.
    pub(super) fn too_many(&self, count: usize, most: usize, what: &str) -> RuleFault {
        self.fault(format_args!("{count} {what}"), format_args!("the limit is {most}; split the rule in several"))
    }

    /// Reads a text of 1 to `most` bytes.
    pub(super) fn text(&self, most: usize) -> Result<&'v str, RuleFault> {
        let text = self.value.as_str().ok_or_else(|| self.wrong_type("text"))?;
        match text.len() {
            0 => Err(self.fault("an empty text", "leave the field out, or write at least one character")),
            len if len > most => {
                Err(self.fault(format_args!("{len} bytes"), format_args!("the limit is {most} bytes")))
            }
            _ => Ok(text),
        }
    }

    /// Reads true or false.
    pub(super) fn flag(&self) -> Result<bool, RuleFault> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// Reads a whole number within bounds.
    pub(super) fn whole_within(&self, least: u64, most: u64) -> Result<u64, RuleFault> {
        whole_number(self.value).filter(|number| (least..=most).contains(number)).ok_or_else(|| {
            let reason = format!("found {}", found(self.value));
            self.fault(reason, format_args!("it must be a whole number from {least} to {most}"))
        })
    }

    /// Reads a value of an enumeration, in any case.
    pub(super) fn one_of<T: FromStr<Err = UnknownValue>>(&self) -> Result<T, RuleFault> {
        let text = self.value.as_str().ok_or_else(|| self.wrong_type("text"))?;
        text.parse().map_err(|unknown: UnknownValue| {
            self.fault(format_args!("unknown value {}", quoted(text)), hint(text, unknown.allowed.split(", ")))
        })
    }
}
