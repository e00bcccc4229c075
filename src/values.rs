//! Parsers for the values of flags that several commands take. An error names the allowed values.

use jiff::fmt::friendly::SpanParser;
use serde_json::{Map, Number, Value};
use std::ops::RangeInclusive;
use std::time::Duration;
use tickwire_core::event::object;
use tickwire_core::ids::{Confidence, UserId};
use tickwire_core::protocol::since::Since;

/// A duration with its unit, within these limits. Errors have them as `limits`, or values of the flag as `examples`.
pub(crate) fn duration(
    text: &str,
    allowed: &RangeInclusive<Duration>,
    limits: &str,
    examples: &str,
) -> Result<Duration, String> {
    match SpanParser::new().parse_unsigned_duration(text) {
        Ok(time) if allowed.contains(&time) => Ok(time),
        Ok(_) => Err(format!("must be {limits}")),
        Err(_) => Err(format!("must be a duration with its unit, such as {examples}")),
    }
}

/// A number from 0 to 1.
pub(crate) fn confidence(text: &str) -> Result<Confidence, String> {
    let value = text.parse().ok().and_then(Confidence::new);
    value.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// A JSON object.
pub(crate) fn object(text: &str) -> Result<Map<String, Value>, String> {
    object::from_json(text.as_bytes()).map_err(|error| format!("must be a JSON object: {error}"))
}

/// The start of a backfill. A number counts from 1970, as in JSON.
pub(crate) fn since(text: &str) -> Result<Since, String> {
    let since = match text.parse::<Number>() {
        Ok(number) => Since::read(&Value::Number(number)),
        // JSON has no such number.
        Err(_) if text.parse::<f64>().is_ok() => return Err("must be a time from 1970 to 9999".to_owned()),
        Err(_) => text.parse(),
    };
    since.map_err(|error| error.to_string())
}

/// The address of a gateway. The client checks the rest of it.
pub(crate) fn gateway_url(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some(("ws" | "wss", _)) => Ok(text.to_owned()),
        _ => Err("must begin with ws:// or wss://, such as ws://127.0.0.1:8080/v1/stream".to_owned()),
    }
}

/// A user's name.
pub(crate) fn user(text: &str) -> Result<UserId, String> {
    UserId::new(text).map_err(|error| error.to_string())
}
