//! The want of a topic: the fields that its filters test. A set of names with too many bytes is widened to any name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Kind, Priority, Tier};
use crate::filter::Filter;
use crate::ids::{Confidence, Pattern, Room, Symbol};

/// The most bytes of a set of names. A larger set is widened to any name.
pub const NAMES_BYTES: usize = 16 * 1024;

/// The most bytes that a text takes in MessagePack besides its own.
const TEXT: usize = 3;

/// The most bytes of a list's header, a tier, a confidence and a priority.
const LIST: usize = 5;
const TIER: usize = 9;
const CONFIDENCE: usize = 9;
const PRIORITY: usize = 9;

/// The key of interest: a kind, and a symbol or any symbol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Topic {
    /// The kind.
    pub kind: Kind,
    /// The symbol; `None` for any symbol and for events without one.
    pub symbol: Option<Symbol>,
}

impl Topic {
    /// The most bytes that it takes in a message.
    #[must_use]
    pub fn encoded(&self) -> usize {
        1 + TEXT + self.kind.as_str().len() + self.symbol.as_ref().map_or(1, |symbol| TEXT + symbol.as_str().len())
    }
}

/// The want of a topic. `None` means any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Want {
    /// Tiers.
    pub tiers: Option<BTreeSet<Tier>>,
    /// Patterns.
    pub patterns: Option<BTreeSet<Pattern>>,
    /// The lowest confidence; `None` also admits events without one.
    pub min_confidence: Option<Confidence>,
    /// The lowest priority.
    pub min_priority: Option<Priority>,
    /// Rooms; one of them is enough.
    #[serde(default)]
    pub rooms: Option<BTreeSet<Room>>,
}

impl Want {
    /// What `filter` wants of each of its topics.
    #[must_use]
    pub fn of(filter: &Filter) -> Self {
        Self {
            tiers: filter.tiers.clone(),
            patterns: filter.patterns.clone(),
            min_confidence: filter.min_confidence,
            min_priority: filter.min_priority,
            rooms: filter.rooms.clone(),
        }
    }

    /// Whether an event of this topic may be wanted.
    #[must_use]
    pub fn admits(&self, event: &Event) -> bool {
        self.tiers.as_ref().is_none_or(|set| event.tier.is_some_and(|tier| set.contains(&tier)))
            && self.patterns.as_ref().is_none_or(|set| event.pattern.as_ref().is_some_and(|p| set.contains(p)))
            && self.rooms.as_ref().is_none_or(|set| event.rooms.iter().any(|room| set.contains(room)))
            && self.min_confidence.is_none_or(|least| event.confidence.is_some_and(|c| c >= least))
            && self.min_priority.is_none_or(|least| event.priority >= least)
    }

    /// The smallest want that admits, in each field, what one of the two admits.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.tiers = union(self.tiers, other.tiers.as_ref());
        self.patterns = union(self.patterns, other.patterns.as_ref());
        self.rooms = union(self.rooms, other.rooms.as_ref());
        // `None` sorts before every value, and means "no lower bound".
        self.min_confidence = self.min_confidence.min(other.min_confidence);
        self.min_priority = self.min_priority.min(other.min_priority);
        self
    }

    /// The same, but a set of patterns or rooms with more than `bytes` becomes any.
    #[must_use]
    pub fn bounded(mut self, bytes: usize) -> Self {
        self.patterns = self.patterns.filter(|set| names(set, Pattern::as_str) <= bytes);
        self.rooms = self.rooms.filter(|set| names(set, Room::as_str) <= bytes);
        self
    }

    /// The same, but with any pattern and any room.
    #[must_use]
    pub fn without_names(&self) -> Self {
        Self { patterns: None, rooms: None, tiers: self.tiers.clone(), ..*self }
    }

    /// The steps of a union with another want: one, and one for each name.
    #[must_use]
    pub fn weight(&self) -> usize {
        1 + self.patterns.as_ref().map_or(0, BTreeSet::len) + self.rooms.as_ref().map_or(0, BTreeSet::len)
    }

    /// The most bytes that it takes in a message.
    #[must_use]
    pub fn encoded(&self) -> usize {
        1 + self.tiers.as_ref().map_or(1, |set| LIST + TIER * set.len())
            + self.patterns.as_ref().map_or(1, |set| LIST + names(set, Pattern::as_str))
            + self.min_confidence.map_or(1, |_| CONFIDENCE)
            + self.min_priority.map_or(1, |_| PRIORITY)
            + self.rooms.as_ref().map_or(1, |set| LIST + names(set, Room::as_str))
    }
}

/// The topics of `filter`: each of its kinds with each of its symbols, or with any symbol.
pub fn topics(filter: &Filter) -> impl Iterator<Item = Topic> + '_ {
    filter.kinds.iter().flat_map(move |kind| {
        let any = filter.symbols.is_none().then_some(None);
        let named = filter.symbols.iter().flatten().cloned().map(Some);
        any.into_iter().chain(named).map(move |symbol| Topic { kind: kind.clone(), symbol })
    })
}

/// The most bytes that these names take in a message.
fn names<T>(set: &BTreeSet<T>, text: impl Fn(&T) -> &str) -> usize {
    set.iter().map(|name| TEXT + text(name).len()).sum()
}

fn union<T: Ord + Clone>(left: Option<BTreeSet<T>>, other: Option<&BTreeSet<T>>) -> Option<BTreeSet<T>> {
    let (mut left, other) = (left?, other?);
    for value in other {
        if !left.contains(value) {
            left.insert(value.clone());
        }
    }
    Some(left)
}
