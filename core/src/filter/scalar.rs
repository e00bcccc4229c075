//! The values of conditions on an event's data: texts, numbers and booleans.
//!
//! Numbers compare by value, not by spelling: `1`, `1.0` and `1e0` are equal. An integer is never rounded for a
//! comparison.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A value that is not a list or an object.
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

    /// The same without a copy.
    pub(crate) fn borrowed(&self) -> ScalarRef<'_> {
        match self {
            Self::Bool(value) => ScalarRef::Bool(*value),
            Self::Number(number) => ScalarRef::Number(*number),
            Self::Text(text) => ScalarRef::Text(text),
        }
    }

    /// Whether `value` is equal to this one.
    #[must_use]
    pub fn is(&self, value: &Value) -> bool {
        self.compare(value) == Some(Ordering::Equal)
    }

    /// Compares with `value` in the order of scalars, without a copy; `None` if `value` is not a scalar.
    fn compare(&self, value: &Value) -> Option<Ordering> {
        Some(match (self, value) {
            (Self::Bool(this), Value::Bool(other)) => this.cmp(other),
            (Self::Number(this), Value::Number(other)) => this.cmp(&Number::from(other)),
            (Self::Text(this), Value::String(other)) => this.as_str().cmp(other.as_str()),
            (Self::Bool(_), Value::Number(_) | Value::String(_)) | (Self::Number(_), Value::String(_)) => {
                Ordering::Less
            }
            (Self::Text(_), Value::Number(_) | Value::Bool(_)) | (Self::Number(_), Value::Bool(_)) => Ordering::Greater,
            (_, Value::Null | Value::Array(_) | Value::Object(_)) => return None,
        })
    }
}

/// A scalar of an event, without a copy. The order is that of [`Scalar`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ScalarRef<'v> {
    Bool(bool),
    Number(Number),
    Text(&'v str),
}

impl<'v> ScalarRef<'v> {
    /// Takes a text, a number or a boolean; `None` for anything else.
    pub(crate) fn of(value: &'v Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Number(number) => Some(Self::Number(Number::from(number))),
            Value::String(text) => Some(Self::Text(text)),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// Several scalars, sorted, without duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Scalar>")]
pub struct Scalars(Vec<Scalar>);

impl Scalars {
    /// Whether `value` is one of them.
    #[must_use]
    pub fn contain(&self, value: &Value) -> bool {
        // A value that is not a scalar sorts after all of them, and is not found.
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

/// A finite number. Whole numbers that fit are stored as integers, so that equal numbers have equal order and hash.
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
/// The first float above all `u64`.
const BEYOND_WHOLE: f64 = u64::MAX as f64;

impl From<&serde_json::Number> for Number {
    fn from(number: &serde_json::Number) -> Self {
        if let Some(whole) = number.as_i64() {
            return Self(NumberRepr::Whole(whole.into()));
        }
        if let Some(whole) = number.as_u64() {
            return Self(NumberRepr::Whole(whole.into()));
        }
        // Any other number is a float, and JSON has only finite ones.
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
        let converted = match number.0 {
            NumberRepr::Whole(whole) => Self::from_i128(whole),
            NumberRepr::Float(float) => Self::from_f64(float),
        };
        converted.unwrap_or_else(|| Self::from(0))
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

/// The two are never equal: a stored float has a fraction, or is outside the range of stored integers.
fn whole_to_float(whole: i128, float: f64) -> Ordering {
    // The cast saturates at the ends of `i128`, which are outside the range of stored integers too.
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
    fn numbers_are_ordered_by_value() {
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
    fn spellings_of_a_number_are_equal_with_equal_hash() {
        use std::hash::BuildHasher;
        let hasher = std::hash::RandomState::new();
        for (a, b) in [("1", "1.0"), ("0", "-0.0"), ("1000", "1e3"), ("9223372036854775808", "9223372036854775808.0")] {
            let [a, b]: [Value; 2] = [a, b].map(|text| serde_json::from_str(text).unwrap());
            let (a, b) = (number(&a), number(&b));
            assert_eq!((a, hasher.hash_one(a)), (b, hasher.hash_one(b)));
        }
    }

    #[test]
    fn compare_agrees_with_the_order_of_scalars() {
        let values = [json!(false), json!(true), json!(-2), json!(0.5), json!(7), json!(""), json!("a"), json!("b")];
        for a in &values {
            for b in &values {
                let (a, scalar) = (Scalar::of(a).unwrap(), Scalar::of(b).unwrap());
                assert_eq!(a.compare(b), Some(a.cmp(&scalar)), "{a:?} and {b}");
                assert_eq!(a.borrowed().cmp(&scalar.borrowed()), a.cmp(&scalar), "{a:?} and {b}");
                assert_eq!(ScalarRef::of(b), Some(scalar.borrowed()));
            }
            assert_eq!(Scalar::of(a).unwrap().compare(&json!([])), None);
        }
    }
}
