//! What an index holds and did, dimension by dimension.

use std::time::Duration;

/// By what a filter is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// By each of its symbols.
    Symbol,
    /// By each of its rooms; it names no symbol.
    Room,
    /// By each of its patterns; it names none of the above.
    Pattern,
    /// By each of its tags; it names none of the above.
    Tag,
    /// By each of its regimes; it names none of the above.
    Regime,
    /// By each of its tiers; it names none of the above.
    Tier,
    /// By its kind alone.
    Any,
    /// Not by what it names: the event is for one user, and that user's subscriptions are asked.
    User,
}

impl Dimension {
    /// Every dimension, in the order in which an event looks through them.
    pub const ALL: [Self; 8] =
        [Self::Symbol, Self::Room, Self::Pattern, Self::Tag, Self::Regime, Self::Tier, Self::Any, Self::User];

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Symbol => "symbol",
            Self::Room => "room",
            Self::Pattern => "pattern",
            Self::Tag => "tag",
            Self::Regime => "regime",
            Self::Tier => "tier",
            Self::Any => "any",
            Self::User => "user",
        }
    }
}

/// What an index holds, and what it did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Different filters.
    pub filters: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Events whose lookups were timed.
    pub sampled_events: u64,
    dimensions: [Tally; Dimension::ALL.len()],
}

/// The part of one dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Places that filters stand in: a filter of two kinds and three symbols stands in six. Of users, sessions.
    pub entries: u64,
    /// Values of events that were looked up.
    pub lookups: u64,
    /// Lookups that found a match.
    pub hits: u64,
    /// Filters that matched. Of users, subscriptions.
    pub matches: u64,
    /// The time that lookups took, of the events that were timed.
    pub sampled: Duration,
}

impl Statistics {
    /// The part of `dimension`.
    #[must_use]
    pub fn of(&self, dimension: Dimension) -> &Tally {
        &self.dimensions[dimension as usize]
    }

    pub(super) fn of_mut(&mut self, dimension: Dimension) -> &mut Tally {
        &mut self.dimensions[dimension as usize]
    }
}
