//! How the values of flags are read that several commands take; what is wrong is told with what is allowed.

use serde_json::{Map, Value};
use tickwire_core::ids::{Confidence, UserId};

/// A number from 0 to 1.
pub(crate) fn confidence(text: &str) -> Result<Confidence, String> {
    let value = text.parse().ok().and_then(Confidence::new);
    value.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// A JSON object.
pub(crate) fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("must be a JSON object: {error}"))
}

/// A user's name.
pub(crate) fn user(text: &str) -> Result<UserId, String> {
    UserId::new(text).map_err(|error| error.to_string())
}
