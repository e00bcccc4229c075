//! Which fields of events all wants test together: by it, an event gets its class for the route cache.

use crate::event::Event;
use crate::ids::{Confidence, Room};
use crate::interest::Want;
use crate::route_cache::ClassKey;

/// How many wants test each field. Kind and symbol are always tested.
#[derive(Debug, Default)]
pub(crate) struct WantedFields {
    tiers: usize,
    patterns: usize,
    rooms: usize,
    priorities: usize,
    /// Every threshold of a confidence, sorted, with the number of wants that have it.
    confidences: Vec<(Confidence, usize)>,
}

impl WantedFields {
    /// Another topic has this want.
    pub(crate) fn add(&mut self, want: &Want) {
        for (count, is_tested) in self.counts(want) {
            *count += usize::from(is_tested);
        }
        let Some(least) = want.min_confidence else { return };
        match self.place(least) {
            Ok(at) => self.confidences[at].1 += 1,
            Err(at) => self.confidences.insert(at, (least, 1)),
        }
    }

    /// A topic no longer has this want, which was added.
    pub(crate) fn remove(&mut self, want: &Want) {
        for (count, is_tested) in self.counts(want) {
            *count = count.saturating_sub(usize::from(is_tested));
        }
        let Some(Ok(at)) = want.min_confidence.map(|least| self.place(least)) else { return };
        let (_, count) = &mut self.confidences[at];
        *count -= 1;
        if *count == 0 {
            self.confidences.remove(at);
        }
    }

    /// The counters of the fields without thresholds, each with whether `want` tests the field.
    fn counts(&mut self, want: &Want) -> [(&mut usize, bool); 4] {
        [
            (&mut self.tiers, want.tiers.is_some()),
            (&mut self.patterns, want.patterns.is_some()),
            (&mut self.rooms, want.rooms.is_some()),
            (&mut self.priorities, want.min_priority.is_some()),
        ]
    }

    fn place(&self, confidence: Confidence) -> Result<usize, usize> {
        self.confidences.binary_search_by_key(&confidence, |(least, _)| *least)
    }

    /// Writes the class of an event. As long as the wants stay the same, every want admits either all events of a class
    /// or none of them.
    pub(crate) fn write_class(&self, event: &Event, key: &mut ClassKey) {
        key.text(event.kind.as_str());
        key.optional_text(event.symbol.as_ref().map(|symbol| symbol.as_str()));
        if self.tiers > 0 {
            key.byte(event.tier.map_or(u8::MAX, |tier| tier as u8));
        }
        if self.patterns > 0 {
            key.optional_text(event.pattern.as_ref().map(|pattern| pattern.as_str()));
        }
        if self.rooms > 0 {
            key.number(event.rooms.len());
            event.rooms.iter().map(Room::as_str).for_each(|room| key.text(room));
        }
        if self.priorities > 0 {
            key.byte(event.priority as u8);
        }
        if !self.confidences.is_empty() {
            // The number of thresholds that it reaches, or that there is none.
            let reached = |confidence| self.confidences.partition_point(|(least, _)| *least <= confidence);
            key.number(event.confidence.map_or(0, |confidence| 1 + reached(confidence)));
        }
    }
}
