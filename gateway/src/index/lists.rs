//! The lists of an index. A filter is in the list of each value of one of its fields: the first one that it has, in the
//! order of selectivity. A filter without such a field is in the lists of its kinds. An event reads the lists of its
//! own values.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use compact_str::CompactString;
use tickwire_core::event::{Event, Kind, Regime, Tier};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Pattern, Room, Symbol};

use super::list::{Candidate, List, Probe, Remaining};
use super::statistics::{Dimension, Statistics};
use super::walk::MatchWalk;
use super::{Hasher, Slot, give_back};

type ByValue<K> = HashMap<K, List, Hasher>;

/// The bit that the kinds share for which no other bit is left.
const SHARED_BIT: u32 = u16::BITS - 1;

/// All lists of an index. A filter is once in the list of each value, with all its kinds, since these are bits.
#[derive(Debug, Default)]
pub(super) struct Lists {
    kinds: HashMap<Kind, OfKind, Hasher>,
    symbols: ByValue<Symbol>,
    rooms: ByValue<Room>,
    patterns: ByValue<Pattern>,
    tags: ByValue<CompactString>,
    hasher: Hasher,
}

/// The filters of one kind without symbols, rooms, patterns and tags.
#[derive(Debug, Default)]
struct OfKind {
    /// The kind's bit. The kinds of a cluster are configured, so a bit is never freed.
    bit: u16,
    regimes: [List; Regime::ALL.len()],
    tiers: [List; Tier::ALL.len()],
    /// The filters without regimes and tiers.
    any: List,
}

#[derive(Clone, Copy)]
enum ListChange {
    Insert,
    Remove,
}

impl Lists {
    /// Adds a filter that is in no list yet.
    pub(super) fn file(&mut self, filter: &Filter, slot: Slot, statistics: &mut Statistics) {
        let candidate = self.candidate(filter, slot);
        let (dimension, entries) = self.change(filter, candidate, ListChange::Insert);
        statistics.of_mut(dimension).entries += entries;
    }

    /// Removes the filter with this slot.
    pub(super) fn unfile(&mut self, filter: &Filter, slot: Slot, statistics: &mut Statistics) {
        let candidate = self.candidate(filter, slot);
        let (dimension, entries) = self.change(filter, candidate, ListChange::Remove);
        give_back(&mut self.symbols);
        give_back(&mut self.rooms);
        give_back(&mut self.patterns);
        give_back(&mut self.tags);
        statistics.of_mut(dimension).entries -= entries;
    }

    /// The compact form of a filter.
    fn candidate(&mut self, filter: &Filter, slot: Slot) -> Candidate {
        let kinds = filter.kinds.iter().fold(0, |bits, kind| bits | self.of_kind(kind).bit);
        let remaining = Remaining::of(filter);
        let remaining = if kinds >> SHARED_BIT > 0 { remaining.with_kinds() } else { remaining };
        Candidate::new(filter, slot, kinds, remaining, &self.hasher)
    }

    fn of_kind(&mut self, kind: &Kind) -> &mut OfKind {
        let next = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX).min(SHARED_BIT);
        self.kinds.entry(kind.clone()).or_insert_with(|| OfKind { bit: 1 << next, ..OfKind::default() })
    }

    /// The compact form of an event.
    pub(super) fn probe(&self, event: &Event) -> Probe {
        let kind = self.kinds.get(&event.kind).map_or(0, |of_kind| of_kind.bit);
        Probe::new(event, kind, &self.hasher)
    }

    /// Reads every list that may have a filter that the event of `walk` matches.
    pub(super) fn search(&self, walk: &mut MatchWalk<'_>) {
        let event = walk.event;
        let Some(of_kind) = self.kinds.get(&event.kind) else { return };
        if let Some(symbol) = event.symbol.as_ref().filter(|_| !self.symbols.is_empty()) {
            walk.collect(Dimension::Symbol, self.symbols.get(symbol));
        }
        walk.lap(Dimension::Symbol);
        if !self.rooms.is_empty() {
            for room in &event.rooms {
                walk.collect(Dimension::Room, self.rooms.get(room));
            }
        }
        walk.lap(Dimension::Room);
        if let Some(pattern) = event.pattern.as_ref().filter(|_| !self.patterns.is_empty()) {
            walk.collect(Dimension::Pattern, self.patterns.get(pattern));
        }
        walk.lap(Dimension::Pattern);
        if !self.tags.is_empty() {
            for tag in &event.tags {
                walk.collect(Dimension::Tag, self.tags.get(tag));
            }
        }
        walk.lap(Dimension::Tag);
        if let Some(regime) = event.regime {
            walk.collect(Dimension::Regime, Some(&of_kind.regimes[regime as usize]));
        }
        walk.lap(Dimension::Regime);
        if let Some(tier) = event.tier {
            walk.collect(Dimension::Tier, Some(&of_kind.tiers[tier as usize]));
        }
        walk.lap(Dimension::Tier);
        walk.collect(Dimension::Any, Some(&of_kind.any));
        walk.lap(Dimension::Any);
    }

    /// Changes every list of the filter. Returns how many, and of which dimension. The order of the fields is that of
    /// [`Remaining::of`].
    fn change(&mut self, filter: &Filter, candidate: Candidate, change: ListChange) -> (Dimension, u64) {
        let (dimension, lists) = if let Some(symbols) = &filter.symbols {
            (Dimension::Symbol, change_named(&mut self.symbols, symbols, candidate, change))
        } else if let Some(rooms) = &filter.rooms {
            (Dimension::Room, change_named(&mut self.rooms, rooms, candidate, change))
        } else if let Some(patterns) = &filter.patterns {
            (Dimension::Pattern, change_named(&mut self.patterns, patterns, candidate, change))
        } else if let Some(tags) = &filter.tags {
            (Dimension::Tag, change_named(&mut self.tags, tags, candidate, change))
        } else {
            let changed = filter.kinds.iter().map(|kind| self.of_kind(kind).change(filter, candidate, change));
            changed.fold((Dimension::Any, 0), |(_, lists), (dimension, more)| (dimension, lists + more))
        };
        (dimension, lists as u64)
    }

    /// For how many values there is memory, and for how many filters of the kinds.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let named = self.symbols.capacity() + self.rooms.capacity() + self.patterns.capacity() + self.tags.capacity();
        named + self.kinds.values().map(OfKind::capacity).sum::<usize>()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let named = self.symbols.len() + self.rooms.len() + self.patterns.len() + self.tags.len();
        named == 0 && self.kinds.values().all(OfKind::is_empty)
    }
}

impl OfKind {
    /// Changes the lists of a filter without symbols, rooms, patterns and tags.
    fn change(&mut self, filter: &Filter, candidate: Candidate, change: ListChange) -> (Dimension, usize) {
        let of_each = |lists: &mut [List], numbers: &mut dyn Iterator<Item = usize>| {
            numbers.map(|number| change_list(&mut lists[number], candidate, change)).count()
        };
        if let Some(regimes) = &filter.regimes {
            (Dimension::Regime, of_each(&mut self.regimes, &mut regimes.iter().map(|regime| *regime as usize)))
        } else if let Some(tiers) = &filter.tiers {
            (Dimension::Tier, of_each(&mut self.tiers, &mut tiers.iter().map(|tier| *tier as usize)))
        } else {
            change_list(&mut self.any, candidate, change);
            (Dimension::Any, 1)
        }
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.regimes.iter().chain(&self.tiers).chain([&self.any]).map(List::capacity).sum()
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.regimes.iter().chain(&self.tiers).all(List::is_empty) && self.any.is_empty()
    }
}

fn change_list(list: &mut List, candidate: Candidate, change: ListChange) {
    match change {
        ListChange::Insert => list.insert(candidate),
        ListChange::Remove => list.remove(&candidate),
    }
}

/// Changes the list of each value, and removes lists that are empty.
fn change_named<K: Clone + Eq + Hash>(
    lists: &mut ByValue<K>,
    names: &BTreeSet<K>,
    candidate: Candidate,
    change: ListChange,
) -> usize {
    for name in names {
        match lists.get_mut(name) {
            Some(list) => {
                change_list(list, candidate, change);
                if list.is_empty() {
                    lists.remove(name);
                }
            }
            None => {
                let mut list = List::default();
                change_list(&mut list, candidate, change);
                if !list.is_empty() {
                    lists.insert(name.clone(), list);
                }
            }
        }
    }
    names.len()
}
