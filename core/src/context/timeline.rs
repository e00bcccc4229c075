//! The last changes of one value, each with the event that made it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Point, Reading};
use crate::event::Timestamp;
use crate::ids::Seq;

/// A change of the value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Change<T> {
    /// The event that stated it.
    seq: Seq,
    /// When that event was stored.
    stored: Timestamp,
    /// The new value.
    value: T,
}

/// The last changes of a value, oldest first. An event that states the same value again is no change.
///
/// Older changes than these are forgotten. The value before the oldest is not known, and neither is whether there was
/// one: a reading gives `None` for both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Timeline<T>(VecDeque<Change<T>>);

impl<T> Default for Timeline<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Copy + PartialEq> Timeline<T> {
    /// Takes what the event at `point` states, and keeps the last `most` changes. Events come in order. Returns whether
    /// it is a change.
    pub(super) fn state(&mut self, point: Point, value: T, most: usize) -> bool {
        if self.0.back().is_some_and(|last| last.value == value || last.seq >= point.seq) {
            return false;
        }
        self.0.push_back(Change { seq: point.seq, stored: point.stored, value });
        self.keep_last(most);
        true
    }

    /// Forgets all but the last `most` changes.
    pub(super) fn keep_last(&mut self, most: usize) {
        while self.0.len() > most {
            self.0.pop_front();
        }
    }

    /// The event that made the last change.
    pub(super) fn last_change(&self) -> Option<Seq> {
        self.0.back().map(|change| change.seq)
    }

    /// The value before the event at `point`; for a replay only if it was the same since [`Point::settled`].
    pub(super) fn value(&self, point: Point, reading: Reading) -> Option<T> {
        let last = self.0.iter().rfind(|change| change.seq < point.seq)?;
        let is_settled = last.stored <= point.settled();
        // Neighbours differ, so a change after that time means another value before it.
        (reading == Reading::Live || is_settled).then_some(last.value)
    }
}
