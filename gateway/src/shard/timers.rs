//! When sessions are to be looked at. Moments near each other share a slot, so that a thousand windows that end in the
//! same milliseconds cost one wake-up, and their sockets are written one right after the other.

use std::collections::BTreeMap;

use tickwire_core::ids::Millis;

/// Sessions by the slot in which their time comes.
///
/// A session is taken out of no slot: whoever gets a number from [`Timers::pop_due`] asks the session whether it still
/// waits for that moment.
#[derive(Debug)]
pub(crate) struct Timers {
    slot_ms: u64,
    slots: BTreeMap<u64, Vec<u64>>,
}

impl Timers {
    /// No timers, in slots of `slot_ms` milliseconds: no timer fires early, and none later than that.
    pub(crate) fn new(slot_ms: u64) -> Self {
        Self { slot_ms, slots: BTreeMap::new() }
    }

    /// The moment at which a timer for `at` fires.
    pub(crate) fn round(&self, at: Millis) -> Millis {
        Millis(at.0.next_multiple_of(self.slot_ms))
    }

    /// A session is to be looked at. `at` was rounded.
    pub(crate) fn set(&mut self, at: Millis, number: u64) {
        self.slots.entry(at.0).or_default().push(number);
    }

    /// When [`Self::pop_due`] next has something.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.slots.first_key_value().map(|(at, _)| Millis(*at))
    }

    /// The first slot whose time has come: its moment, and the sessions.
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
    fn timers_of_a_slot_fire_together_and_never_early() {
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
