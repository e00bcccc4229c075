//! One rule: valid and compiled.

use std::collections::BTreeSet;

use compact_str::CompactString;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::condition::RuleCondition;
use super::slots::SlotTable;
use super::transform::Transform;
use super::type_pattern::{TypePattern, type_of_event};
use crate::event::{Event, Kind, Priority, Strategy};
use crate::filter::long_values::LongValues;
use crate::ids::{Room, Seq};
use crate::placement::hash;

/// A valid rule. [`Rule::parse`] makes it, and it is written as it was read.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its id, which is unique in a set.
    pub id: CompactString,
    /// Its name, for people; its id if it has none.
    pub name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// Whether it is applied.
    pub enabled: bool,
    /// Rules with lower numbers come first; those with equal numbers in the order of their ids.
    pub order: i64,
    pub(super) when: When,
    pub(super) actions: RuleActions,
    pub(super) source: Value,
    /// The size of the source.
    pub(super) bytes: usize,
}

/// Which events a rule matches.
#[derive(Clone, Debug, Default)]
pub(super) struct When {
    /// `None` means any. No set is empty.
    pub(super) kinds: Option<BTreeSet<Kind>>,
    pub(super) event_type: Option<TypePattern>,
    pub(super) conditions: Vec<RuleCondition>,
}

/// What a rule does with the events that it matches.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleActions {
    pub(super) strategy: Option<Strategy>,
    /// As the rule names them; without duplicates.
    pub(super) rooms: Vec<Room>,
    /// For `load_balanced`.
    pub(super) slots: Option<SlotTable>,
    pub(super) set_priority: Option<Priority>,
    pub(super) add_tags: Vec<CompactString>,
    pub(super) transform: Transform,
    pub(super) ttl_ms: Option<u64>,
    pub(super) sample: Option<Sample>,
    pub(super) drop: bool,
}

/// Which share of the events a rule keeps, above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample(pub(super) f64);

impl When {
    /// Whether `event`, whose kind is one of these, also meets all other conditions. All rules that are asked about one
    /// event share `long`.
    pub(super) fn admits<'e>(&self, event: &'e Event, long: &mut LongValues<'e>) -> bool {
        self.event_type.as_ref().is_none_or(|pattern| pattern.matches(type_of_event(event)))
            && self.conditions.iter().all(|condition| condition.holds(event, long))
    }
}

impl RuleActions {
    /// Whether the sample does not keep the event with this sequence.
    pub(super) fn samples_out(&self, seq: Seq) -> bool {
        self.sample.is_some_and(|sample| !sample.keeps(seq))
    }

    /// The one room for an event, if the strategy chooses one.
    pub(super) fn chosen_room(&self, key: &str, seq: Seq) -> Option<&Room> {
        let index = match self.strategy? {
            Strategy::LoadBalanced => self.slots.as_ref()?.room_of(key)?,
            Strategy::RoundRobin => usize::try_from(seq.0.checked_rem(self.rooms.len() as u64)?).ok()?,
            Strategy::Content | Strategy::Broadcast | Strategy::PriorityFirst => return None,
        };
        self.rooms.get(index)
    }
}

impl Sample {
    /// Whether the event with this sequence is kept. A larger share keeps all that a smaller one keeps.
    fn keeps(self, seq: Seq) -> bool {
        // The upper 53 bits of the hash are a float without rounding, from 0 to just under 1.
        let place = (hash(&seq.0.to_be_bytes()) >> 11) as f64 / (1_u64 << 53) as f64;
        place < self.0
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.source.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_keeps_the_sequences_of_the_golden_vector() {
        let kept: Vec<u64> = (1..=40).filter(|seq| Sample(0.25).keeps(Seq(*seq))).collect();
        assert_eq!(kept, [5, 6, 7, 19, 21, 24, 27, 28, 29, 33, 36, 38]);
        assert_eq!((1..=10_000).filter(|seq| Sample(0.1).keeps(Seq(*seq))).count(), 1_020);
        assert!((1..=10_000).all(|seq| Sample(1.0).keeps(Seq(seq))));
    }
}
