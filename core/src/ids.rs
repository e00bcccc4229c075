//! Newtypes for names and numbers: parsed once, valid from then on.

use std::fmt;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// A partition of the events stream, `0..n`. The stream's subject transform derives it from kind and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition(pub u16);

/// A sequence number of the events stream. The stream counts from 1; 0 means "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// The revision of a gateway's interest, counted from 1 since its start; 0 means "nothing announced yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// How many epochs may begin, each by a loss, before a node sees one of them.
const LOSSES: u64 = 1_000;

/// The id of an [`Epoch`] of the events stream: the stream's creation time in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochId(pub u64);

impl EpochId {
    /// The largest valid id, the nanoseconds from 1970 to 2262. A message with a larger one is invalid; if it were
    /// accepted, no epoch could follow it.
    pub const LAST: Self = Self(i64::MAX as u64);

    /// The largest id that a node believes another node, unless it is near the one that it knows: the nanoseconds from
    /// 1970 to 2200. So there is always room for later epochs, whatever strangers state.
    const MOST_STATED: Self = Self(7_258_118_400_000_000_000);

    /// Whether a node that knows the epoch `known` believes another node that the stream has this one.
    #[must_use]
    pub fn is_plausible(self, known: Self) -> bool {
        self <= Self::LAST && self.0 <= Self::MOST_STATED.0.max(known.0.saturating_add(LOSSES))
    }
}

/// An epoch of the events stream. A new one begins when the stream is created again, and when the stream has lost
/// acknowledged messages and gives their sequences to other events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Its id. Later epochs have greater ids.
    pub epoch_id: EpochId,
    /// The last sequence of the epoch before; 0 if this epoch starts at the beginning.
    pub before: Seq,
}

impl Epoch {
    /// The sequence up to which messages of the epoch `earlier` still have the same sequence in this one. It is known
    /// only for the epoch just before this one; `None` for any other.
    #[must_use]
    pub fn common_through(&self, earlier: EpochId) -> Option<Seq> {
        (earlier.0.checked_add(1) == Some(self.epoch_id.0)).then_some(self.before)
    }
}

/// Milliseconds on a clock that the caller passes in. Pure code never reads a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment plus `ms` milliseconds.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this moment; 0 if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A random number that a node draws when it starts. A node that was restarted is another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nonce(pub u64);

macro_rules! display_inner {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}
display_inner!(
    Partition,
    Seq,
    Revision,
    EpochId,
    NodeId,
    UserId,
    Symbol,
    Pattern,
    Room,
    Sector,
    MarketKey,
    SecurityName
);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Why a text is not a valid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters.
    #[error("{what} must not be empty")]
    Empty {
        /// The type of name.
        what: &'static str,
    },
    /// It is longer than this type of name may be.
    #[error("{what} has {len} bytes, the limit is {max}")]
    TooLong {
        /// The type of name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest length allowed, in bytes.
        max: usize,
    },
    /// It has a character that this type of name may not have.
    #[error("{what} may hold only letters, digits, '-' and '_', not {found:?}")]
    BadCharacter {
        /// The type of name.
        what: &'static str,
        /// The first such character.
        found: char,
    },
}

fn bounded(what: &'static str, text: &str, max: usize) -> Result<CompactString, NameError> {
    match text.len() {
        0 => Err(NameError::Empty { what }),
        len if len > max => Err(NameError::TooLong { what, len, max }),
        _ => Ok(CompactString::from(text)),
    }
}

macro_rules! bounded_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "CompactString")]
        pub struct $name(CompactString);

        impl $name {
            /// The longest text that is accepted, in bytes.
            pub const MAX: usize = $max;

            /// Takes a text of 1 to [`Self::MAX`] bytes.
            ///
            /// # Errors
            /// [`NameError`] if it is empty or longer.
            pub fn new(text: &str) -> Result<Self, NameError> {
                bounded($what, text, $max).map(Self)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<CompactString> for $name {
            type Error = NameError;

            fn try_from(text: CompactString) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }
    };
}

bounded_name!(
    /// A user: the `sub` of the token.
    UserId, "user id", 128
);
bounded_name!(
    /// A traded symbol, compared as written: `AAPL`, `BRK.B`, `^GSPC`.
    Symbol, "symbol", 32
);
bounded_name!(
    /// The name of a chart pattern, compared as written: `BreakoutBO`.
    Pattern, "pattern", 64
);
bounded_name!(
    /// A room that events are sent to, compared as written.
    Room, "room", 128
);
bounded_name!(
    /// A part of the economy, as the reference data and `market` events name it: `Technology`.
    Sector, "sector", 64
);
bounded_name!(
    /// The key of the `market` events of one market: `US`.
    MarketKey, "market", 64
);
bounded_name!(
    /// The name of a security for people: `Apple Inc.`.
    SecurityName, "name", 128
);

/// A node's name. It is one token of NATS subjects, hence its small alphabet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "CompactString")]
pub struct NodeId(CompactString);

impl NodeId {
    /// The longest name that is accepted, in bytes.
    pub const MAX: usize = 64;

    /// Takes 1 to 64 letters, digits, `-` or `_`.
    ///
    /// # Errors
    /// [`NameError`] with the problem.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let name = bounded("node id", text, Self::MAX)?;
        match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
            Some(found) => Err(NameError::BadCharacter { what: "node id", found }),
            None => Ok(Self(name)),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<CompactString> for NodeId {
    type Error = NameError;

    fn try_from(text: CompactString) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

/// One process of a node: its name and its nonce.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeRef {
    /// Its name.
    pub id: NodeId,
    /// The random number drawn at its start.
    pub nonce: Nonce,
}

impl fmt::Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.nonce)
    }
}

/// A confidence: a finite number from 0 to 1, compared unrounded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Confidence(f64);

impl Confidence {
    /// Takes a number from 0 to 1; `None` for anything else, including NaN.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        // Adding zero turns -0.0 into 0.0, so that equal confidences have equal order and hash.
        (0.0..=1.0).contains(&value).then_some(Self(value + 0.0))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Eq for Confidence {}

impl PartialOrd for Confidence {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Confidence {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl std::hash::Hash for Confidence {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl TryFrom<f64> for Confidence {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        Self::new(value).ok_or("a confidence is a number from 0 to 1")
    }
}

impl From<Confidence> for f64 {
    fn from(confidence: Confidence) -> Self {
        confidence.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_after_which_hardly_one_could_follow_is_not_plausible() {
        let is_plausible = |epoch_id: u64, known: u64| EpochId(epoch_id).is_plausible(EpochId(known));
        let (created, most) = (1_764_244_800_000_000_000, EpochId::MOST_STATED.0);
        // A wrong clock may have created a former stream decades from now.
        assert!(is_plausible(created, 0) && is_plausible(4_000_000_000_000_000_000, created));
        assert!(is_plausible(most, created) && !is_plausible(most + 1, created));
        assert!(!is_plausible(EpochId::LAST.0, created) && !is_plausible(u64::MAX, u64::MAX));
        assert!(is_plausible(most + 1, most) && !is_plausible(most + LOSSES + 1, most), "others may follow");
    }
}
