//! A decoded event: the one shape that routers match, gateways deliver and clients see.

mod alert;
pub mod calendar;
pub mod context;
pub mod decode;
pub mod handling;
pub mod key;
pub mod object;
pub mod summary;
pub(crate) mod time;

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use crate::hint::clipped;
use crate::ids::{Confidence, Pattern, Room, Symbol, UserId};

pub use crate::event::context::EventContext;
pub use crate::event::handling::{Handling, Strategy};
pub use crate::event::time::{TimeError, TimeProblem};

/// A text that is no value of an enumeration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not one of {allowed}")]
pub struct UnknownValue {
    /// The text as received, or its beginning if it is long.
    pub found: String,
    /// The values that are accepted, for people.
    pub allowed: &'static str,
}

macro_rules! enumeration {
    ($(#[$doc:meta])* $name:ident, $allowed:literal, {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal $(| $alias:literal)*),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in every wire format.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl FromStr for $name {
            type Err = UnknownValue;

            /// Reads a name in any case.
            fn from_str(text: &str) -> Result<Self, UnknownValue> {
                $(if text.eq_ignore_ascii_case($text) $(|| text.eq_ignore_ascii_case($alias))* {
                    return Ok(Self::$variant);
                })+
                Err(UnknownValue { found: clipped(text), allowed: $allowed })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

enumeration!(
    /// The length of the bars in which a pattern was found.
    Tier, "daily, intraday, combo", {
        /// Daily bars.
        Daily = "daily",
        /// Bars within a trading day.
        Intraday = "intraday",
        /// Several detections that agree.
        Combo = "combo",
    }
);

enumeration!(
    /// How urgent an event is, lowest first.
    Priority, "low, medium, high, critical", {
        /// Confidence below 0.6, or none.
        Low = "low",
        /// Confidence from 0.6.
        Medium = "medium",
        /// Confidence from 0.8.
        High = "high",
        /// Confidence from 0.9.
        Critical = "critical",
    }
);

enumeration!(
    /// The state of the market.
    Regime, "bull, bear, neutral, consolidation", {
        /// Rising.
        Bull = "bull" | "bullish",
        /// Falling.
        Bear = "bear" | "bearish",
        /// Neither.
        Neutral = "neutral",
        /// Moving within a range.
        Consolidation = "consolidation",
    }
);

enumeration!(
    /// How much the market moves.
    Volatility, "low, normal, high", {
        /// Less than usual.
        Low = "low",
        /// As usual.
        Normal = "normal",
        /// More than usual.
        High = "high",
    }
);

enumeration!(
    /// The part of the New York trading day in which an event happened.
    TradingSession, "premarket, regular, afterhours, closed", {
        /// 04:00 to 09:30.
        PreMarket = "premarket",
        /// 09:30 to 16:00, on half days to 13:00.
        Regular = "regular",
        /// 16:00 to 20:00, on half days 13:00 to 17:00.
        AfterHours = "afterhours",
        /// Nights, weekends and holidays.
        Closed = "closed",
    }
);

impl Priority {
    /// The default priority: confidence ≥ 0.9 critical, ≥ 0.8 high, ≥ 0.6 medium, else low.
    #[must_use]
    pub fn from_confidence(confidence: Option<Confidence>) -> Self {
        match confidence.map_or(0.0, Confidence::get) {
            c if c >= 0.9 => Self::Critical,
            c if c >= 0.8 => Self::High,
            c if c >= 0.6 => Self::Medium,
            _ => Self::Low,
        }
    }
}

/// What an event is about: the second token of its subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "CompactString", into = "CompactString")]
pub enum Kind {
    /// A chart pattern found on a symbol.
    Pattern,
    /// A change of the market's state.
    Market,
    /// A report of a service about itself.
    Health,
    /// An alert to one user.
    Alert,
    /// The result of a user's backtest.
    Backtest,
    /// A kind that the configuration adds, in lower case.
    Other(CompactString),
}

impl Kind {
    /// The kinds that every cluster knows.
    pub const BUILT_IN: [Self; 5] = [Self::Pattern, Self::Market, Self::Health, Self::Alert, Self::Backtest];

    /// The name, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pattern => "pattern",
            Self::Market => "market",
            Self::Health => "health",
            Self::Alert => "alert",
            Self::Backtest => "backtest",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for Kind {
    fn from(text: &str) -> Self {
        Self::BUILT_IN
            .into_iter()
            .find(|kind| text.eq_ignore_ascii_case(kind.as_str()))
            .unwrap_or_else(|| Self::Other(CompactString::from(text.to_ascii_lowercase())))
    }
}

impl From<CompactString> for Kind {
    fn from(text: CompactString) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Kind> for CompactString {
    fn from(kind: Kind) -> Self {
        Self::from(kind.as_str())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The users who may see the events of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KindAudience {
    /// Everyone.
    Public,
    /// Only the user whose id is the event's key.
    User,
}

/// The users who may see one event. It follows from the subject and the configuration; no filter widens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audience {
    /// Everyone whose filter it passes.
    Public,
    /// This user alone.
    User(UserId),
}

impl Audience {
    /// Whether `user` may see the event.
    #[must_use]
    pub fn admits(&self, user: &UserId) -> bool {
        match self {
            Self::Public => true,
            Self::User(addressee) => addressee == user,
        }
    }
}

/// The kinds that this cluster accepts, each with its audience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds(std::collections::BTreeMap<Kind, KindAudience>);

impl Kinds {
    /// The built-in kinds and those that the configuration adds. A built-in kind keeps its audience.
    pub fn new(added: impl IntoIterator<Item = (Kind, KindAudience)>) -> Self {
        let mut kinds: std::collections::BTreeMap<_, _> = added.into_iter().collect();
        for kind in Kind::BUILT_IN {
            let audience = match kind {
                Kind::Alert | Kind::Backtest => KindAudience::User,
                _ => KindAudience::Public,
            };
            kinds.insert(kind, audience);
        }
        Self(kinds)
    }

    /// The audience of `kind`; `None` if this cluster does not accept it.
    #[must_use]
    pub fn audience(&self, kind: &Kind) -> Option<KindAudience> {
        self.0.get(kind).copied()
    }

    /// Every accepted kind, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.keys()
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Self::new([])
    }
}

/// A moment, in milliseconds since the epoch (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC with milliseconds. A moment outside the calendar is written as the nearest moment in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(moment) = jiff::Timestamp::from_millisecond(self.0) {
            return write!(f, "{moment:.3}");
        }
        // The range of the library's instants is some hours shorter than that of its calendar.
        let nearest = if self.0 < 0 { DateTime::MIN } else { DateTime::MAX };
        write!(f, "{:.3}Z", time::civil(self.0).unwrap_or(nearest))
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;

    /// Reads RFC 3339 with a zone, or a day (its midnight in UTC). Fractions of a millisecond are cut off.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        time::from_text(text).map(|moment| moment.ts)
    }
}

/// One market event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What it is about.
    pub kind: Kind,
    /// The decoded key of its subject: a symbol, a market, a service or a user id. Order is kept per kind and key.
    pub key: CompactString,
    /// The users who may see it.
    pub audience: Audience,
    /// The producer's id, else `Nats-Msg-Id`, else `<stream>:<sequence>`.
    pub id: CompactString,
    /// When it happened.
    pub ts: Timestamp,
    /// When the stream stored it.
    pub stored: Timestamp,
    /// The part of the trading day of `ts`; `None` if `ts` is a day without a time.
    pub session: Option<TradingSession>,
    /// The symbol, if any.
    pub symbol: Option<Symbol>,
    /// The pattern that was found, if any.
    pub pattern: Option<Pattern>,
    /// The length of the bars, if it is about bars.
    pub tier: Option<Tier>,
    /// The producer's confidence, if it sent one.
    pub confidence: Option<Confidence>,
    /// How urgent it is.
    pub priority: Priority,
    /// The market's state, if it is about that.
    pub regime: Option<Regime>,
    /// Labels, sorted, without duplicates. Filters search in them by halves.
    pub tags: Vec<CompactString>,
    /// Everything else that the producer sent.
    #[serde(deserialize_with = "object::deserialize")]
    pub data: serde_json::Map<String, serde_json::Value>,
    /// The rooms that it is sent to, sorted, without duplicates.
    #[serde(default)]
    pub rooms: Vec<Room>,
    /// What gateways must know of the rules that matched it, beside the changes in the event itself; `None` if that is
    /// nothing. Clients do not see it.
    #[serde(default)]
    pub handling: Option<Box<Handling>>,
    /// What the router knew about its surroundings; `None` if that is nothing.
    #[serde(default)]
    pub context: Option<Box<EventContext>>,
}

impl Event {
    /// How it is spread.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.handling.as_ref().map(|handling| handling.strategy).unwrap_or_default()
    }

    /// Whether it is for every subscription of a public audience, whatever the filters.
    #[must_use]
    pub fn is_for_every_gateway(&self) -> bool {
        self.strategy() == Strategy::Broadcast && self.audience == Audience::Public
    }
}

/// A copy of the test kit's event. Unit tests cannot use that one: the test kit links another build of this crate.
#[cfg(test)]
pub(crate) fn blank_event() -> Event {
    Event {
        kind: Kind::Pattern,
        key: "AAPL".into(),
        audience: Audience::Public,
        id: "e".into(),
        ts: Timestamp(0),
        stored: Timestamp(0),
        session: None,
        symbol: None,
        pattern: None,
        tier: None,
        confidence: None,
        priority: Priority::Low,
        regime: None,
        tags: Vec::new(),
        data: serde_json::Map::new(),
        rooms: Vec::new(),
        handling: None,
        context: None,
    }
}
