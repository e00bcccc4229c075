//! One event's walk through the lists: it notes the filters that match, each once, and counts.

use std::time::Instant;

use slab::Slab;
use tickwire_core::event::Event;

use super::list::{List, Probe};
use super::statistics::{Dimension, Statistics};
use super::{Interned, Slot};

/// A walk under way.
#[derive(Debug)]
pub(super) struct MatchWalk<'a> {
    pub(super) event: &'a Event,
    pub(super) probe: Probe,
    pub(super) filters: &'a mut Slab<Interned>,
    /// The filters that match so far.
    pub(super) matched: &'a mut Vec<Slot>,
    pub(super) statistics: &'a mut Statistics,
    /// Tells this walk from all others.
    pub(super) number: u64,
    /// When the part under way began, if this walk is one of those that are timed.
    pub(super) since: Option<Instant>,
}

impl MatchWalk<'_> {
    /// Notes what matches in the list of one value of the event, if there is such a list.
    pub(super) fn look(&mut self, dimension: Dimension, list: Option<&List>) {
        let tally = self.statistics.of_mut(dimension);
        tally.lookups += 1;
        let Some(list) = list else { return };
        // A filter may stand under several of an event's rooms or tags.
        let again = match dimension {
            Dimension::Room => self.event.rooms.len() > 1,
            Dimension::Tag => self.event.tags.len() > 1,
            _ => false,
        };
        let before = self.matched.len();
        for candidate in list.candidates(&self.probe) {
            if again || !candidate.remaining.is_nothing() {
                let interned = &mut self.filters[candidate.slot.at()];
                if again && interned.matched_in == self.number {
                    continue;
                }
                if !candidate.remaining.admits(&interned.filter, self.event) {
                    continue;
                }
                interned.matched_in = self.number;
            }
            self.matched.push(candidate.slot);
        }
        let matches = self.matched.len() - before;
        tally.matches += matches as u64;
        tally.hits += u64::from(matches > 0);
    }

    /// A dimension has been looked through.
    pub(super) fn lap(&mut self, dimension: Dimension) {
        if let Some(since) = &mut self.since {
            let now = Instant::now();
            self.statistics.of_mut(dimension).sampled += now.duration_since(*since);
            *since = now;
        }
    }
}
