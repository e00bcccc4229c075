//! Where filters are filed: for each of its kinds, a filter stands under every value of the first dimension that it
//! names, in the order of how much that dimension tells apart. An event looks into the lists of its own values.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use compact_str::CompactString;
use tickwire_core::event::{Event, Kind, Regime, Tier};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Pattern, Room, Symbol};

use super::list::{Candidate, List, Probe, Remaining};
use super::statistics::{Dimension, Statistics};
use super::walk::Walk;
use super::{Hasher, Slot};

type ByValue<K> = HashMap<K, List, Hasher>;

/// All lists of an index.
#[derive(Debug, Default)]
pub(super) struct Lists {
    kinds: HashMap<Kind, OfKind, Hasher>,
    hasher: Hasher,
}

/// The filters that ask for one kind.
#[derive(Debug, Default)]
struct OfKind {
    symbols: ByValue<Symbol>,
    rooms: ByValue<Room>,
    patterns: ByValue<Pattern>,
    tags: ByValue<CompactString>,
    regimes: [List; Regime::ALL.len()],
    tiers: [List; Tier::ALL.len()],
    /// Those that name none of these.
    any: List,
}

#[derive(Clone, Copy)]
enum Change {
    Insert,
    Remove,
}

impl Lists {
    /// Files a filter that is not filed.
    pub(super) fn file(&mut self, filter: &Filter, slot: Slot, statistics: &mut Statistics) {
        let candidate = Candidate::new(filter, slot, Remaining::of(filter), &self.hasher);
        for kind in &filter.kinds {
            let entries = self.kinds.entry(kind.clone()).or_default().change(filter, candidate, Change::Insert);
            statistics.of_mut(entries.0).entries += entries.1;
        }
    }

    /// Takes a filter out that was filed in this slot.
    pub(super) fn unfile(&mut self, filter: &Filter, slot: Slot, statistics: &mut Statistics) {
        let candidate = Candidate::new(filter, slot, Remaining::of(filter), &self.hasher);
        for kind in &filter.kinds {
            let Some(of_kind) = self.kinds.get_mut(kind) else { continue };
            let entries = of_kind.change(filter, candidate, Change::Remove);
            statistics.of_mut(entries.0).entries -= entries.1;
            if of_kind.is_empty() {
                self.kinds.remove(kind);
            }
        }
    }

    /// An event as the lists look at it.
    pub(super) fn probe(&self, event: &Event) -> Probe {
        Probe::new(event, &self.hasher)
    }

    /// Looks into every list that may have a filter which the event of `walk` passes.
    pub(super) fn look(&self, walk: &mut Walk<'_>) {
        let event = walk.event;
        let Some(of_kind) = self.kinds.get(&event.kind) else { return };
        if let Some(symbol) = event.symbol.as_ref().filter(|_| !of_kind.symbols.is_empty()) {
            walk.look(Dimension::Symbol, of_kind.symbols.get(symbol));
        }
        walk.lap(Dimension::Symbol);
        if !of_kind.rooms.is_empty() {
            for room in &event.rooms {
                walk.look(Dimension::Room, of_kind.rooms.get(room));
            }
        }
        walk.lap(Dimension::Room);
        if let Some(pattern) = event.pattern.as_ref().filter(|_| !of_kind.patterns.is_empty()) {
            walk.look(Dimension::Pattern, of_kind.patterns.get(pattern));
        }
        walk.lap(Dimension::Pattern);
        if !of_kind.tags.is_empty() {
            for tag in &event.tags {
                walk.look(Dimension::Tag, of_kind.tags.get(tag));
            }
        }
        walk.lap(Dimension::Tag);
        if let Some(regime) = event.regime {
            walk.look(Dimension::Regime, Some(&of_kind.regimes[regime as usize]));
        }
        walk.lap(Dimension::Regime);
        if let Some(tier) = event.tier {
            walk.look(Dimension::Tier, Some(&of_kind.tiers[tier as usize]));
        }
        walk.lap(Dimension::Tier);
        walk.look(Dimension::Any, Some(&of_kind.any));
        walk.lap(Dimension::Any);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }
}

impl OfKind {
    /// Changes every list that the filter belongs into; tells how many, and of which dimension. The order is that of
    /// [`Remaining::of`].
    fn change(&mut self, filter: &Filter, candidate: Candidate, change: Change) -> (Dimension, u64) {
        let of_each = |lists: &mut [List], numbers: &mut dyn Iterator<Item = usize>| {
            numbers.map(|number| change_list(&mut lists[number], candidate, change)).count()
        };
        let (dimension, lists) = if let Some(symbols) = &filter.symbols {
            (Dimension::Symbol, change_named(&mut self.symbols, symbols, candidate, change))
        } else if let Some(rooms) = &filter.rooms {
            (Dimension::Room, change_named(&mut self.rooms, rooms, candidate, change))
        } else if let Some(patterns) = &filter.patterns {
            (Dimension::Pattern, change_named(&mut self.patterns, patterns, candidate, change))
        } else if let Some(tags) = &filter.tags {
            (Dimension::Tag, change_named(&mut self.tags, tags, candidate, change))
        } else if let Some(regimes) = &filter.regimes {
            (Dimension::Regime, of_each(&mut self.regimes, &mut regimes.iter().map(|regime| *regime as usize)))
        } else if let Some(tiers) = &filter.tiers {
            (Dimension::Tier, of_each(&mut self.tiers, &mut tiers.iter().map(|tier| *tier as usize)))
        } else {
            change_list(&mut self.any, candidate, change);
            (Dimension::Any, 1)
        };
        (dimension, lists as u64)
    }

    fn is_empty(&self) -> bool {
        self.symbols.is_empty()
            && self.rooms.is_empty()
            && self.patterns.is_empty()
            && self.tags.is_empty()
            && self.regimes.iter().chain(&self.tiers).all(List::is_empty)
            && self.any.is_empty()
    }
}

fn change_list(list: &mut List, candidate: Candidate, change: Change) {
    match change {
        Change::Insert => list.insert(candidate),
        Change::Remove => list.remove(&candidate),
    }
}

/// Changes the list of each name; a list that is empty is not kept.
fn change_named<K: Clone + Eq + Hash>(
    lists: &mut ByValue<K>,
    names: &BTreeSet<K>,
    candidate: Candidate,
    change: Change,
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
