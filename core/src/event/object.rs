//! Reads JSON or MessagePack from untrusted senders into one type of map.
//!
//! Both encodings have the same limits, so a value read from one can be written in the other: at most [`MAX_DEPTH`]
//! levels, names that are text and unique in their object, and values that JSON can express. MessagePack timestamps
//! become RFC 3339 texts. NaN and infinities become the texts `NaN`, `inf` and `-inf`, so that a numeric field refuses
//! them.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::map::Entry;

use crate::event::time;
use crate::hint::{quoted, type_of};

/// The most levels of lists and objects. Frames add some levels; common JSON parsers stop at 128.
pub const MAX_DEPTH: usize = 64;

/// 2^53: from here on two whole numbers can be the same float, so the number that was sent is not known.
const INEXACT: f64 = 9_007_199_254_740_992.0;

/// MessagePack's extension type for timestamps.
const TIMESTAMP: i8 = -1;

/// A map from text to any value.
pub type Object = serde_json::Map<String, Value>;

/// Why bytes are not an object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not JSON, or JSON beyond the limits.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not MessagePack, or MessagePack beyond the limits.
    #[error("not MessagePack: {0}")]
    MsgPack(#[from] rmp_serde::decode::Error),
    /// This many bytes follow the value.
    #[error("not MessagePack: {0} bytes follow the value")]
    Trailing(usize),
    /// It begins with the byte order mark of this encoding, which no JSON has.
    #[error("not JSON: it begins with a byte order mark of {0}; write UTF-8 without one")]
    ByteOrderMark(&'static str),
    /// A value that is not an object.
    #[error("expected an object, found {0}")]
    NotAnObject(&'static str),
}

/// Reads one JSON object and nothing after it.
///
/// # Errors
/// If it is not an object, or beyond the limits.
pub fn from_json(bytes: &[u8]) -> Result<Object, ObjectError> {
    object(value_from_json(bytes)?)
}

/// Reads one JSON value and nothing after it, by the same rules.
///
/// # Errors
/// If it is beyond the limits.
pub fn value_from_json(bytes: &[u8]) -> Result<Value, ObjectError> {
    if let Some(encoding) = byte_order_mark(bytes) {
        return Err(ObjectError::ByteOrderMark(encoding));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = LimitedDepth(MAX_DEPTH).deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The encoding whose byte order mark the text begins with. Programs on Windows write one, and nobody sees it: without
/// a word about it the error would be that JSON is expected where JSON seems to be.
fn byte_order_mark(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xef, 0xbb, 0xbf, ..] => Some("UTF-8"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        _ => None,
    }
}

/// Reads one MessagePack map and nothing after it.
pub(crate) fn from_msgpack(bytes: &[u8]) -> Result<Object, ObjectError> {
    let mut reader = rmp_serde::Deserializer::new(bytes);
    let value = LimitedDepth(MAX_DEPTH).deserialize(&mut reader)?;
    match reader.into_inner().len() {
        0 => object(value),
        rest => Err(ObjectError::Trailing(rest)),
    }
}

/// Reads an object inside another value by the same rules. `serde_json`'s own reader treats an object whose first name
/// is `$serde_json::private::RawValue` as raw JSON, so nodes could not read what a producer had sent.
pub(crate) fn deserialize<'de, D: de::Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
    object(LimitedDepth(MAX_DEPTH).deserialize(deserializer)?).map_err(de::Error::custom)
}

fn object(value: Value) -> Result<Object, ObjectError> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(ObjectError::NotAnObject(type_of(&other))),
    }
}

/// A whole number ≥ 0, written as an integer or as a float: JSON has one type for numbers, and MessagePack writers
/// differ in the type that they use.
pub(crate) fn whole_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        (float.fract() == 0.0 && (0.0..INEXACT).contains(&float)).then_some(float as u64)
    })
}

/// Reads a value with at most this many levels.
struct LimitedDepth(usize);

impl LimitedDepth {
    /// The levels left inside a list or an object.
    fn inside<E: de::Error>(&self) -> Result<usize, E> {
        self.0.checked_sub(1).ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for LimitedDepth {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LimitedDepth {
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

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("binary data (type bin) has no place here; send text or a list of numbers"))
    }

    /// `rmp_serde` passes extensions this way.
    fn visit_newtype_struct<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let (extension, ExtensionBytes(bytes)) = <(i8, ExtensionBytes)>::deserialize(deserializer)?;
        if extension != TIMESTAMP {
            let problem = format_args!("an extension of type {extension} has no place here; only timestamps (-1) have");
            return Err(de::Error::custom(problem));
        }
        time::from_extension(&bytes).map(Value::String).map_err(de::Error::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(LimitedDepth(inside))? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Object::new();
        while let Some(FieldName(name)) = access.next_key()? {
            match object.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(access.next_value_seed(LimitedDepth(inside))?);
                }
                // Two readers could choose different values.
                Entry::Occupied(place) => {
                    return Err(de::Error::custom(format_args!("the name {} stands twice", quoted(place.key()))));
                }
            }
        }
        Ok(Value::Object(object))
    }
}

/// A field's name. It must be text; bytes are refused even if they are UTF-8.
struct FieldName(String);

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = FieldName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name as text")
            }

            fn visit_str<E>(self, value: &str) -> Result<FieldName, E> {
                Ok(FieldName(value.to_owned()))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

/// The bytes of a MessagePack extension.
struct ExtensionBytes(Vec<u8>);

impl<'de> Deserialize<'de> for ExtensionBytes {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;

        impl Visitor<'_> for BytesVisitor {
            type Value = ExtensionBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an extension's bytes")
            }

            fn visit_bytes<E>(self, value: &[u8]) -> Result<ExtensionBytes, E> {
                Ok(ExtensionBytes(value.to_vec()))
            }
        }

        deserializer.deserialize_bytes(BytesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn private_names_of_parsers_are_ordinary_names() {
        for name in ["$serde_json::private::RawValue", "$serde_json::private::Number", "$__toml_private_datetime"] {
            for value in [json!("]]"), json!("1"), json!(1), json!([[]]), json!({ "a": "]]" })] {
                let mut inner = Object::new();
                inner.insert(name.to_owned(), value);
                let object = Object::from_iter([("x".to_owned(), Value::Object(inner))]);
                assert_eq!(from_json(&serde_json::to_vec(&object).unwrap()).unwrap(), object);
                let packed = rmp_serde::to_vec(&object).unwrap();
                assert_eq!(from_msgpack(&packed).unwrap(), object);
                assert_eq!(deserialize(&mut rmp_serde::Deserializer::new(&packed[..])).unwrap(), object);
            }
        }
    }

    #[test]
    fn both_encodings_have_the_same_depth_limit() {
        assert!(from_json(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(matches!(from_json(nested(MAX_DEPTH + 1).as_bytes()), Err(ObjectError::Json(_))));
        let pack = |levels: usize| [[0x81, 0xa1, b'a'].repeat(levels - 1), vec![0x80]].concat();
        assert!(from_msgpack(&pack(MAX_DEPTH)).is_ok());
        assert!(matches!(from_msgpack(&pack(MAX_DEPTH + 1)), Err(ObjectError::MsgPack(_))));
        assert!(matches!(from_msgpack(&vec![0x91; 200_000]), Err(ObjectError::MsgPack(_))));
    }

    #[test]
    fn values_that_json_lacks_are_refused_or_become_text() {
        let nan = [vec![0x81, 0xa1, b'a', 0xcb], f64::NAN.to_be_bytes().to_vec()].concat();
        assert_eq!(from_msgpack(&nan).unwrap()["a"], "NaN");
        for refused in [
            &[0x81, 0x01, 0x02][..],                                 // a number for a name
            &[0x81, 0xc4, 1, b'a', 0x02],                            // bytes for a name
            &[0x81, 0xa1, b'a', 0xc4, 1, 0],                         // bytes
            &[0x81, 0xa1, b'a', 0xd4, 1, 0],                         // an extension that is no timestamp
            &[0x81, 0xa1, b'a', 0xd4, 0xff, 0],                      // a timestamp of one byte
            &[0x81, 0xa1, b'a', 0xd6, 0xff, 0],                      // a timestamp cut short
            &[0x81, 0xa1, b'a', 0xc9, 0xff, 0xff, 0xff, 0xff, 0xff], // a timestamp of 4 GB that does not follow
            &[0x81, 0xa1, b'a', 0xa1, 0xff],                         // text that is not UTF-8
            &[0x81, 0xa1, b'a'],                                     // cut short
            &[0xdf, 0xff, 0xff, 0xff, 0xff],                         // a length that nothing follows
        ] {
            assert!(matches!(from_msgpack(refused), Err(ObjectError::MsgPack(_))), "{refused:x?}");
        }
        assert!(matches!(from_msgpack(&[0x80, 0x80]), Err(ObjectError::Trailing(1))));
        assert!(matches!(from_msgpack(&[0x90]), Err(ObjectError::NotAnObject("a list"))));
        assert!(matches!(from_json(b"{} {}"), Err(ObjectError::Json(_))));
        assert!(matches!(from_json(b"[]"), Err(ObjectError::NotAnObject("a list"))));
    }

    #[test]
    fn whole_numbers_of_64_bits_stay_exact_and_others_become_floats() {
        for (text, number) in [
            ("9007199254740993", json!(9_007_199_254_740_993_u64)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("18446744073709551616", json!(2_f64.powi(64))),
        ] {
            assert_eq!(from_json(format!("{{\"a\":{text}}}").as_bytes()).unwrap()["a"], number, "{text}");
        }
        for refused in ["NaN", "Infinity", "1e400"] {
            assert!(from_json(format!("{{\"a\":{refused}}}").as_bytes()).is_err(), "{refused}");
        }
        let short = [&[0x81, 0xa1, b'a', 0xca][..], &0.9_f32.to_be_bytes()].concat();
        assert_eq!(from_msgpack(&short).unwrap()["a"], json!(f64::from(0.9_f32)));
    }

    #[test]
    fn byte_order_mark_is_refused_by_its_name() {
        for (text, encoding) in
            [(&b"\xef\xbb\xbf{}"[..], "UTF-8"), (b"\xff\xfe{\0}\0", "UTF-16"), (b"\xfe\xff\0{\0}", "UTF-16")]
        {
            let refused = from_json(text).unwrap_err();
            assert!(matches!(refused, ObjectError::ByteOrderMark(found) if found == encoding), "{refused}");
        }
        // Within a text it is a character like others.
        assert!(from_json("{\"a\":\"\u{feff}\"}".as_bytes()).is_ok());
    }

    #[test]
    fn msgpack_timestamps_become_text_at_any_depth() {
        let stamp = [0xd6, 0xff, 0x68, 0xc1, 0x8b, 0xa8];
        let bytes = [&[0x81, 0xa1, b'a', 0x92][..], &stamp, &[0x81, 0xa1, b'b'], &stamp].concat();
        let text = "2025-09-10T14:31:04Z";
        assert_eq!(Value::from(from_msgpack(&bytes).unwrap()), json!({ "a": [text, { "b": text }] }));
    }

    #[test]
    fn duplicate_names_in_an_object_are_refused() {
        assert!(from_json(br#"{"a":{"x":1},"b":{"x":1}}"#).is_ok());
        for twice in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":null}"#, r#"{"o":[{"a":1,"b":2,"a":3}]}"#] {
            let error = from_json(twice.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("the name \"a\" stands twice"), "{error}");
        }
        let error = from_msgpack(&[0x82, 0xa1, b'a', 1, 0xa1, b'a', 1]).unwrap_err().to_string();
        assert!(error.contains("the name \"a\" stands twice"), "{error}");
    }

    #[test]
    fn whole_numbers_are_read_from_integers_and_floats() {
        for (text, number) in [("100", 100), ("100.0", 100), ("1e2", 100), ("0.0", 0), ("-0.0", 0), ("-0", 0)] {
            assert_eq!(whole_number(&serde_json::from_str(text).unwrap()), Some(number), "{text}");
        }
        assert_eq!(whole_number(&json!(u64::MAX)), Some(u64::MAX));
        assert_eq!(whole_number(&json!(9_007_199_254_740_991.0)), Some(9_007_199_254_740_991));
        for refused in [json!(0.5), json!(-1), json!(-1.0), json!(9_007_199_254_740_992.0), json!(1e300), json!("1")] {
            assert_eq!(whole_number(&refused), None, "{refused}");
        }
    }
}
