//! The format of messages between nodes: one version byte, then MessagePack. An unknown version is refused with its own
//! error, so that a mixed cluster degrades with a clear log line instead of a crash. Fields that a later version has
//! added at the end of a record are ignored (`later`), so the version only changes with what the others must not read.
//!
//! Everybody who can reach NATS can send anything. So the nesting depth is limited, and error texts are bounded.

mod later;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::object;
use crate::hint::bounded;
use later::Tolerant;

/// The version that this build reads and writes.
pub const VERSION: u8 = 1;

/// No version of tickwire will be higher. A message with a higher first byte, such as text, is not from a node.
const LAST_VERSION: u8 = 31;

/// The most levels of lists and maps in a message: those of an event's data, and some around them.
const MAX_DEPTH: usize = object::MAX_DEPTH + 16;

/// Why a message was refused or cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The message has no bytes.
    #[error("an empty message")]
    Empty,
    /// The sender uses another version.
    #[error("message version {found}, this build uses version {VERSION}: see Upgrades in docs/operations.md")]
    Version {
        /// The version byte that was found.
        found: u8,
    },
    /// The version is right, but the rest is malformed.
    #[error("malformed message: {}", bounded(.0.to_string()))]
    Malformed(#[from] rmp_serde::decode::Error),
    /// A value has no MessagePack form.
    #[error("cannot encode: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

impl WireError {
    /// Whether another version of tickwire may have written the message. If not, it is not from a node.
    #[must_use]
    pub fn is_other_version(&self) -> bool {
        matches!(self, Self::Version { found } if *found <= LAST_VERSION)
    }
}

/// Encodes a message for another node.
///
/// # Errors
/// [`WireError::Encode`] if a value has no MessagePack form. All types of this crate have one.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![VERSION];
    rmp_serde::encode::write(&mut bytes, message)?;
    Ok(bytes)
}

/// Decodes a message from another node.
///
/// # Errors
/// [`WireError`] if it is empty, of another version, or malformed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    match bytes {
        [] => Err(WireError::Empty),
        [VERSION, body @ ..] => decode_part(body),
        [found, ..] => Err(WireError::Version { found: *found }),
    }
}

/// Decodes a part of a message that was encoded on its own, such as an event in a batch. It has no version byte.
///
/// # Errors
/// [`WireError::Malformed`] if it is malformed.
pub fn decode_part<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(MAX_DEPTH);
    Ok(T::deserialize(Tolerant(&mut reader))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, blank_event};
    use crate::replay::ReplayRefusal;
    use serde_json::{Map, Value, json};

    #[test]
    fn text_and_malformed_messages_are_not_another_version() {
        let refused = |bytes: &[u8]| decode::<u64>(bytes).unwrap_err().is_other_version();
        assert!([0, VERSION + 1, LAST_VERSION].iter().all(|version| refused(&[*version, 7])));
        let others: [&[u8]; 5] = [b"{\"stream\":\"EVENTS\",\"seq\":7}", b" ", b"\xc1", &[VERSION, 0xc1], b""];
        assert!(!others.into_iter().any(refused));
    }

    /// An encoded event whose data has this many levels.
    fn nested(levels: usize) -> Vec<u8> {
        let marked = Map::from_iter([("x".to_owned(), json!("here"))]);
        let bytes = rmp_serde::to_vec(&Event { data: marked, ..blank_event() }).unwrap();
        let at = bytes.windows(5).position(|window| window == b"\xa4here").unwrap();
        [&bytes[..at], &vec![0x91; levels - 1], &[0xc0], &bytes[at + 5..]].concat()
    }

    #[test]
    fn event_nested_deeper_than_the_limit_is_refused() {
        let event: Event = decode_part(&nested(object::MAX_DEPTH)).unwrap();
        assert!(matches!(event.data["x"], Value::Array(_)));
        for levels in [object::MAX_DEPTH + 16, 1_000, 200_000] {
            assert!(matches!(decode_part::<Event>(&nested(levels)), Err(WireError::Malformed(_))), "{levels}");
        }
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Pair {
        first: u8,
        #[serde(default)]
        second: Option<(u8, u8)>,
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Choice {
        Whole(Vec<Pair>),
        Parts { pair: Pair },
    }

    #[test]
    fn fields_of_a_later_version_are_ignored_and_other_lengths_count() {
        let whole = Choice::Whole(vec![Pair { first: 7, second: Some((1, 2)) }, Pair { first: 8, second: None }]);
        let later = json!({ "Whole": [[7, [1, 2], { "any": [1, null] }, "x"], [8, null, [[]]]] });
        assert_eq!(decode::<Choice>(&encode(&later).unwrap()).unwrap(), whole);
        let parts = Choice::Parts { pair: Pair { first: 7, second: None } };
        assert_eq!(decode::<Choice>(&encode(&json!({ "Parts": [[7, null, true], 3] })).unwrap()).unwrap(), parts);
        assert_eq!(decode::<Choice>(&encode(&json!({ "Parts": [[7]] })).unwrap()).unwrap(), parts, "a former one");
        let longer_tuple = json!({ "Whole": [[7, [1, 2, 3]]] });
        let without_a_field = json!({ "Whole": [[]] });
        let two_variants = json!({ "Whole": [], "Parts": [[7]] });
        for wrong in [longer_tuple, without_a_field, two_variants] {
            let refused = decode::<Choice>(&encode(&wrong).unwrap());
            assert!(matches!(refused, Err(WireError::Malformed(_))), "{wrong}: {refused:?}");
        }
    }

    #[test]
    fn error_text_is_short_for_a_long_message() {
        let text = "x".repeat(100_000);
        let error = decode::<ReplayRefusal>(&encode(&text).unwrap()).unwrap_err().to_string();
        assert!(error.contains("unknown variant `xxx") && error.len() < 700, "{} bytes", error.len());
    }
}
