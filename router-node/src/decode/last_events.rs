//! The last event of each kind that the live path has read, for the status of the router.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tickwire_core::event::{Kind, Timestamp};
use tickwire_core::ids::Seq;

/// The last event of each kind.
#[derive(Debug, Default)]
pub(crate) struct LastEvents(
    // All intakes share it. Held to change one entry, or to copy some.
    Mutex<BTreeMap<Kind, LastEvent>>,
);

/// An event that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LastEvent {
    /// When it was stored.
    pub(crate) stored: Timestamp,
    /// Its sequence.
    pub(crate) seq: Seq,
}

impl LastEvents {
    /// Notes an event. Partitions are read side by side, so it may be older than another one.
    pub(crate) fn note(&self, kind: &Kind, event: LastEvent) {
        let mut known = self.lock();
        match known.get_mut(kind) {
            Some(last) => *last = event.max(*last),
            None => {
                known.insert(kind.clone(), event);
            }
        }
    }

    /// The last event of each kind that there was.
    pub(crate) fn all(&self) -> BTreeMap<Kind, LastEvent> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, LastEvent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_event_of_each_kind_is_kept() {
        let last = LastEvents::default();
        let event = |stored, seq| LastEvent { stored: Timestamp(stored), seq: Seq(seq) };
        for (kind, event) in [(Kind::Pattern, event(5, 9)), (Kind::Market, event(4, 8)), (Kind::Pattern, event(3, 7))] {
            last.note(&kind, event);
        }
        assert_eq!(last.all(), BTreeMap::from([(Kind::Pattern, event(5, 9)), (Kind::Market, event(4, 8))]));
    }
}
