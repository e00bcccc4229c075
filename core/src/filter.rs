//! Filters of subscriptions, and whether an event passes them. This evaluation is the reference for the index, the
//! interest and all tests.
//!
//! `parse` reads a filter from a client's object, and `presets` has filters with names. `conditions` tests an event's
//! data, and `scalar` compares values. Filters that are asked about one event share its `long_values`.

pub mod conditions;
pub mod long_values;
mod parse;
pub mod presets;
pub mod scalar;

use std::collections::BTreeSet;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::event::{Event, Kind, Priority, Regime, Tier, TradingSession};
use crate::ids::{Confidence, Pattern, Room, Symbol};
use conditions::Conditions;
use long_values::LongValues;

pub use parse::{FilterError, FilterProblem, MAX_CONDITIONS, MAX_LIST, MAX_SYMBOLS, MAX_TAG, MAX_TEXT};

/// The conditions of one subscription. An event must meet all of them. `None` means any; no set is ever empty.
///
/// Equal filters have equal order and hash, so that they can be interned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Filter {
    /// Kinds; only `pattern` if the client sent none.
    pub kinds: BTreeSet<Kind>,
    /// Symbols, compared as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbols: Option<BTreeSet<Symbol>>,
    /// Patterns, compared as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patterns: Option<BTreeSet<Pattern>>,
    /// Tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiers: Option<BTreeSet<Tier>>,
    /// Market regimes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regimes: Option<BTreeSet<Regime>>,
    /// Tags, one of them is enough; compared as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<CompactString>>,
    /// Rooms, one of them is enough; compared as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<BTreeSet<Room>>,
    /// The lowest confidence that passes. An event without a confidence does not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<Confidence>,
    /// The lowest priority that passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_priority: Option<Priority>,
    /// Intraday events pass only if they happened in the regular session of New York. Other tiers are not affected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub market_hours_only: bool,
    /// Conditions on the event's data.
    #[serde(default, skip_serializing_if = "Conditions::is_empty")]
    pub data: Conditions,
}

impl Default for Filter {
    /// Every event of kind `pattern`.
    fn default() -> Self {
        Self {
            kinds: BTreeSet::from([Kind::Pattern]),
            symbols: None,
            patterns: None,
            tiers: None,
            regimes: None,
            tags: None,
            rooms: None,
            min_confidence: None,
            min_priority: None,
            market_hours_only: false,
            data: Conditions::new(),
        }
    }
}

impl Filter {
    /// Whether `event` meets every condition. The audience is checked before and separately.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.matches_with(event, &mut LongValues::default())
    }

    /// The same as [`Self::matches`]. A caller that asks several filters about one event passes all of them
    /// the same `long`.
    #[must_use]
    pub fn matches_with<'e>(&self, event: &'e Event, long: &mut LongValues<'e>) -> bool {
        self.kinds.contains(&event.kind)
            && any_or_has(self.symbols.as_ref(), event.symbol.as_ref())
            && self.admits_pattern(event)
            && any_or_has(self.tiers.as_ref(), event.tier.as_ref())
            && any_or_has(self.regimes.as_ref(), event.regime.as_ref())
            && self.admits_tags(event)
            && self.admits_rooms(event)
            && self.min_confidence.is_none_or(|least| event.confidence.is_some_and(|c| c >= least))
            && self.min_priority.is_none_or(|least| event.priority >= least)
            && (!self.market_hours_only || in_market_hours(event))
            && self.admits_data(event, long)
    }

    /// The approximate size in bytes of the filter as a client writes it, for limits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let data = if self.data.is_empty() { 0 } else { serde_json::to_vec(&self.data).map_or(0, |json| json.len()) };
        FILTER
            + names(Some(&self.kinds), Kind::as_str)
            + names(self.symbols.as_ref(), Symbol::as_str)
            + names(self.patterns.as_ref(), Pattern::as_str)
            + names(self.tags.as_ref(), CompactString::as_str)
            + names(self.rooms.as_ref(), Room::as_str)
            + data
    }

    /// The part of [`Self::matches`] that is about patterns.
    #[must_use]
    pub fn admits_pattern(&self, event: &Event) -> bool {
        any_or_has(self.patterns.as_ref(), event.pattern.as_ref())
    }

    /// The part of [`Self::matches`] that is about tags.
    #[must_use]
    pub fn admits_tags(&self, event: &Event) -> bool {
        self.tags.as_ref().is_none_or(|tags| have_common(tags, &event.tags))
    }

    /// The part of [`Self::matches`] that is about rooms.
    #[must_use]
    pub fn admits_rooms(&self, event: &Event) -> bool {
        self.rooms.as_ref().is_none_or(|rooms| event.rooms.iter().any(|room| rooms.contains(room)))
    }

    /// The part of [`Self::matches`] that is about data.
    #[must_use]
    pub fn admits_data<'e>(&self, event: &'e Event, long: &mut LongValues<'e>) -> bool {
        conditions::admit(&self.data, &event.data, long)
    }
}

/// The size of a filter without its lists and its conditions on data, in bytes.
const FILTER: usize = 64;

/// The size of a list of names, with quotes and commas.
fn names<T>(set: Option<&BTreeSet<T>>, text: impl Fn(&T) -> &str) -> usize {
    set.map_or(0, |set| 16 + set.iter().map(|name| text(name).len() + 3).sum::<usize>())
}

/// Whether the event passes `market_hours_only`, which only tests the intraday tier.
#[must_use]
pub fn in_market_hours(event: &Event) -> bool {
    event.tier != Some(Tier::Intraday) || event.session == Some(TradingSession::Regular)
}

/// Whether the set and the sorted list have an element in common. The cost follows the smaller of the two: an event may
/// have tens of thousands of tags, and a shard may test it against thousands of filters.
fn have_common<T: Ord>(set: &BTreeSet<T>, sorted: &[T]) -> bool {
    if set.len() < sorted.len() {
        set.iter().any(|one| sorted.binary_search(one).is_ok())
    } else {
        sorted.iter().any(|one| set.contains(one))
    }
}

/// Whether `found` is wanted. An absent value passes only `None`.
fn any_or_has<T: Ord>(wanted: Option<&BTreeSet<T>>, found: Option<&T>) -> bool {
    wanted.is_none_or(|set| found.is_some_and(|value| set.contains(value)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    thread_local! {
        static COMPARISONS: Cell<usize> = const { Cell::new(0) };
    }

    /// A number that counts its comparisons.
    #[derive(PartialEq, Eq)]
    struct Counted(u32);

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARISONS.set(COMPARISONS.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    #[test]
    fn comparing_tags_costs_as_much_as_the_shorter_list() {
        for (wanted, found) in [(60, 24_000), (1_000, 10)] {
            let wanted: BTreeSet<Counted> = (0..wanted).map(|number| Counted(2 * number + 1)).collect();
            let found: Vec<Counted> = (0..found).map(|number| Counted(2 * number)).collect();
            COMPARISONS.set(0);
            assert!(!have_common(&wanted, &found));
            let comparisons = COMPARISONS.get();
            assert!(comparisons <= 1_500, "{comparisons} for {} and {}", wanted.len(), found.len());
        }
        let wanted = BTreeSet::from([Counted(5), Counted(8)]);
        assert!(have_common(&wanted, &[Counted(8)]));
        assert!(have_common(&wanted, &[Counted(2), Counted(4), Counted(8)]));
    }
}
