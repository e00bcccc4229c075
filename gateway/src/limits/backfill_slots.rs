//! How many backfills of a user are requested at the same time, and what they cost. Pure.
//!
//! Sessions that lack about the same range share a cohort, whose cost for the routers depends on the range, not on the
//! number of sessions. So the sessions of a user that wait for the same cohort share a slot, and the range is paid for
//! once: hundreds of sessions that reconnect at the same moment do not wait for each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tickwire_core::ids::Seq;

/// How many slots a user has. Further sessions wait, so that a user who asks for many ranges does not block others.
const MOST: usize = 4;

/// The smallest size class: fewer than 4,096 sequences, which is four to the power of this plus one. To ask for so few
/// costs more than to read them, so sessions that lack so few share a cohort. A gateway that is behind gets larger
/// cohorts.
const LEAST_SIZE: u32 = 5;

/// What sessions of a cohort have in common: they lack about as much, in about the same place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CohortKey {
    /// How much each lacks: fewer sequences than four to the power of `size + 1`. It is [`LEAST_SIZE`] at least.
    size: u32,
    /// The place in the stream, in units of that many sequences. It separates old ranges from recent ones of one size.
    place: u64,
}

impl CohortKey {
    /// The key of the range `(from, to]` of each partition.
    pub(crate) fn of(from: &[Seq], to: &[Seq]) -> Self {
        let missing = from.iter().zip(to).map(|(from, to)| to.0.saturating_sub(from.0)).max();
        let size = (missing.unwrap_or(0).max(1).ilog2() / 2).max(LEAST_SIZE);
        let newest = from.iter().max().map_or(0, |seq| seq.0);
        Self { size, place: newest.checked_shr(2 * (size + 1)).unwrap_or(0) }
    }
}

/// The slots of one user.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackfillSlots(Vec<(CohortKey, Weak<SharedSlot>)>);

/// What the sessions in a slot share. Only one thread reads and writes it.
#[derive(Debug, Default)]
struct SharedSlot {
    /// The cohort of the sessions; 0 until it is known.
    cohort: AtomicU64,
    /// How many of the sequences read for them are paid for.
    paid: AtomicU64,
}

/// A share in a slot. The slot is free again when its last share is dropped.
#[derive(Debug)]
pub(crate) struct BackfillSlot(Arc<SharedSlot>);

impl BackfillSlots {
    /// A share in the slot of sessions that wait for a cohort with this key, if there is one.
    pub(crate) fn join(&self, key: CohortKey) -> Option<BackfillSlot> {
        let mut slots = self.0.iter().filter(|(of, _)| *of == key).filter_map(|(_, shared)| shared.upgrade());
        slots.find(|shared| shared.cohort.load(Ordering::Relaxed) == 0).map(BackfillSlot)
    }

    /// A new slot, if the user may have one more.
    pub(crate) fn take(&mut self, key: CohortKey) -> Option<BackfillSlot> {
        self.0.retain(|(_, shared)| shared.strong_count() > 0);
        if self.0.len() >= MOST {
            return None;
        }
        let shared = Arc::default();
        self.0.push((key, Arc::downgrade(&shared)));
        Some(BackfillSlot(shared))
    }
}

impl BackfillSlot {
    /// The session is in this cohort now. If the others of the slot are in another cohort, it gets a slot of its own
    /// and pays for its range.
    pub(crate) fn joined_cohort(&mut self, cohort: u64) {
        let known = self.0.cohort.load(Ordering::Relaxed);
        if known != 0 && known != cohort {
            self.0 = Arc::default();
        }
        self.0.cohort.store(cohort, Ordering::Relaxed);
    }

    /// What must be paid after `read` sequences were read for its session.
    pub(crate) fn pay(&self, read: u64) -> u64 {
        let paid = self.0.paid.fetch_max(read, Ordering::Relaxed);
        read.saturating_sub(paid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(from: u64) -> CohortKey {
        CohortKey::of(&[Seq(from)], &[Seq(from + 100)])
    }

    /// Finds a slot as a session does.
    fn find(slots: &mut BackfillSlots, from: u64) -> Option<BackfillSlot> {
        slots.join(key(from)).or_else(|| slots.take(key(from)))
    }

    #[test]
    fn sessions_with_the_same_range_share_one_slot_and_pay_once() {
        let mut slots = BackfillSlots::default();
        let mut crowd: Vec<BackfillSlot> = (0..500).filter_map(|_| find(&mut slots, 7)).collect();
        assert_eq!((crowd.len(), slots.0.len()), (500, 1));
        crowd.iter_mut().for_each(|slot| slot.joined_cohort(3));
        let paid: u64 = crowd.iter().map(|slot| slot.pay(1_000)).sum();
        assert_eq!((paid, crowd[9].pay(1_500), crowd[3].pay(1_400)), (1_000, 500, 0));
        // A session that arrives after the cohort has begun waits for the next one, in a slot of its own.
        let late = find(&mut slots, 7).unwrap();
        assert_eq!((late.pay(10), slots.0.len()), (10, 2));
        drop(crowd);
        let others: Vec<BackfillSlot> = (1..9).filter_map(|n| find(&mut slots, n * 1_000_000)).collect();
        assert_eq!(others.len(), MOST - 1, "one slot belongs to the late session");
        drop((late, others));
        assert!(find(&mut slots, 9_000_000).is_some() && slots.0.len() == 1);
    }

    #[test]
    fn session_in_another_cohort_than_its_slot_pays_for_itself() {
        let mut slots = BackfillSlots::default();
        let (mut first, mut second) = (find(&mut slots, 7).unwrap(), find(&mut slots, 7).unwrap());
        assert_eq!((first.pay(100), second.pay(100)), (100, 0));
        first.joined_cohort(1);
        second.joined_cohort(2);
        assert_eq!((first.pay(100), second.pay(100)), (0, 100));
    }
}
