//! The decision of all rules on one event.

use super::rule::RuleActions;
use super::{Rule, RuleIndex, RuleRevision, RuleSet};
use crate::event::{Event, Handling, Priority, Strategy};
use crate::ids::{Room, Seq};

/// Whether an event goes anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is routed.
    #[default]
    Kept,
    /// The sample of this rule does not keep it.
    SampledOut(RuleIndex),
    /// This rule drops it.
    Dropped(RuleIndex),
}

/// What the rules of a set decided on one event.
#[derive(Debug)]
pub struct Routed<'r> {
    set: &'r RuleSet,
    /// The rules that matched, in order. If one of them ended it, that is the last.
    pub matched: Vec<RuleIndex>,
    /// Whether the event goes anywhere. If not, the fields below mean nothing.
    pub fate: Fate,
    /// How it is spread.
    pub strategy: Strategy,
    /// The rule that named the strategy.
    decided_by: Option<RuleIndex>,
    /// The one room of that rule that the strategy chose.
    pub chosen_room: Option<&'r Room>,
    /// The priority that it gets, if a rule sets one.
    pub priority: Option<Priority>,
    /// How long after it was stored it is of use, in milliseconds.
    pub ttl_ms: Option<u64>,
}

impl<'r> Routed<'r> {
    /// No rule has matched.
    pub(super) fn unchanged(set: &'r RuleSet) -> Self {
        Self {
            set,
            matched: Vec::new(),
            fate: Fate::Kept,
            strategy: Strategy::Content,
            decided_by: None,
            chosen_room: None,
            priority: None,
            ttl_ms: None,
        }
    }

    /// Adds what a rule that matches says.
    pub(super) fn add(&mut self, index: RuleIndex, actions: &'r RuleActions, event: &Event, seq: Seq) {
        self.matched.push(index);
        if actions.drop {
            self.fate = Fate::Dropped(index);
            return;
        }
        if actions.samples_out(seq) {
            self.fate = Fate::SampledOut(index);
            return;
        }
        if let Some(strategy) = actions.strategy {
            self.strategy = strategy;
            self.decided_by = Some(index);
            self.chosen_room = actions.chosen_room(&event.key, seq);
        }
        self.priority = actions.set_priority.or(self.priority);
        self.ttl_ms = actions.ttl_ms.or(self.ttl_ms);
    }

    /// Whether later rules are not asked.
    pub(super) fn has_ended(&self) -> bool {
        self.fate != Fate::Kept
    }

    /// The revision of the rules.
    #[must_use]
    pub fn revision(&self) -> RuleRevision {
        self.set.revision()
    }

    /// Whether no rule has matched, so that the event is as it was.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.matched.is_empty()
    }

    /// The rules that matched, in order.
    pub fn rules(&self) -> impl Iterator<Item = &'r Rule> {
        let set = self.set;
        self.matched.iter().map(move |index| set.rule(*index))
    }

    /// The rule that named the strategy; `None` if none did.
    #[must_use]
    pub fn strategy_rule(&self) -> Option<&'r Rule> {
        let set = self.set;
        self.decided_by.map(|index| set.rule(index))
    }

    /// What a gateway has to know; `None` if that is nothing.
    #[must_use]
    pub fn handling(&self) -> Option<Handling> {
        let rooms = match (self.strategy, self.decided_by) {
            (Strategy::Broadcast, Some(index)) => self.set.rule(index).actions.rooms.clone(),
            _ => Vec::new(),
        };
        let handling = Handling { strategy: self.strategy, rooms, ttl_ms: self.ttl_ms };
        (handling != Handling::default()).then_some(handling)
    }

    /// Makes the changes in the event that was decided on: its priority, tags, rooms and data. Its audience, its key and
    /// all that its order depends on stay.
    pub fn change(&self, event: &mut Event) {
        self.change_without_data(event);
        self.rules().for_each(|rule| rule.actions.transform.change(&mut event.data));
    }

    /// Makes the changes but for those of the data, for an event that these would make too large.
    pub fn change_without_data(&self, event: &mut Event) {
        if self.is_unchanged() {
            return;
        }
        event.priority = self.priority.unwrap_or(event.priority);
        self.rules().for_each(|rule| event.tags.extend_from_slice(&rule.actions.add_tags));
        event.tags.sort_unstable();
        event.tags.dedup();
        self.change_rooms(&mut event.rooms);
    }

    fn change_rooms(&self, rooms: &mut Vec<Room>) {
        for index in &self.matched {
            let actions = &self.set.rule(*index).actions;
            let is_owned = actions.strategy.is_some_and(Strategy::owns_rooms);
            if !is_owned || self.decided_by == Some(*index) && self.strategy == Strategy::Broadcast {
                rooms.extend_from_slice(&actions.rooms);
            }
        }
        // Last, so that no other rule adds a room again that was not chosen.
        if let (Some(chosen), Some(index)) = (self.chosen_room, self.decided_by) {
            let choice = &self.set.rule(index).actions.rooms;
            rooms.retain(|room| !choice.contains(room));
            rooms.push(chosen.clone());
        }
        rooms.sort_unstable();
        rooms.dedup();
    }
}
