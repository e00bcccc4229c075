//! Parsers for the values of flags that several commands take. An error names the allowed values.

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;
use serde_json::{Map, Number, Value};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use tickwire_core::event::object;
use tickwire_core::ids::{Confidence, UserId};
use tickwire_core::protocol::since::Since;

/// The years 2000 to 2099, in milliseconds since 1970.
const USUAL_TIMES: Range<i64> = 946_684_800_000..4_102_444_800_000;

/// A duration with its unit, within these limits; a day has 24 hours. Errors have the limits as `limits`, or values of
/// the flag as `examples`.
pub(crate) fn duration(
    text: &str,
    allowed: &RangeInclusive<Duration>,
    limits: &str,
    examples: &str,
) -> Result<Duration, String> {
    let parser = SpanParser::new();
    // A duration has no days for the parser: only a span has them.
    let with_days = || {
        let time = parser.parse_span(text).ok()?.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
        Duration::try_from(time).ok()
    };
    match parser.parse_unsigned_duration(text).ok().or_else(with_days) {
        Some(time) if allowed.contains(&time) => Ok(time),
        Some(_) => Err(format!("must be {limits}")),
        None => Err(format!("must be a duration with its unit, such as {examples}")),
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

/// The start of a backfill. A number counts from 1970, as in JSON. One that is in no usual year is refused: `5` is
/// probably meant as a length of time, and `20261123` as a day.
pub(crate) fn since(text: &str) -> Result<Since, String> {
    if text.parse::<f64>().is_err() {
        return text.parse::<Since>().map_err(|error| error.to_string());
    }
    let number = text.parse::<Number>().ok();
    let problem = match number.and_then(|number| Since::read(&Value::Number(number)).ok()) {
        Some(Since::Time(time)) if USUAL_TIMES.contains(&time.0) => return Ok(Since::Time(time)),
        Some(read) => format!("a number counts from 1970, so this would be {read}"),
        None => "a number counts from 1970, and this is no time from then to 9999".to_owned(),
    };
    Err(format!(
        "{problem}; write a length of time with its unit, such as 90s, 5m, 1h or 1d, a day as 2026-11-23, or a time as \
         2026-11-23T14:30:00Z"
    ))
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
