//! When an event happened: a number since the epoch, RFC 3339, or a day.

use serde_json::Value;

use crate::event::Timestamp;

/// Numbers above this are milliseconds, since as seconds they would lie after the year 5138.
const LARGEST_SECONDS: f64 = 1e11;

/// Milliseconds of the last moment taken, the end of the year 9999.
const LAST: i64 = 253_402_300_799_999;

/// When an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// The moment; for a day its midnight, UTC.
    pub(super) ts: Timestamp,
    /// Whether only the day is known.
    pub(super) is_day: bool,
}

/// Reads a time, or says what is wrong with it.
pub(super) fn read(value: &Value) -> Result<Moment, String> {
    let (ts, is_day) = match value {
        Value::Number(number) => (epoch(number.as_f64().unwrap_or(f64::NAN)), false),
        Value::String(text) if is_date(text) => (midnight(text)?, true),
        Value::String(text) => (rfc3339(text)?, false),
        _ => return Err("expected seconds or milliseconds since the epoch, RFC 3339 or a date".to_owned()),
    };
    if !(0..=LAST).contains(&ts.0) {
        return Err("expected a time from 1970 to 9999".to_owned());
    }
    Ok(Moment { ts, is_day })
}

/// A float cast saturates, so that whatever is out of range stays out of range.
fn epoch(number: f64) -> Timestamp {
    let millis = if number > LARGEST_SECONDS { number } else { number * 1000.0 };
    Timestamp(if millis.is_nan() { i64::MIN } else { millis.round() as i64 })
}

fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| if matches!(i, 4 | 7) { b == b'-' } else { b.is_ascii_digit() })
}

fn midnight(text: &str) -> Result<Timestamp, String> {
    let date: jiff::civil::Date = text.parse().map_err(|e| format!("not a date: {e}"))?;
    let moment = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|e| format!("not a date: {e}"))?;
    Ok(Timestamp(moment.timestamp().as_millisecond()))
}

fn rfc3339(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|e| format!("not RFC 3339 with a zone, such as 2025-09-10T14:30:00Z: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ms(value: &Value) -> Option<i64> {
        read(value).ok().map(|moment| moment.ts.0)
    }

    #[test]
    fn numbers_are_seconds_up_to_1e11_and_milliseconds_above() {
        assert_eq!(ms(&json!(1757514600.12)), Some(1_757_514_600_120));
        assert_eq!(ms(&json!(1757514600)), Some(1_757_514_600_000));
        assert_eq!(ms(&json!(1757514600120i64)), Some(1_757_514_600_120));
        assert_eq!(ms(&json!(1e11)), Some(100_000_000_000_000));
        assert_eq!(ms(&json!(100_000_000_001i64)), Some(100_000_000_001));
        assert_eq!(ms(&json!(0)), Some(0));
        for refused in [json!(-1), json!(1.7e15), json!(1.7e308), json!(u64::MAX), json!(true), json!([])] {
            assert_eq!(ms(&refused), None, "{refused}");
        }
    }

    #[test]
    fn texts_are_rfc_3339_or_a_day() {
        assert_eq!(ms(&json!("2025-09-10T14:30:00.12Z")), Some(1_757_514_600_120));
        assert_eq!(ms(&json!("2025-09-10T10:30:00.12-04:00")), Some(1_757_514_600_120));
        assert_eq!(read(&json!("2025-09-10")), Ok(Moment { ts: Timestamp(1_757_462_400_000), is_day: true }));
        for refused in
            ["2025-09-10T14:30:00", "2025-02-30", "1969-12-31", "1757514600", "NaN", "", "today", "2025年09月10"]
        {
            assert_eq!(ms(&json!(refused)), None, "{refused}");
        }
    }
}
