//! The values that conditions on an event's data compare with: texts, numbers and booleans.
//!
//! Numbers compare by what they are and not by how they were written: `1`, `1.0` and `1e0` are one number, and an
//! integer is never rounded to be compared.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A value that is not made of others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text, compared as written.
    Text(CompactString),
}

impl Scalar {
    /// Takes a text, a number or a boolean; `None` for anything else.
    #[must_use]
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Number(number) => Some(Self::Number(Number::from(number))),
            Value::String(text) => Some(Self::Text(CompactString::from(text.as_str()))),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Whether `value` is this one.
    #[must_use]
    pub fn is(&self, value: &Value) -> bool {
        self.compare(value) == Some(Ordering::Equal)
    }

    /// How this value stands to `value` in the order of scalars, if that is one. Nothing is copied.
    fn compare(&self, value: &Value) -> Option<Ordering> {
        Some(match (self, value) {
            (Self::Bool(mine), Value::Bool(other)) => mine.cmp(other),
            (Self::Number(mine), Value::Number(other)) => mine.cmp(&Number::from(other)),
            (Self::Text(mine), Value::String(other)) => mine.as_str().cmp(other.as_str()),
            (Self::Bool(_), Value::Number(_) | Value::String(_)) | (Self::Number(_), Value::String(_)) => {
                Ordering::Less
            }
            (Self::Text(_), Value::Number(_) | Value::Bool(_)) | (Self::Number(_), Value::Bool(_)) => Ordering::Greater,
            (_, Value::Null | Value::Array(_) | Value::Object(_)) => return None,
        })
    }
}

/// Several scalars, sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Scalar>")]
pub struct Scalars(Vec<Scalar>);

impl Scalars {
    /// Whether `value` is one of them.
    #[must_use]
    pub fn contain(&self, value: &Value) -> bool {
        // What is no scalar stands behind all, and is not found.
        self.0.binary_search_by(|scalar| scalar.compare(value).unwrap_or(Ordering::Less)).is_ok()
    }
}

impl From<Vec<Scalar>> for Scalars {
    fn from(mut scalars: Vec<Scalar>) -> Self {
        scalars.sort_unstable();
        scalars.dedup();
        Self(scalars)
    }
}

/// A finite number. What is whole and fits is kept as an integer, so that equal numbers are equal in order and hash.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "serde_json::Number", into = "serde_json::Number")]
pub struct Number(NumberRepr);

#[derive(Clone, Copy, Debug)]
enum NumberRepr {
    /// From `i64::MIN` to `u64::MAX`.
    Whole(i128),
    /// Anything else.
    Float(f64),
}

const LEAST_WHOLE: f64 = i64::MIN as f64;
/// The first float that no `u64` reaches.
const BEYOND_WHOLE: f64 = u64::MAX as f64;

impl From<&serde_json::Number> for Number {
    fn from(number: &serde_json::Number) -> Self {
        if let Some(whole) = number.as_i64() {
            return Self(NumberRepr::Whole(whole.into()));
        }
        if let Some(whole) = number.as_u64() {
            return Self(NumberRepr::Whole(whole.into()));
        }
        // A number that is neither of the two integers is a float, and JSON has no others than finite ones.
        let float = number.as_f64().unwrap_or_default();
        if float.fract() == 0.0 && (LEAST_WHOLE..BEYOND_WHOLE).contains(&float) {
            Self(NumberRepr::Whole(float as i128))
        } else {
            Self(NumberRepr::Float(float))
        }
    }
}

impl From<serde_json::Number> for Number {
    fn from(number: serde_json::Number) -> Self {
        Self::from(&number)
    }
}

impl From<Number> for serde_json::Number {
    fn from(number: Number) -> Self {
        let made = match number.0 {
            NumberRepr::Whole(whole) => Self::from_i128(whole),
            NumberRepr::Float(float) => Self::from_f64(float),
        };
        made.unwrap_or_else(|| Self::from(0))
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        serde_json::Number::from(*self).fmt(f)
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (NumberRepr::Whole(a), NumberRepr::Whole(b)) => a.cmp(&b),
            (NumberRepr::Float(a), NumberRepr::Float(b)) => a.total_cmp(&b),
            (NumberRepr::Whole(a), NumberRepr::Float(b)) => whole_to_float(a, b),
            (NumberRepr::Float(a), NumberRepr::Whole(b)) => whole_to_float(b, a).reverse(),
        }
    }
}

/// The two are never equal: a float that is kept as one has a fraction, or lies beyond all integers that are kept.
fn whole_to_float(whole: i128, float: f64) -> Ordering {
    // The cast stops at the ends of `i128`, which is on the same side of every integer that is kept.
    if whole <= float.floor() as i128 { Ordering::Less } else { Ordering::Greater }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            NumberRepr::Whole(whole) => whole.hash(state),
            NumberRepr::Float(float) => float.to_bits().hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn number(value: &Value) -> Number {
        match Scalar::of(value) {
            Some(Scalar::Number(number)) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_stand_in_the_order_of_what_they_are() {
        let ascending = [
            json!(-1e300),
            json!(-1e19),
            json!(i64::MIN),
            json!(-9_007_199_254_740_993_i64),
            json!(-9_007_199_254_740_992_i64),
            json!(-1.5),
            json!(-1),
            json!(-0.5),
            json!(0),
            json!(0.1),
            json!(1),
            json!(1.5),
            json!(9_007_199_254_740_992_i64),
            json!(9_007_199_254_740_993_i64),
            json!(u64::MAX),
            json!(18_446_744_073_709_551_616.0),
            json!(1e300),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(number(a).cmp(&number(b)), i.cmp(&j), "{a} and {b}");
            }
            assert_eq!(json!(number(a)).to_string(), json!(number(&json!(number(a)))).to_string());
        }
    }

    #[test]
    fn one_number_is_equal_however_it_was_written() {
        use std::hash::BuildHasher;
        let hasher = std::hash::RandomState::new();
        for (a, b) in [("1", "1.0"), ("0", "-0.0"), ("1000", "1e3"), ("9223372036854775808", "9223372036854775808.0")] {
            let [a, b]: [Value; 2] = [a, b].map(|text| serde_json::from_str(text).unwrap());
            let (a, b) = (number(&a), number(&b));
            assert_eq!((a, hasher.hash_one(a)), (b, hasher.hash_one(b)));
        }
    }

    #[test]
    fn comparing_without_a_copy_is_comparing() {
        let values = [json!(false), json!(true), json!(-2), json!(0.5), json!(7), json!(""), json!("a"), json!("b")];
        for a in &values {
            for b in &values {
                let (a, scalar) = (Scalar::of(a).unwrap(), Scalar::of(b).unwrap());
                assert_eq!(a.compare(b), Some(a.cmp(&scalar)), "{a:?} and {b}");
            }
            assert_eq!(Scalar::of(a).unwrap().compare(&json!([])), None);
        }
    }
}
