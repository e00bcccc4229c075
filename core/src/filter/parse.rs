//! Parses a client's filter. Any mistake is refused with its path, so that nobody waits for events that a misspelt
//! condition excludes.

mod data;

use std::collections::BTreeSet;

use compact_str::CompactString;
use serde_json::Value;

use super::Filter;
use super::scalar::Number;
use crate::event::{Kind, Kinds, UnknownValue};
use crate::hint::{clipped, hint, quoted, type_of};
use crate::ids::{Confidence, NameError, Pattern, Room, Symbol};

pub use data::{MAX_CONDITIONS, MAX_TEXT};

/// The most symbols of a filter. A gateway may have a lower limit.
pub const MAX_SYMBOLS: usize = 10_000;

/// The most entries of any other list.
pub const MAX_LIST: usize = 1_000;

/// The longest tag that is accepted, in bytes.
pub const MAX_TAG: usize = 128;

/// The entry of a list that means any value, as if the list were left out. In `kinds` it means all kinds.
const ANY: &str = "*";

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

/// Why a filter was refused: the place and the problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FilterError {
    /// The place, such as `filter.tiers[1]`.
    pub path: String,
    /// The problem there.
    pub problem: FilterProblem,
}

/// What is wrong with a part of a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterProblem {
    /// The field does not exist.
    #[error("unknown field; {hint}")]
    UnknownField {
        /// The nearest field, or all.
        hint: String,
    },
    /// The value is of another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The expected type.
        expected: &'static str,
        /// The type that was found.
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
        /// The most entries allowed.
        max: usize,
    },
    /// The text is not a value of the enumeration.
    #[error(transparent)]
    UnknownValue(#[from] UnknownValue),
    /// This cluster does not accept events of this kind.
    #[error("unknown kind {found:?}; {hint}")]
    UnknownKind {
        /// The kind as written, or its beginning if it is long.
        found: String,
        /// The nearest kind, or all.
        hint: String,
    },
    /// The text is not a valid name.
    #[error(transparent)]
    BadName(#[from] NameError),
    /// The text has a wildcard, but would match only that exact name.
    #[error("{found} has a wildcard, but names are compared as written; list each name, or omit the list to mean any")]
    Wildcard {
        /// The text in quotes, or its beginning if it is long.
        found: String,
    },
    /// The text begins or ends with white space, so it would match no name.
    #[error("{found} begins or ends with white space, but names are compared as written; remove it")]
    Padded {
        /// The text in quotes, or its beginning if it is long.
        found: String,
    },
    /// A condition has no operator.
    #[error("no operator; use one or more of {known}")]
    NoOperator {
        /// The operators.
        known: String,
    },
    /// The lower bound is above the upper bound.
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
    /// Parses a filter from a client's object. An absent or null field means any; absent `kinds` mean `pattern`. `*` in
    /// a list means any.
    ///
    /// # Errors
    /// [`FilterError`] for the first wrong field, in alphabetical order.
    pub fn parse(value: &Value, kinds: &Kinds) -> Result<Self, FilterError> {
        let object = value.as_object().ok_or_else(|| wrong_type("filter".to_owned(), "an object", value))?;
        let mut filter = Self::default();
        for (name, value) in object {
            let path = format!("filter.{}", clipped(name));
            match name.as_str() {
                known if value.is_null() && FIELDS.contains(&known) => {}
                "kinds" => {
                    filter.kinds = set(path, value, MAX_LIST, |text| kind(text, kinds))?
                        .unwrap_or_else(|| kinds.iter().cloned().collect());
                }
                "symbols" => filter.symbols = symbols(path, value)?,
                "patterns" => filter.patterns = patterns(path, value)?,
                "tiers" => filter.tiers = set(path, value, MAX_LIST, enumerated)?,
                "regimes" => filter.regimes = set(path, value, MAX_LIST, enumerated)?,
                "tags" => filter.tags = set(path, value, MAX_LIST, tag)?,
                "rooms" => filter.rooms = set(path, value, MAX_LIST, |text| Ok(Room::new(name_of(text)?)?))?,
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

/// Reads a list of symbols; `None` if it contains [`ANY`].
pub(super) fn symbols(path: String, value: &Value) -> Result<Option<BTreeSet<Symbol>>, FilterError> {
    set(path, value, MAX_SYMBOLS, symbol)
}

/// Reads a list of patterns; `None` if it contains [`ANY`].
pub(super) fn patterns(path: String, value: &Value) -> Result<Option<BTreeSet<Pattern>>, FilterError> {
    set(path, value, MAX_LIST, |text| Ok(Pattern::new(name_of(text)?)?))
}

fn wrong_type(path: String, expected: &'static str, found: &Value) -> FilterError {
    FilterError { path, problem: FilterProblem::WrongType { expected, found: type_of(found) } }
}

/// Reads a list; `None` if it contains [`ANY`].
fn set<T: Ord>(
    path: String,
    value: &Value,
    max: usize,
    read: impl Fn(&str) -> Result<T, FilterProblem>,
) -> Result<Option<BTreeSet<T>>, FilterError> {
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
    let mut is_any = false;
    let mut set = BTreeSet::new();
    for (i, entry) in list.iter().enumerate() {
        let at = || format!("{path}[{i}]");
        match entry.as_str().ok_or_else(|| wrong_type(at(), "text", entry))? {
            ANY => is_any = true,
            text => {
                set.insert(read(text).map_err(|problem| FilterError { path: at(), problem })?);
            }
        }
    }
    Ok((!is_any).then_some(set))
}

/// Refuses names that are surely a mistake: with a wildcard, or with white space at an end.
fn name_of(text: &str) -> Result<&str, FilterProblem> {
    // `>` alone is the wildcard of NATS; inside a name it is an ordinary character.
    if text.contains('*') || text == ">" {
        return Err(FilterProblem::Wildcard { found: quoted(text) });
    }
    if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        return Err(FilterProblem::Padded { found: quoted(text) });
    }
    Ok(text)
}

/// No symbol of an exchange has a question mark, so it is meant as a wildcard.
fn symbol(text: &str) -> Result<Symbol, FilterProblem> {
    if text.contains('?') {
        return Err(FilterProblem::Wildcard { found: quoted(text) });
    }
    Ok(Symbol::new(name_of(text)?)?)
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
    Err(FilterProblem::UnknownKind { found: clipped(text), hint: hint(text, known.iter().copied()) })
}

fn tag(text: &str) -> Result<CompactString, FilterProblem> {
    match name_of(text)?.len() {
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
