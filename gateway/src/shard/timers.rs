//! Timers of sessions. Times close to each other share a slot, so that a thousand windows that end in the same
//! milliseconds cost one wake-up, and their sockets are written right after each other.

use std::collections::BTreeMap;

use tickwire_core::ids::Millis;

/// Sessions by the slot of their timer.
///
/// Timers are not cancelled: the caller of [`Timers::pop_due`] must check whether the session still waits for it.
#[derive(Debug)]
pub(crate) struct Timers {
    slot_ms: u64,
    slots: BTreeMap<u64, Vec<u64>>,
}

impl Timers {
    /// No timers yet. Slots have `slot_ms` milliseconds: no timer fires early, and none is later than that.
    pub(crate) fn new(slot_ms: u64) -> Self {
        Self { slot_ms, slots: BTreeMap::new() }
    }

    /// The time at which a timer for `at` fires.
    pub(crate) fn round(&self, at: Millis) -> Millis {
        Millis(at.0.next_multiple_of(self.slot_ms))
    }

    /// Sets a timer for a session. `at` must be rounded.
    pub(crate) fn set(&mut self, at: Millis, number: u64) {
        self.slots.entry(at.0).or_default().push(number);
    }

    /// When [`Self::pop_due`] has something next.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.slots.first_key_value().map(|(at, _)| Millis(*at))
    }

    /// Removes the first slot that is due. Returns its time and its sessions.
    pub(crate) fn pop_due(&mut self, now: Millis) -> Option<(Millis, Vec<u64>)> {
        let first = self.slots.first_entry().filter(|slot| *slot.key() <= now.0)?;
        let (at, numbers) = first.remove_entry();
        Some((Millis(at), numbers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_of_a_slot_fire_together_and_not_early() {
        let mut timers = Timers::new(4);
        assert_eq!([0, 1, 4, 5].map(|at| timers.round(Millis(at)).0), [0, 4, 4, 8]);
        for (at, number) in [(1, 1), (4, 2), (5, 3)] {
            timers.set(timers.round(Millis(at)), number);
        }
        assert_eq!((timers.pop_due(Millis(3)), timers.next()), (None, Some(Millis(4))));
        assert_eq!(timers.pop_due(Millis(9)), Some((Millis(4), vec![1, 2])));
        assert_eq!(timers.pop_due(Millis(9)), Some((Millis(8), vec![3])));
        assert_eq!(timers.next(), None);
    }
}
