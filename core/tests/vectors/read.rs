//! Reads the vectors.

use std::path::Path;

use serde::de::DeserializeOwned;
use tickwire_core::event::{Kind, KindAudience, Kinds};

pub(crate) use tickwire_testkit::from_hex;

pub(crate) fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn vectors<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&file(&format!("tests/vectors/{name}"))).unwrap()
}

/// The kinds of the cluster in the vectors.
pub(crate) fn kinds() -> Kinds {
    Kinds::new([(Kind::from("news"), KindAudience::Public), (Kind::from("note"), KindAudience::User)])
}
