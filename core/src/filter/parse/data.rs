//! Parses the conditions on an event's data: an object of paths, each with an object of operators.

use compact_str::CompactString;
use serde_json::Value;

use super::{FilterError, FilterProblem, MAX_LIST, wrong_type};
use crate::filter::conditions::{Condition, Conditions, DataPath};
use crate::filter::scalar::{Number, Scalar, Scalars};
use crate::hint::{clipped, hint};
use crate::ids::NameError;

/// The most paths with conditions.
pub const MAX_CONDITIONS: usize = 16;

/// The longest text in a condition, in bytes.
pub const MAX_TEXT: usize = 256;

const OPERATORS: [&str; 7] = ["eq", "ne", "in", "contains", "prefix", "min", "max"];

const A_SCALAR: &str = "text, a number or a boolean";

pub(super) fn conditions(at: String, value: &Value) -> Result<Conditions, FilterError> {
    let object = value.as_object().ok_or_else(|| wrong_type(at.clone(), "an object of paths", value))?;
    if object.len() > MAX_CONDITIONS {
        return Err(FilterError {
            path: at,
            problem: FilterProblem::TooMany { len: object.len(), max: MAX_CONDITIONS },
        });
    }
    object
        .iter()
        .map(|(name, value)| {
            // A path that is too long is not shown in the error.
            let path = DataPath::new(name).map_err(|e| FilterError { path: at.clone(), problem: e.into() })?;
            Ok((path, condition(format!("{at}.{name}"), value)?))
        })
        .collect()
}

fn condition(at: String, value: &Value) -> Result<Condition, FilterError> {
    let operators = value.as_object().ok_or_else(|| wrong_type(at.clone(), "an object of operators", value))?;
    if operators.is_empty() {
        return Err(FilterError { path: at, problem: FilterProblem::NoOperator { known: OPERATORS.join(", ") } });
    }
    let mut condition = Condition::default();
    for (name, value) in operators {
        let path = format!("{at}.{}", clipped(name));
        match name.as_str() {
            "eq" => condition.eq = Some(scalar(path, value)?),
            "ne" => condition.ne = Some(scalar(path, value)?),
            "in" => condition.one_of = Some(scalars(path, value)?),
            "contains" => condition.contains = Some(part(path, value)?),
            "prefix" => condition.prefix = Some(prefix(path, value)?),
            "min" => condition.min = Some(number(path, value)?),
            "max" => condition.max = Some(number(path, value)?),
            _ => {
                return Err(FilterError { path, problem: FilterProblem::UnknownField { hint: hint(name, OPERATORS) } });
            }
        }
    }
    match (condition.min, condition.max) {
        (Some(min), Some(max)) if min > max => {
            Err(FilterError { path: at, problem: FilterProblem::EmptyRange { min, max } })
        }
        _ => Ok(condition),
    }
}

fn scalar(path: String, value: &Value) -> Result<Scalar, FilterError> {
    if let Value::String(text) = value {
        return self::text(path, text).map(Scalar::Text);
    }
    Scalar::of(value).ok_or_else(|| wrong_type(path, A_SCALAR, value))
}

fn scalars(path: String, value: &Value) -> Result<Scalars, FilterError> {
    let list = value.as_array().ok_or_else(|| wrong_type(path.clone(), "a list", value))?;
    match list.len() {
        0 => return Err(FilterError { path, problem: FilterProblem::EmptyList }),
        len if len > MAX_LIST => {
            return Err(FilterError { path, problem: FilterProblem::TooMany { len, max: MAX_LIST } });
        }
        _ => {}
    }
    let scalars: Result<Vec<Scalar>, FilterError> =
        list.iter().enumerate().map(|(i, entry)| scalar(format!("{path}[{i}]"), entry)).collect();
    Ok(Scalars::from(scalars?))
}

/// Reads the operand of `contains`. The empty text is refused: every text contains it, so it is a mistake.
fn part(path: String, value: &Value) -> Result<Scalar, FilterError> {
    match value {
        Value::String(text) if text.is_empty() => Err(empty(path, "text to be contained")),
        _ => scalar(path, value),
    }
}

fn prefix(path: String, value: &Value) -> Result<CompactString, FilterError> {
    match value {
        Value::String(text) if text.is_empty() => Err(empty(path, "prefix")),
        Value::String(text) => self::text(path, text),
        _ => Err(wrong_type(path, "text", value)),
    }
}

fn number(path: String, value: &Value) -> Result<Number, FilterError> {
    match value {
        Value::Number(number) => Ok(Number::from(number)),
        _ => Err(wrong_type(path, "a number", value)),
    }
}

fn text(path: String, text: &str) -> Result<CompactString, FilterError> {
    match text.len() {
        len if len > MAX_TEXT => {
            let problem = NameError::TooLong { what: "text", len, max: MAX_TEXT }.into();
            Err(FilterError { path, problem })
        }
        _ => Ok(CompactString::from(text)),
    }
}

fn empty(path: String, what: &'static str) -> FilterError {
    FilterError { path, problem: NameError::Empty { what }.into() }
}
