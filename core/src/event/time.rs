//! Times as producers and clients write them: RFC 3339, a day, a number since 1970, or a MessagePack timestamp. All
//! forms have the same range: from the beginning of 1970 to the end of the year 9999.
//!
//! The size of a number gives its unit: seconds if that lies before the year 10000, else milliseconds, microseconds or
//! nanoseconds by the same test. Fractions of a millisecond are cut off.

use std::borrow::Cow;

use jiff::SignedDuration;
use jiff::civil::{DateTime, Time};
use jiff::fmt::temporal::Pieces;
use serde_json::{Number, Value};

use crate::event::Timestamp;
use crate::hint::type_of;

/// The beginning of the year 10000, in seconds since 1970.
const END: i64 = 253_402_300_800;

/// The last moment that is accepted, in milliseconds since 1970.
pub(crate) const LAST: i64 = END * 1_000 - 1;

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

const SECONDS_A_DAY: i64 = 86_400;

/// The longest text that can be a time, in bytes.
const MAX_TEXT: usize = 64;

/// The units of numbers, each with its number per second.
const UNITS: [(&str, u64); 4] =
    [("seconds", 1), ("milliseconds", 1_000), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000)];

/// A parsed time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The moment; for a day its midnight in UTC.
    pub(crate) ts: Timestamp,
    /// Whether the text was a day without a time.
    pub(crate) is_day: bool,
}

/// Why a value is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{problem}; expected RFC 3339 with a zone (2025-09-10T14:30:00Z), a day (2025-09-10), or a number of seconds, \
     milliseconds, microseconds or nanoseconds since 1970, all from 1970 to 9999"
)]
pub struct TimeError {
    /// What is wrong with it.
    pub problem: TimeProblem,
}

/// What is wrong with a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeProblem {
    /// It does not look like a time.
    #[error("not a time")]
    Unknown,
    /// It is neither text nor a number.
    #[error("found {0}")]
    WrongType(&'static str),
    /// It is a number in quotes.
    #[error("a number in quotes; send it without them")]
    QuotedNumber,
    /// It has no time zone.
    #[error("no time zone; end it with Z or an offset such as -04:00")]
    NoZone,
    /// It is written as a time, but that day, hour, minute or second does not exist.
    #[error("no such day or hour")]
    NotInCalendar,
    /// It has a second 60 that is not the last second of a day (UTC).
    #[error("a second 60 stands at the end of a day alone (23:59:60 UTC)")]
    NoLeapSecond,
    /// It lies before 1970.
    #[error("before 1970")]
    Early,
    /// It lies after the year 9999.
    #[error("after 9999")]
    Late,
    /// It is a number below zero.
    #[error("before 1970, read as {0}")]
    Negative(&'static str),
    /// It is a number that lies after the year 9999 in every unit.
    #[error("after 9999, even read as nanoseconds")]
    TooLarge,
}

impl From<TimeProblem> for TimeError {
    fn from(problem: TimeProblem) -> Self {
        Self { problem }
    }
}

/// Reads a time.
pub(crate) fn read(value: &Value) -> Result<Moment, TimeError> {
    match value {
        Value::Number(number) => Ok(Moment { ts: Timestamp(since_1970(number)?), is_day: false }),
        Value::String(text) => from_text(text),
        other => Err(TimeProblem::WrongType(type_of(other)).into()),
    }
}

/// Reads a time written as text.
pub(crate) fn from_text(text: &str) -> Result<Moment, TimeError> {
    let problem =
        if text.len() > MAX_TEXT || !text.is_ascii() { Some(TimeProblem::Unknown) } else { common_mistake(text) };
    if let Some(problem) = problem {
        return Err(problem.into());
    }
    let written = cut_fraction(text);
    let Ok(pieces) = Pieces::parse(&*written) else {
        let problem = if is_nonexistent_date_or_time(text) { TimeProblem::NotInCalendar } else { TimeProblem::Unknown };
        return Err(problem.into());
    };
    let (moment, is_day) = match (pieces.time(), pieces.to_numeric_offset()) {
        (None, None) if is_date(Some(text)) => (pieces.date().to_datetime(Time::midnight()), true),
        (None, _) => return Err(TimeProblem::Unknown.into()),
        (Some(_), None) => return Err(TimeProblem::NoZone.into()),
        (Some(time), Some(_)) => (pieces.date().to_datetime(time), false),
    };
    let offset = pieces.to_numeric_offset().map_or(0, |offset| i64::from(offset.seconds()));
    let millis = moment.duration_since(EPOCH).as_nanos().div_euclid(1_000_000);
    let millis = i64::try_from(millis).map_err(|_| TimeProblem::Late)? - offset * 1_000;
    match millis {
        ..0 => Err(TimeProblem::Early.into()),
        0..=LAST if has_second_60(text) && !is_last_second_of_a_day(millis) => Err(TimeProblem::NoLeapSecond.into()),
        0..=LAST => Ok(Moment { ts: Timestamp(millis), is_day }),
        _ => Err(TimeProblem::Late.into()),
    }
}

/// Finds common mistakes that deserve a better error than "not a time".
fn common_mistake(text: &str) -> Option<TimeProblem> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest.starts_with(|c: char| c.is_ascii_digit()) && rest.parse::<f64>().is_ok() {
        return Some(TimeProblem::QuotedNumber);
    }
    // A year of more than four digits, followed by the month.
    let year = rest.split_once('-').map(|(year, _)| year).filter(|year| year.bytes().all(|b| b.is_ascii_digit()))?;
    match year.trim_start_matches('0').len() {
        _ if sign < 0 && year.len() >= 4 => Some(TimeProblem::Early),
        5.. => Some(TimeProblem::Late),
        _ => None,
    }
}

fn is_date(text: Option<&str>) -> bool {
    let digit_or_dash = |(i, b): (usize, u8)| if matches!(i, 4 | 7) { b == b'-' } else { b.is_ascii_digit() };
    text.is_some_and(|text| text.len() == 10 && text.bytes().enumerate().all(digit_or_dash))
}

/// Cuts the fraction to 9 digits, the most that the library reads. RFC 3339 sets no limit.
fn cut_fraction(text: &str) -> Cow<'_, str> {
    let Some((whole, rest)) = text.split_once(['.', ',']) else { return Cow::Borrowed(text) };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    match digits {
        ..=9 => Cow::Borrowed(text),
        _ => Cow::Owned(format!("{whole}.{}{}", &rest[..9], &rest[digits..])),
    }
}

/// Whether `text`, which is not a time, is written like one but has a day, hour, minute or second that does not exist.
fn is_nonexistent_date_or_time(text: &str) -> bool {
    if !is_date(text.get(..10)) {
        return false;
    }
    let exceeds = |place: std::ops::Range<usize>, most: u8| {
        text.get(place).and_then(|digits| digits.parse::<u8>().ok()).is_some_and(|number| number > most)
    };
    let is_timed = matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' '));
    Pieces::parse(&text[..10]).is_err()
        || is_timed && (exceeds(11..13, 23) || exceeds(14..16, 59) || exceeds(17..19, 60))
}

/// Whether the time of day in `text`, a valid time, has the second 60. The library has read it as 59.
fn has_second_60(text: &str) -> bool {
    let Some((_, time)) = text.split_once(['T', 't', ' ']) else { return false };
    let end = time.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(time.len());
    let digits = time[..end].bytes().filter(u8::is_ascii_digit);
    digits.skip(4).eq(*b"60")
}

fn is_last_second_of_a_day(millis: i64) -> bool {
    millis.div_euclid(1_000).rem_euclid(SECONDS_A_DAY) == SECONDS_A_DAY - 1
}

/// Converts a number in any of the units to milliseconds since 1970.
fn since_1970(number: &Number) -> Result<i64, TimeError> {
    if let Some(whole) = number.as_u64() {
        let fits = |per_second: u64| u128::from(whole) < END as u128 * u128::from(per_second);
        let (_, per_second) = UNITS.into_iter().find(|(_, unit)| fits(*unit)).ok_or(TimeProblem::TooLarge)?;
        let millis = u128::from(whole) * 1_000 / u128::from(per_second);
        return Ok(i64::try_from(millis).map_err(|_| TimeProblem::TooLarge)?);
    }
    let float = number.as_f64().unwrap_or(f64::NAN);
    let fits = |per_second: u64| float.abs() < END as f64 * per_second as f64;
    let (unit, per_second) = UNITS.into_iter().find(|(_, unit)| fits(*unit)).ok_or(TimeProblem::TooLarge)?;
    if float < 0.0 {
        return Err(TimeProblem::Negative(unit).into());
    }
    let millis = if per_second == 1 { float * 1_000.0 } else { float / (per_second / 1_000) as f64 };
    Ok((cut(millis) as i64).min(LAST))
}

/// Rounds down. A number that is below a whole number only by the rounding error of floats counts as that whole number.
fn cut(millis: f64) -> f64 {
    let nearest = millis.round();
    if (millis - nearest).abs() <= nearest * 2.0 * f64::EPSILON { nearest } else { millis.floor() }
}

/// The date and time in UTC of milliseconds since 1970.
pub(crate) fn civil(millis: i64) -> Option<DateTime> {
    EPOCH.checked_add(SignedDuration::from_millis(millis)).ok()
}

/// A MessagePack timestamp extension as RFC 3339 text. A time outside the years -9999 to 9999 becomes a text that
/// [`from_text`] refuses as too early or too late.
///
/// Its three forms: <https://github.com/msgpack/msgpack/blob/master/spec.md#timestamp-extension-type>.
pub(crate) fn from_extension(bytes: &[u8]) -> Result<String, String> {
    let (seconds, nanos) = if let Ok(seconds) = <[u8; 4]>::try_from(bytes) {
        (i64::from(u32::from_be_bytes(seconds)), 0)
    } else if let Ok(both) = <[u8; 8]>::try_from(bytes) {
        let both = u64::from_be_bytes(both);
        ((both & 0x3_ffff_ffff) as i64, (both >> 34) as u32)
    } else if let Some((nanos, Ok(seconds))) =
        bytes.split_first_chunk::<4>().map(|(nanos, seconds)| (nanos, <[u8; 8]>::try_from(seconds)))
    {
        (i64::from_be_bytes(seconds), u32::from_be_bytes(*nanos))
    } else {
        return Err(format!("a timestamp extension has 4, 8 or 12 bytes, not {}", bytes.len()));
    };
    if nanos > 999_999_999 {
        return Err(format!("a timestamp extension has up to 999999999 nanoseconds, not {nanos}"));
    }
    Ok(match EPOCH.checked_add(SignedDuration::new(seconds, nanos as i32)) {
        Ok(moment) => format!("{moment}Z"),
        Err(_) if seconds < 0 => "-010000-12-31T23:59:59Z or before".to_owned(),
        Err(_) => "10000-01-01T00:00:00Z or after".to_owned(),
    })
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
