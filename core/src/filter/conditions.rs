//! Conditions of a filter on an event's `data`: by path, one or several. All must hold.

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::long_values::LongValues;
use super::scalar::{Number, Scalar, Scalars};
use crate::event::object::Object;
use crate::ids::NameError;

/// The condition of each path.
pub type Conditions = BTreeMap<DataPath, Condition>;

/// The path of a value in an event's data: the names of nested objects with dots between them, such as
/// `levels.support`. A field whose own name has a dot cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "CompactString")]
pub struct DataPath(CompactString);

impl DataPath {
    /// The longest path that is accepted, in bytes.
    pub const MAX: usize = 128;

    /// Takes a path of 1 to [`Self::MAX`] bytes whose names are not empty.
    ///
    /// # Errors
    /// [`NameError`] if the path or one of its names is empty, or if it is longer.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.len() > Self::MAX {
            return Err(NameError::TooLong { what: "path", len: text.len(), max: Self::MAX });
        }
        if text.split('.').any(str::is_empty) {
            return Err(NameError::Empty { what: "a name in a path" });
        }
        Ok(Self(CompactString::from(text)))
    }

    /// The path as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value at the path. JSON's null counts as absent.
    #[must_use]
    pub fn find<'a>(&self, data: &'a Object) -> Option<&'a Value> {
        let mut names = self.0.split('.');
        let mut value = data.get(names.next()?)?;
        for name in names {
            value = value.as_object()?.get(name)?;
        }
        (!value.is_null()).then_some(value)
    }
}

impl TryFrom<CompactString> for DataPath {
    type Error = NameError;

    fn try_from(text: CompactString) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

/// The condition on one value. It has at least one operator, and all of them must hold. A missing value passes no
/// operator, not even `ne`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// The value is equal to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eq: Option<Scalar>,
    /// The value is present and not equal to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ne: Option<Scalar>,
    /// The value is one of these.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Scalars>,
    /// The value is a text that contains this text, or a list with this element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<Scalar>,
    /// The value is a text that begins with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<CompactString>,
    /// The value is a number ≥ this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Number>,
    /// The value is a number ≤ this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Number>,
}

impl Condition {
    /// Whether `value` passes every operator.
    #[must_use]
    pub fn admits<'e>(&self, value: &'e Value, long: &mut LongValues<'e>) -> bool {
        self.eq.as_ref().is_none_or(|wanted| wanted.is(value))
            && self.ne.as_ref().is_none_or(|unwanted| !unwanted.is(value))
            && self.one_of.as_ref().is_none_or(|wanted| wanted.contain(value))
            && self.prefix.as_ref().is_none_or(|start| value.as_str().is_some_and(|text| text.starts_with(&**start)))
            && self.is_within(value)
            && self.contains.as_ref().is_none_or(|part| contains(value, part, long))
    }

    fn is_within(&self, value: &Value) -> bool {
        if self.min.is_none() && self.max.is_none() {
            return true;
        }
        let Value::Number(number) = value else { return false };
        let number = Number::from(number);
        self.min.is_none_or(|least| number >= least) && self.max.is_none_or(|most| number <= most)
    }
}

/// Whether `data` passes every condition.
#[must_use]
pub fn admit<'e>(conditions: &Conditions, data: &'e Object, long: &mut LongValues<'e>) -> bool {
    conditions.iter().all(|(path, condition)| path.find(data).is_some_and(|value| condition.admits(value, long)))
}

fn contains<'e>(value: &'e Value, part: &Scalar, long: &mut LongValues<'e>) -> bool {
    match (value, part) {
        (Value::Array(list), part) => long.list_contains(list, part),
        (Value::String(text), Scalar::Text(part)) => long.text_contains(text, part),
        _ => false,
    }
}
