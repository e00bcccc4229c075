//! The start of a subscription's backfill: a position, a time, or how long ago.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use crate::event::time;
use crate::event::{TimeError, TimeProblem, Timestamp};
use crate::protocol::position::{Position, PositionError};

/// The units of durations, each in seconds.
const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];

/// The start of a backfill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Events stored after a position.
    Position(Position),
    /// Events stored since this long ago, in whole seconds.
    Ago(Duration),
    /// Events stored since this time.
    Time(Timestamp),
}

/// Why a text is not a valid start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinceError {
    /// It has none of the known forms.
    #[error(
        "expected a position, a time like 2026-11-23T14:30:00Z, a day like 2026-11-23, or a duration like 90s, 5m, 1h \
         or 1d"
    )]
    Unknown,
    /// It is an invalid time.
    #[error(transparent)]
    Time(TimeError),
    /// It is a position with an unknown layout or too many partitions.
    #[error(transparent)]
    Position(PositionError),
}

impl Since {
    /// Reads a text, or a number since 1970 like the times of events.
    ///
    /// # Errors
    /// [`SinceError`] if it has none of the forms.
    pub fn read(value: &Value) -> Result<Self, SinceError> {
        match value {
            Value::String(text) => text.parse(),
            other => time::read(other).map(|moment| Self::Time(moment.ts)).map_err(SinceError::Time),
        }
    }
}

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        if let Some(ago) = ago(text) {
            return Ok(Self::Ago(ago));
        }
        match text.parse::<Timestamp>() {
            Ok(time) => return Ok(Self::Time(time)),
            // A text that looks like a time is not tried as a position.
            Err(error) if error.problem != TimeProblem::Unknown => {
                return Err(SinceError::Time(error));
            }
            Err(_) => {}
        }
        match text.parse() {
            Ok(position) => Ok(Self::Position(position)),
            Err(PositionError::Malformed) => Err(SinceError::Unknown),
            Err(error) => Err(SinceError::Position(error)),
        }
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Ago(ago) => write!(f, "{}s", ago.as_secs()),
            Self::Time(time) => time.fmt(f),
        }
    }
}

/// A duration: digits and a unit.
fn ago(text: &str) -> Option<Duration> {
    let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let digits = text.strip_suffix(unit)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{EpochId, Seq};

    #[test]
    fn each_form_is_read_and_written() {
        let position = Position { epoch_id: EpochId(7), seqs: vec![Seq(10), Seq(300)] };
        let cases = [
            ("90s", Since::Ago(Duration::from_secs(90)), "90s"),
            ("5m", Since::Ago(Duration::from_secs(300)), "300s"),
            ("1d", Since::Ago(Duration::from_secs(86_400)), "86400s"),
            ("0h", Since::Ago(Duration::ZERO), "0s"),
            ("2026-11-23T14:30:00Z", Since::Time(Timestamp(1_795_444_200_000)), "2026-11-23T14:30:00.000Z"),
            ("2026-11-23 14:30:00,5Z", Since::Time(Timestamp(1_795_444_200_500)), "2026-11-23T14:30:00.500Z"),
            ("2026-11-23", Since::Time(Timestamp(1_795_392_000_000)), "2026-11-23T00:00:00.000Z"),
        ];
        for (text, since, written) in cases {
            assert_eq!(text.parse(), Ok(since.clone()), "{text}");
            assert_eq!(since.to_string(), written);
        }
        assert_eq!(position.to_string().parse(), Ok(Since::Position(position)));
    }

    #[test]
    fn other_texts_are_refused_with_their_problem() {
        let large = ["99999999999999999999d", "18446744073709551615d"];
        let words = ["5min", "5mins", "300sec", "1hour", "yesterday", "five-minutes-ago", "a-position"];
        for text in ["", "m", "-5m", "5 m", "1.5h"].into_iter().chain(large).chain(words) {
            assert_eq!(text.parse::<Since>(), Err(SinceError::Unknown), "{text}");
        }
        for (text, problem) in [
            ("5", TimeProblem::QuotedNumber),
            ("1757514600", TimeProblem::QuotedNumber),
            ("2026-11-23T14:30:00", TimeProblem::NoZone),
            ("2026-02-30", TimeProblem::NotInCalendar),
        ] {
            assert_eq!(text.parse::<Since>(), Err(SinceError::Time(problem.into())), "{text}");
        }
        let of_later_build = "AgAAAAAAAAAHAgEA";
        let error = Since::from_str(of_later_build).unwrap_err();
        assert_eq!(error, SinceError::Position(PositionError::Layout { found: 2 }));
        let of_many = Position { epoch_id: EpochId(7), seqs: vec![Seq(0); 49_000] }.to_string();
        let error = Since::from_str(&of_many).unwrap_err();
        assert_eq!(error, SinceError::Position(PositionError::Partitions { found: 49_000 }));
    }
}
