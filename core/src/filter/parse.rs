//! Reads a filter as a client writes it. Whatever is not exactly right is refused with its path, so that nobody
//! waits for events that a misspelt condition keeps away.

mod data;

use std::collections::BTreeSet;

use compact_str::CompactString;
use serde_json::Value;

use super::Filter;
use super::scalar::Number;
use crate::event::{Kind, Kinds, UnknownValue};
use crate::ids::{Confidence, NameError, Pattern, Room, Symbol};
use crate::object::{hint, type_of};

pub use data::{MAX_CONDITIONS, MAX_TEXT};

/// The most symbols a filter may name. A gateway's own limit comes on top.
pub const MAX_SYMBOLS: usize = 10_000;

/// The most entries any other list may have.
pub const MAX_LIST: usize = 1_000;

/// The longest tag taken, in bytes.
pub const MAX_TAG: usize = 128;

const FIELDS: [&str; 11] = [
    "kinds",
    "symbols",
    "patterns",
    "tiers",
    "regimes",
    "tags",
    "rooms",
    "min_confidence",
    "min_priority",
    "market_hours_only",
    "data",
];

/// A filter that cannot be taken: where it is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FilterError {
    /// The place, such as `filter.tiers[1]`.
    pub path: String,
    /// What is wrong there.
    pub problem: FilterProblem,
}

/// What is wrong with a part of a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterProblem {
    /// There is no such field.
    #[error("unknown field; {hint}")]
    UnknownField {
        /// The nearest field, or all.
        hint: String,
    },
    /// The value is of another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The list is empty.
    #[error("an empty list would match nothing; leave it out to mean any")]
    EmptyList,
    /// The list is too long.
    #[error("{len} entries, the limit is {max}")]
    TooMany {
        /// Its length.
        len: usize,
        /// The most it may have.
        max: usize,
    },
    /// The text is not a value of the enumeration.
    #[error(transparent)]
    UnknownValue(#[from] UnknownValue),
    /// This cluster does not take events of this kind.
    #[error("unknown kind {found:?}; {hint}")]
    UnknownKind {
        /// The kind as written.
        found: String,
        /// The nearest kind, or all.
        hint: String,
    },
    /// The text cannot be such a name.
    #[error(transparent)]
    BadName(#[from] NameError),
    /// A condition asks nothing.
    #[error("no condition; it takes any of {known}")]
    NoOperator {
        /// The operators.
        known: String,
    },
    /// No number is within both bounds.
    #[error("no number is at least {min} and at most {max}")]
    EmptyRange {
        /// The lower bound.
        min: Number,
        /// The upper bound.
        max: Number,
    },
    /// The number is not within its bounds.
    #[error("expected a number from 0 to 1, found {found}")]
    OutOfRange {
        /// The number as written.
        found: String,
    },
}

impl Filter {
    /// Reads a filter from the object that a client sent. An absent field, like one that is null, means any; absent
    /// `kinds` mean `pattern`.
    ///
    /// # Errors
    /// [`FilterError`] for the first field, in alphabetical order, that is not right.
    pub fn parse(value: &Value, kinds: &Kinds) -> Result<Self, FilterError> {
        let object = value.as_object().ok_or_else(|| wrong_type("filter".to_owned(), "an object", value))?;
        let mut filter = Self::default();
        for (name, value) in object {
            let path = format!("filter.{name}");
            match name.as_str() {
                known if value.is_null() && FIELDS.contains(&known) => {}
                "kinds" => filter.kinds = set(path, value, MAX_LIST, |text| kind(text, kinds))?,
                "symbols" => filter.symbols = Some(set(path, value, MAX_SYMBOLS, |text| Ok(Symbol::new(text)?))?),
                "patterns" => filter.patterns = Some(set(path, value, MAX_LIST, |text| Ok(Pattern::new(text)?))?),
                "tiers" => filter.tiers = Some(set(path, value, MAX_LIST, enumerated)?),
                "regimes" => filter.regimes = Some(set(path, value, MAX_LIST, enumerated)?),
                "tags" => filter.tags = Some(set(path, value, MAX_LIST, tag)?),
                "rooms" => filter.rooms = Some(set(path, value, MAX_LIST, |text| Ok(Room::new(text)?))?),
                "data" => filter.data = data::conditions(path, value)?,
                "min_confidence" => filter.min_confidence = Some(confidence(path, value)?),
                "min_priority" => {
                    let text = value.as_str().ok_or_else(|| wrong_type(path.clone(), "text", value))?;
                    filter.min_priority = Some(enumerated(text).map_err(|problem| FilterError { path, problem })?);
                }
                "market_hours_only" => {
                    filter.market_hours_only =
                        value.as_bool().ok_or_else(|| wrong_type(path, "true or false", value))?;
                }
                _ => {
                    return Err(FilterError {
                        path,
                        problem: FilterProblem::UnknownField { hint: hint(name, FIELDS) },
                    });
                }
            }
        }
        Ok(filter)
    }
}

fn wrong_type(path: String, expected: &'static str, found: &Value) -> FilterError {
    FilterError { path, problem: FilterProblem::WrongType { expected, found: type_of(found) } }
}

fn set<T: Ord>(
    path: String,
    value: &Value,
    max: usize,
    read: impl Fn(&str) -> Result<T, FilterProblem>,
) -> Result<BTreeSet<T>, FilterError> {
    let list = value.as_array().ok_or_else(|| wrong_type(path.clone(), "a list of texts", value))?;
    match list.len() {
        0 => {
            return Err(FilterError { path, problem: FilterProblem::EmptyList });
        }
        len if len > max => {
            return Err(FilterError { path, problem: FilterProblem::TooMany { len, max } });
        }
        _ => {}
    }
    list.iter()
        .enumerate()
        .map(|(i, entry)| {
            let at = || format!("{path}[{i}]");
            let text = entry.as_str().ok_or_else(|| wrong_type(at(), "text", entry))?;
            read(text).map_err(|problem| FilterError { path: at(), problem })
        })
        .collect()
}

fn enumerated<T: std::str::FromStr<Err = UnknownValue>>(text: &str) -> Result<T, FilterProblem> {
    Ok(text.parse()?)
}

fn kind(text: &str, kinds: &Kinds) -> Result<Kind, FilterProblem> {
    let kind = Kind::from(text);
    if kinds.audience(&kind).is_some() {
        return Ok(kind);
    }
    let known: Vec<_> = kinds.iter().map(Kind::as_str).collect();
    Err(FilterProblem::UnknownKind { found: text.to_owned(), hint: hint(text, known.iter().copied()) })
}

fn tag(text: &str) -> Result<CompactString, FilterProblem> {
    match text.len() {
        0 => Err(NameError::Empty { what: "tag" }.into()),
        len if len > MAX_TAG => Err(NameError::TooLong { what: "tag", len, max: MAX_TAG }.into()),
        _ => Ok(CompactString::from(text)),
    }
}

fn confidence(path: String, value: &Value) -> Result<Confidence, FilterError> {
    let number = value.as_f64().ok_or_else(|| wrong_type(path.clone(), "a number from 0 to 1", value))?;
    Confidence::new(number)
        .ok_or_else(|| FilterError { path, problem: FilterProblem::OutOfRange { found: value.to_string() } })
}
