//! Reads what strangers send, JSON or MessagePack, into one kind of map, and helps to say what is wrong with it.
//!
//! Both encodings get the same limits, so that whatever is taken in one can be given out in the other: at most
//! [`MAX_DEPTH`] levels, names that are text, and values that JSON has too. MessagePack's NaN and infinities become
//! the texts `NaN`, `inf` and `-inf`, so that a field that wants a number refuses them instead of losing them.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Levels of lists and objects. It leaves room for the levels that frames add below the 128 of common JSON parsers.
pub(crate) const MAX_DEPTH: usize = 64;

/// A map from text to any value.
pub(crate) type Object = serde_json::Map<String, Value>;

/// Why bytes are not an object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not MessagePack: {0}")]
    MsgPack(#[from] rmp_serde::decode::Error),
    #[error("not MessagePack: {0} bytes follow the value")]
    Trailing(usize),
    #[error("expected an object, found {0}")]
    NotAnObject(&'static str),
}

/// Reads one JSON object and nothing after it.
pub(crate) fn from_json(bytes: &[u8]) -> Result<Object, ObjectError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Levels(MAX_DEPTH).deserialize(&mut reader)?;
    reader.end()?;
    object(value)
}

/// Reads one MessagePack map and nothing after it.
pub(crate) fn from_msgpack(bytes: &[u8]) -> Result<Object, ObjectError> {
    let mut reader = rmp_serde::Deserializer::new(bytes);
    let value = Levels(MAX_DEPTH).deserialize(&mut reader)?;
    match reader.into_inner().len() {
        0 => object(value),
        rest => Err(ObjectError::Trailing(rest)),
    }
}

fn object(value: Value) -> Result<Object, ObjectError> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(ObjectError::NotAnObject(type_of(&other))),
    }
}

/// The type of a value, as an error message names it.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What an error message adds for a name that is not known: the nearest one that is, else all of them.
pub(crate) fn hint<'a>(found: &str, allowed: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let found = found.to_ascii_lowercase();
    let nearest = allowed
        .clone()
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&found, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
    match nearest {
        Some((_, name)) => format!("did you mean {name:?}?"),
        None => format!("it must be one of {}", allowed.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// Reads a value of at most so many levels.
struct Levels(usize);

impl Levels {
    /// The levels left inside of a list or an object.
    fn inside<E: de::Error>(&self) -> Result<usize, E> {
        self.0.checked_sub(1).ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for Levels {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Levels {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a boolean, a number, text, a list or an object")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(if value.is_finite() { Value::from(value) } else { Value::String(value.to_string()) })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    /// This is how MessagePack's extensions come.
    fn visit_newtype_struct<D: de::Deserializer<'de>>(self, _: D) -> Result<Value, D::Error> {
        Err(de::Error::invalid_type(de::Unexpected::Other("an extension"), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(Levels(inside))? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Object::new();
        while let Some(name) = access.next_key::<Name>()? {
            object.insert(name.0, access.next_value_seed(Levels(inside))?);
        }
        Ok(Value::Object(object))
    }
}

/// A field's name: text, and not bytes that could pass for text.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name as text")
            }

            fn visit_str<E>(self, value: &str) -> Result<Name, E> {
                Ok(Name(value.to_owned()))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}{}", "{\"a\":".repeat(levels - 1) + "{", "}".repeat(levels))
    }

    #[test]
    fn both_encodings_give_the_same_object() {
        let json = br#"{"a":[1,-2,0.5,null,true,"x"],"b":{}}"#;
        let from_json = from_json(json).unwrap();
        let packed = rmp_serde::to_vec(&from_json).unwrap();
        assert_eq!(from_msgpack(&packed).unwrap(), from_json);
    }

    #[test]
    fn depth_is_bounded_alike() {
        assert!(from_json(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(matches!(from_json(nested(MAX_DEPTH + 1).as_bytes()), Err(ObjectError::Json(_))));
        let pack = |levels: usize| [[0x81, 0xa1, b'a'].repeat(levels - 1), vec![0x80]].concat();
        assert!(from_msgpack(&pack(MAX_DEPTH)).is_ok());
        assert!(matches!(from_msgpack(&pack(MAX_DEPTH + 1)), Err(ObjectError::MsgPack(_))));
        assert!(matches!(from_msgpack(&vec![0x91; 200_000]), Err(ObjectError::MsgPack(_))));
    }

    #[test]
    fn what_json_lacks_is_refused_or_shown() {
        let nan = [vec![0x81, 0xa1, b'a', 0xcb], f64::NAN.to_be_bytes().to_vec()].concat();
        assert_eq!(from_msgpack(&nan).unwrap()["a"], "NaN");
        for refused in [
            &[0x81, 0x01, 0x02][..],         // a number for a name
            &[0x81, 0xc4, 1, b'a', 0x02],    // bytes for a name
            &[0x81, 0xa1, b'a', 0xc4, 1, 0], // bytes
            &[0x81, 0xa1, b'a', 0xd4, 1, 0], // an extension
            &[0x81, 0xa1, b'a', 0xa1, 0xff], // text that is not UTF-8
            &[0x81, 0xa1, b'a'],             // cut short
            &[0xdf, 0xff, 0xff, 0xff, 0xff], // a length that nothing follows
        ] {
            assert!(matches!(from_msgpack(refused), Err(ObjectError::MsgPack(_))), "{refused:x?}");
        }
        assert!(matches!(from_msgpack(&[0x80, 0x80]), Err(ObjectError::Trailing(1))));
        assert!(matches!(from_msgpack(&[0x90]), Err(ObjectError::NotAnObject("a list"))));
        assert!(matches!(from_json(b"{} {}"), Err(ObjectError::Json(_))));
        assert!(matches!(from_json(b"[]"), Err(ObjectError::NotAnObject("a list"))));
    }

    #[test]
    fn hints_name_the_nearest_else_all() {
        let allowed = ["symbols", "tiers"];
        assert_eq!(hint("Symbol", allowed), "did you mean \"symbols\"?");
        assert_eq!(hint("colour", allowed), "it must be one of symbols, tiers");
    }
}
