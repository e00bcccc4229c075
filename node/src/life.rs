//! Which life of the stream of events its sequences belong to. Every claim, floor and position names it.
//!
//! A stream that was deleted and made anew has another creation time. One that has lost what it had acknowledged (a disk
//! that was not written to, an older backup) has not, and gives the same sequences again to other events. A router that
//! notices begins another life, at the stream's end, and notes it in the stream's metadata: when that was, and after
//! which sequence.

use async_nats::jetstream::stream::Info;
use tickwire_core::ids::{Incarnation, Seq};

/// The key of the stream's metadata under which its present life is noted, unless it is the first.
pub const METADATA: &str = "tickwire.life";

/// A life of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it began, in nanoseconds since 1970. Later ones are greater.
    pub incarnation: Incarnation,
    /// The last sequence of the life before.
    pub before: Seq,
}

impl Life {
    /// The present one.
    #[must_use]
    pub fn of(info: &Info) -> Self {
        let created = u64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default();
        let first = Self { incarnation: Incarnation(created), before: Seq(0) };
        let noted = info.config.metadata.get(METADATA).and_then(|noted| Self::parse(noted));
        noted.filter(|noted| noted.incarnation > first.incarnation).unwrap_or(first)
    }

    /// The form in the metadata.
    #[must_use]
    pub fn noted(&self) -> String {
        format!("{}@{}", self.incarnation.0, self.before.0)
    }

    fn parse(text: &str) -> Option<Self> {
        let (incarnation, before) = text.split_once('@')?;
        Some(Self { incarnation: Incarnation(incarnation.parse().ok()?), before: Seq(before.parse().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_all_else_is_not() {
        let life = Life { incarnation: Incarnation(1_764_000_000_000_000_001), before: Seq(7) };
        assert_eq!(Life::parse(&life.noted()), Some(life));
        for other in ["", "@", "1", "1@", "@1", "1@2@3", "-1@2", "x@y"] {
            assert_eq!(Life::parse(other), None, "{other}");
        }
    }
}
