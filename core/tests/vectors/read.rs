//! Reads the vectors.

use std::path::Path;

use serde::de::DeserializeOwned;
use tickwire_core::event::{Kind, KindAudience, Kinds};

pub(crate) fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn vectors<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&file(&format!("tests/vectors/{name}"))).unwrap()
}

pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    assert_eq!(hex.len() % 2, 0, "{hex}");
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// The kinds of the cluster in the vectors.
pub(crate) fn kinds() -> Kinds {
    Kinds::new([(Kind::from("news"), KindAudience::Public), (Kind::from("note"), KindAudience::User)])
}
