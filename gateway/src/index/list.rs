//! A list of filters in a compact form that rejects most events without reading the filters themselves.
//!
//! The compact form has the thresholds, the small sets as bits, and for the patterns a mask with false positives, but
//! no false negatives. A list is sorted by confidence, so that an event reads it only up to its own confidence. A
//! filter that passes all of that is nearly always a match.

use std::hash::BuildHasher;

use tickwire_core::event::{Event, Regime, Tier};
use tickwire_core::filter::long_values::LongValues;
use tickwire_core::filter::{Filter, in_market_hours};

use super::{Hasher, Slot, kept};

/// Means "no lower bound" in a filter, and "no confidence" in an event. It is below every confidence.
const NO_CONFIDENCE: f64 = -1.0;

/// The bit of an event without the field of a set. Only the set that means "any" has it.
const LACKING: u8 = 1 << 7;

/// A filter in a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    least: f64,
    patterns: u64,
    pub(super) slot: Slot,
    kinds: u16,
    tiers: u8,
    regimes: u8,
    priority: u8,
    market_hours: bool,
    pub(super) remaining: Remaining,
}

/// The fields of a filter that neither the compact form nor the list's key covers. They must be checked in the filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Remaining {
    kinds: bool,
    patterns: bool,
    tags: bool,
    rooms: bool,
    data: bool,
}

#[cfg(test)]
thread_local! {
    /// How many filters were asked for what remains of them.
    pub(super) static ASKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The compact form of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    confidence: f64,
    pattern: u64,
    kind: u16,
    tier: u8,
    regime: u8,
    priority: u8,
    outside_hours: bool,
}

impl Candidate {
    /// The compact form of a filter. It is the same in all lists.
    pub(super) fn new(filter: &Filter, slot: Slot, kinds: u16, remaining: Remaining, hasher: &Hasher) -> Self {
        let patterns = filter.patterns.as_ref();
        Self {
            least: filter.min_confidence.map_or(NO_CONFIDENCE, |least| least.get()),
            patterns: patterns.map_or(u64::MAX, |set| set.iter().fold(0, |mask, p| mask | bit_of(p, hasher))),
            slot,
            kinds,
            tiers: filter
                .tiers
                .as_ref()
                .map_or(u8::MAX, |set| set.iter().fold(0, |mask, tier| mask | bit(*tier as u8))),
            regimes: filter
                .regimes
                .as_ref()
                .map_or(u8::MAX, |set| set.iter().fold(0, |mask, regime| mask | bit(*regime as u8))),
            priority: filter.min_priority.map_or(0, |least| least as u8),
            market_hours: filter.market_hours_only,
            remaining,
        }
    }

    fn may_pass(&self, probe: &Probe) -> bool {
        self.kinds & probe.kind != 0
            && self.patterns & probe.pattern != 0
            && self.tiers & probe.tier != 0
            && self.regimes & probe.regime != 0
            && self.priority <= probe.priority
            && !(self.market_hours && probe.outside_hours)
    }
}

impl Remaining {
    /// What remains of `filter` when it is found by the first of these fields that it has: symbol, room, pattern, tag.
    pub(super) fn of(filter: &Filter) -> Self {
        let by_symbol = filter.symbols.is_some();
        let by_room = !by_symbol && filter.rooms.is_some();
        let by_pattern = !by_symbol && !by_room && filter.patterns.is_some();
        let by_tag = !by_symbol && !by_room && !by_pattern && filter.tags.is_some();
        Self {
            kinds: false,
            patterns: filter.patterns.is_some() && !by_pattern,
            tags: filter.tags.is_some() && !by_tag,
            rooms: filter.rooms.is_some() && !by_room,
            data: !filter.data.is_empty(),
        }
    }

    /// The kinds must be checked as well, because there are more of them than bits.
    pub(super) fn with_kinds(self) -> Self {
        Self { kinds: true, ..self }
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Whether `event` matches what remains of `filter`.
    pub(super) fn admits<'e>(self, filter: &Filter, event: &'e Event, long: &mut LongValues<'e>) -> bool {
        #[cfg(test)]
        ASKED.set(ASKED.get() + 1);
        (!self.kinds || filter.kinds.contains(&event.kind))
            && (!self.patterns || filter.admits_pattern(event))
            && (!self.tags || filter.admits_tags(event))
            && (!self.rooms || filter.admits_rooms(event))
            && (!self.data || filter.admits_data(event, long))
    }
}

impl Probe {
    /// The compact form of an event whose kind has this bit.
    pub(super) fn new(event: &Event, kind: u16, hasher: &Hasher) -> Self {
        Self {
            kind,
            confidence: event.confidence.map_or(NO_CONFIDENCE, |confidence| confidence.get()),
            // An event without a pattern matches only "any". A filter with patterns may pass here; `admits` rejects it.
            pattern: event.pattern.as_ref().map_or(1, |pattern| bit_of(pattern, hasher)),
            tier: event.tier.map_or(LACKING, |tier| bit(tier as u8)),
            regime: event.regime.map_or(LACKING, |regime| bit(regime as u8)),
            priority: event.priority as u8,
            outside_hours: !in_market_hours(event),
        }
    }
}

const _: () = assert!(Tier::ALL.len() < 7 && Regime::ALL.len() < 7, "a small set fits into a byte beside LACKING");

fn bit(number: u8) -> u8 {
    1 << number
}

fn bit_of<T: std::hash::Hash>(value: &T, hasher: &Hasher) -> u64 {
    1 << (hasher.hash_one(value) >> 58)
}

/// The filters of one key. An insert moves those behind it: with 10,000 filters a quarter of a megabyte at most, which
/// takes some microseconds.
#[derive(Debug, Default)]
pub(super) struct List(Vec<Candidate>);

impl List {
    pub(super) fn insert(&mut self, candidate: Candidate) {
        if let Err(place) = self.place(&candidate) {
            if self.0.is_empty() {
                self.0.reserve_exact(1);
            }
            self.0.insert(place, candidate);
        }
    }

    pub(super) fn remove(&mut self, candidate: &Candidate) {
        if let Ok(place) = self.place(candidate) {
            self.0.remove(place);
            // A list of a kind stays when it is empty, and other lists may have had most of their filters removed.
            if let Some(kept) = kept(self.0.len(), self.0.capacity()) {
                self.0.shrink_to(kept);
            }
        }
    }

    /// For how many filters there is memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The filters that the event may match, according to their compact form.
    pub(super) fn candidates(&self, probe: &Probe) -> impl Iterator<Item = &Candidate> {
        self.0
            .iter()
            .take_while(|candidate| candidate.least <= probe.confidence)
            .filter(|candidate| candidate.may_pass(probe))
    }

    fn place(&self, candidate: &Candidate) -> Result<usize, usize> {
        self.0.binary_search_by(|found| {
            found.least.total_cmp(&candidate.least).then_with(|| found.slot.cmp(&candidate.slot))
        })
    }
}
