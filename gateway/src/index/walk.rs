//! The walk of one event through the lists: it collects the filters that match, each once, and counts lookups.

use std::time::Instant;

use slab::Slab;
use tickwire_core::event::Event;
use tickwire_core::filter::long_values::LongValues;

use super::list::{List, Probe};
use super::statistics::{Dimension, Statistics};
use super::{Interned, Slot};

/// The state of a walk.
#[derive(Debug)]
pub(super) struct MatchWalk<'a> {
    pub(super) event: &'a Event,
    /// The event's long values, for all filters that ask for them.
    pub(super) long: LongValues<'a>,
    pub(super) probe: Probe,
    pub(super) filters: &'a mut Slab<Interned>,
    /// The filters that match so far.
    pub(super) matched: &'a mut Vec<Slot>,
    pub(super) statistics: &'a mut Statistics,
    /// The number of this walk, which no other has.
    pub(super) number: u64,
    /// When the current part began, if this walk is timed.
    pub(super) since: Option<Instant>,
}

impl MatchWalk<'_> {
    /// Collects the matches in the list of one value of the event, if there is such a list.
    pub(super) fn collect(&mut self, dimension: Dimension, list: Option<&List>) {
        let tally = self.statistics.of_mut(dimension);
        tally.lookups += 1;
        let Some(list) = list else { return };
        // A filter may be in the lists of several of an event's rooms or tags.
        let again = match dimension {
            Dimension::Room => self.event.rooms.len() > 1,
            Dimension::Tag => self.event.tags.len() > 1,
            _ => false,
        };
        let before = self.matched.len();
        for candidate in list.candidates(&self.probe) {
            if again || !candidate.remaining.is_nothing() {
                let interned = &mut self.filters[candidate.slot.at()];
                // It is asked once, whatever the answer: it may be in a thousand of the lists.
                if again && std::mem::replace(&mut interned.asked_in, self.number) == self.number {
                    continue;
                }
                if !candidate.remaining.admits(&interned.filter, self.event, &mut self.long) {
                    continue;
                }
            }
            self.matched.push(candidate.slot);
        }
        let matches = self.matched.len() - before;
        tally.matches += matches as u64;
        tally.hits += u64::from(matches > 0);
    }

    /// Ends the timing of a dimension.
    pub(super) fn lap(&mut self, dimension: Dimension) {
        if let Some(since) = &mut self.since {
            let now = Instant::now();
            self.statistics.of_mut(dimension).sampled += now.duration_since(*since);
            *since = now;
        }
    }
}
