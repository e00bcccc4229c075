//! Why a message is a dead letter: a stable name for machines and a sentence for people.

use std::fmt;

use crate::hint::bounded;

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// Why a message is a dead letter. The names are stable: dead letters and metrics carry them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])+ $variant),+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

reasons! {
    /// The subject is not `events.<kind>.<key>` with exactly one token each, or is not UTF-8, or is that of a partition
    /// heartbeat but the message is not empty.
    BadSubject = "bad_subject",
    /// The header block breaks the rules of NATS, or has a status, which only servers may send.
    BadHeaders = "bad_headers",
    /// The kind is neither built in nor configured, or is not written in lower case.
    UnknownKind = "unknown_kind",
    /// The key is not encoded correctly, or is not a valid symbol or user where its kind needs one.
    BadKey = "bad_key",
    /// The payload is over [`MAX_PAYLOAD`](super::MAX_PAYLOAD), or the event is over [`MAX_EVENT`](super::MAX_EVENT).
    TooLarge = "too_large",
    /// The payload is not one JSON object, or an object in it has a name twice.
    BadJson = "bad_json",
    /// The payload is not one MessagePack map of values that JSON has (or timestamps), or a map in it has a name twice.
    BadMsgPack = "bad_msgpack",
    /// The payload is not of a producer: it is an acknowledgement or another answer of NATS, which somebody has directed
    /// to the subject of an event.
    NatsAnswer = "nats_answer",
    /// The symbol of a pattern is not the subject's key.
    SymbolMismatch = "symbol_mismatch",
    /// The symbol of another kind is not text of 1 to 32 bytes.
    BadSymbol = "bad_symbol",
    /// An event of kind `pattern` has no pattern, or the pattern is not text of 1 to 64 bytes.
    MissingPattern = "missing_pattern",
    /// The pattern of another kind is not text of 1 to 64 bytes.
    BadPattern = "bad_pattern",
    /// The tier is not one of daily, intraday, combo.
    BadTier = "bad_tier",
    /// The confidence is not a number from 0 to 1.
    BadConfidence = "bad_confidence",
    /// The time is not a number since 1970 in one of four units, RFC 3339 or a day, or is not from 1970 to 9999.
    BadTimestamp = "bad_timestamp",
    /// The priority is not one of low, medium, high, critical.
    BadPriority = "bad_priority",
    /// The tags are not a list of texts that are not empty.
    BadTags = "bad_tags",
    /// The rooms are not a list of at most [`MAX_ROOMS`](super::MAX_ROOMS) texts of 1 to 128 bytes.
    BadRooms = "bad_rooms",
    /// The regime of a market event is not one of bull, bear, neutral, consolidation.
    BadRegime = "bad_regime",
    /// Another field of a market event (`risk_on_score`, `volatility_regime`, `etf_performance`, `sector_strength`) is
    /// out of its range.
    BadMarket = "bad_market",
    /// The status of a health report is not one of healthy, warning, error.
    BadStatus = "bad_status",
    /// Another field of a health report (`service`, `message`, `metrics`, `error_counts`) has the wrong type.
    BadHealth = "bad_health",
    /// Decoding failed unexpectedly: a bug of tickwire.
    Unreadable = "unreadable",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why one message is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Undecodable {
    /// The stable name.
    pub reason: Reason,
    /// What was wrong, where, and what would be right.
    pub detail: String,
}

impl Undecodable {
    /// Shortens `detail`: it may quote a sender's text of any length.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: bounded(detail.into()) }
    }
}
