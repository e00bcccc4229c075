//! Counts of what an index contains and has done, by dimension.

use std::time::Duration;

/// The field by which a filter is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// By each of its symbols.
    Symbol,
    /// By each of its rooms; it has no symbols.
    Room,
    /// By each of its patterns; it has none of the above.
    Pattern,
    /// By each of its tags; it has none of the above.
    Tag,
    /// By each of its regimes; it has none of the above.
    Regime,
    /// By each of its tiers; it has none of the above.
    Tier,
    /// Only by its kinds.
    Any,
    /// By its user: the event is for one user, and that user's subscriptions are checked.
    User,
}

impl Dimension {
    /// Every dimension, in the order in which an event is looked up.
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

/// What an index contains, and what it has done so far.
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

/// The counts of one dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries of filters in lists: a filter with three symbols has three. For users, sessions.
    pub entries: u64,
    /// Values of events that were looked up.
    pub lookups: u64,
    /// Lookups that found a match.
    pub hits: u64,
    /// Filters that matched. For users, subscriptions.
    pub matches: u64,
    /// The total time of lookups for the timed events.
    pub sampled: Duration,
}

impl Statistics {
    /// The counts of `dimension`.
    #[must_use]
    pub fn of(&self, dimension: Dimension) -> &Tally {
        &self.dimensions[dimension as usize]
    }

    pub(super) fn of_mut(&mut self, dimension: Dimension) -> &mut Tally {
        &mut self.dimensions[dimension as usize]
    }
}
