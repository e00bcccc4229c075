//! How many catch-ups of a user are asked for at the same time, and what they cost. Pure.
//!
//! Sessions that lack about the same are given it together, which costs the routers what the range costs and not what the
//! sessions do. So those of a user that wait to be gathered share a place, and the range is paid for once: hundreds that
//! come back at the same moment wait for nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::backfill::ranges::CohortKey;

/// How many places a user has. Further sessions wait for these, so that one who asks for much of the past in many pieces
/// leaves others their turns.
const MOST: usize = 4;

/// The places of one user.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackfillSlots(Vec<(CohortKey, Weak<SharedSlot>)>);

/// What those know together who share a place. One thread alone reads and writes it.
#[derive(Debug, Default)]
struct SharedSlot {
    /// The gathering that they come with; 0 until it is known.
    cohort: AtomicU64,
    /// How much of what is read for them is paid for, in sequences.
    paid: AtomicU64,
}

/// A part in a place, which is free again when the last one is dropped.
#[derive(Debug)]
pub(crate) struct BackfillSlot(Arc<SharedSlot>);

impl BackfillSlots {
    /// A part in the place of those who lack about the same and wait to be gathered, if there are any.
    pub(crate) fn join(&self, class: CohortKey) -> Option<BackfillSlot> {
        let mut those = self.0.iter().filter(|(of, _)| *of == class).filter_map(|(_, shared)| shared.upgrade());
        those.find(|shared| shared.cohort.load(Ordering::Relaxed) == 0).map(BackfillSlot)
    }

    /// A place of its own, if one is free.
    pub(crate) fn take(&mut self, class: CohortKey) -> Option<BackfillSlot> {
        self.0.retain(|(_, shared)| shared.strong_count() > 0);
        if self.0.len() >= MOST {
            return None;
        }
        let shared = Arc::default();
        self.0.push((class, Arc::downgrade(&shared)));
        Some(BackfillSlot(shared))
    }
}

impl BackfillSlot {
    /// Its session comes with this gathering. One that missed the gathering of the others pays for its own.
    pub(crate) fn gathered(&mut self, cohort: u64) {
        let known = self.0.cohort.load(Ordering::Relaxed);
        if known != 0 && known != cohort {
            self.0 = Arc::default();
        }
        self.0.cohort.store(cohort, Ordering::Relaxed);
    }

    /// What is to be paid, where so much was read for its session.
    pub(crate) fn pay(&self, read: u64) -> u64 {
        let paid = self.0.paid.fetch_max(read, Ordering::Relaxed);
        read.saturating_sub(paid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::Seq;

    fn class(from: u64) -> CohortKey {
        CohortKey::of(&[Seq(from)], &[Seq(from + 100)])
    }

    /// A part in a place, as a session looks for one.
    fn find(places: &mut BackfillSlots, from: u64) -> Option<BackfillSlot> {
        places.join(class(from)).or_else(|| places.take(class(from)))
    }

    #[test]
    fn a_crowd_that_lacks_the_same_has_one_place_and_pays_for_it_once() {
        let mut places = BackfillSlots::default();
        let mut crowd: Vec<BackfillSlot> = (0..500).filter_map(|_| find(&mut places, 7)).collect();
        assert_eq!((crowd.len(), places.0.len()), (500, 1));
        crowd.iter_mut().for_each(|place| place.gathered(3));
        let paid: u64 = crowd.iter().map(|place| place.pay(1_000)).sum();
        assert_eq!((paid, crowd[9].pay(1_500), crowd[3].pay(1_400)), (1_000, 500, 0));
        // Who comes when it has begun waits for the next one, in a place of its own.
        let late = find(&mut places, 7).unwrap();
        assert_eq!((late.pay(10), places.0.len()), (10, 2));
        drop(crowd);
        let others: Vec<BackfillSlot> = (1..9).filter_map(|n| find(&mut places, n * 1_000_000)).collect();
        assert_eq!(others.len(), MOST - 1, "one place is the late one's");
        drop((late, others));
        assert!(find(&mut places, 9_000_000).is_some() && places.0.len() == 1);
    }

    #[test]
    fn who_misses_the_gathering_of_its_place_pays_for_another() {
        let mut places = BackfillSlots::default();
        let (mut first, mut second) = (find(&mut places, 7).unwrap(), find(&mut places, 7).unwrap());
        assert_eq!((first.pay(100), second.pay(100)), (100, 0));
        first.gathered(1);
        second.gathered(2);
        assert_eq!((first.pay(100), second.pay(100)), (0, 100));
    }
}
