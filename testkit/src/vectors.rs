//! The golden vectors of messages between nodes, and of records that nodes keep for each other in NATS. Their files are
//! in `core/tests/vectors`. A test of the crate that defines a message compares it with its vectors.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tickwire_core::wire;

/// The file of the messages and records that crates other than `core` define.
const OTHER_CRATES: &str = "other_crates.json";

/// One message or record, byte by byte.
#[derive(Debug, Deserialize)]
pub struct MessageVector {
    /// Its name in the vectors.
    pub message: String,
    /// It as JSON, field by field.
    pub value: Value,
    /// The bytes that this version writes and reads.
    pub hex: String,
    /// What earlier versions have written. It has the same meaning.
    #[serde(default)]
    pub former: Vec<String>,
    /// What a later version may write: every record in it has one field more, and all optional ones. It has the same
    /// meaning. `None` if there is no record in it.
    #[serde(default)]
    pub later: Option<String>,
}

#[derive(Deserialize)]
struct VectorFile {
    messages: Vec<MessageVector>,
}

impl MessageVector {
    /// Fails unless `T` reads and writes the message as documented, and reads its other forms.
    ///
    /// # Panics
    /// When a form is not read, or has another meaning, or is written in another way.
    pub fn check<T: Serialize + DeserializeOwned>(&self) {
        let name = &self.message;
        let read: T = self.read(&self.hex);
        assert_eq!(serde_json::to_value(&read).expect("it has a form in JSON"), self.value, "{name}");
        assert_eq!(wire::encode(&read).expect("it can be encoded"), from_hex(&self.hex), "{name}");
        for form in self.former.iter().chain(&self.later) {
            let meaning = serde_json::to_value(self.read::<T>(form)).expect("it has a form in JSON");
            assert_eq!(meaning, self.value, "{name} as {form}");
        }
    }

    fn read<T: DeserializeOwned>(&self, hex: &str) -> T {
        wire::decode(&from_hex(hex)).unwrap_or_else(|error| panic!("{} as {hex}: {error}", self.message))
    }
}

/// Fails unless `T` is read and written as the vectors of `message` in `other_crates.json` say.
///
/// # Panics
/// When a vector fails ([`MessageVector::check`]), or there is none.
pub fn assert_vectors<T: Serialize + DeserializeOwned>(message: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/vectors").join(OTHER_CRATES);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let VectorFile { messages } = serde_json::from_str(&text).expect("the file has vectors");
    let of_message: Vec<_> = messages.iter().filter(|vector| vector.message == message).collect();
    assert!(!of_message.is_empty(), "{OTHER_CRATES} has no vector of {message}");
    of_message.into_iter().for_each(MessageVector::check::<T>);
}

/// The bytes of a text of hexadecimal digits.
///
/// # Panics
/// When it is not such a text.
#[must_use]
pub fn from_hex(hex: &str) -> Vec<u8> {
    assert_eq!(hex.len() % 2, 0, "{hex}");
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}
