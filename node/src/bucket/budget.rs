//! How much one reading of a bucket takes at most. Whoever may write to NATS may fill a bucket, also while it is read:
//! a reading that never ends would take all memory.

use super::BucketEntry;
use crate::names::{RULES_BUCKET, SUBSCRIPTIONS_BUCKET};
use std::sync::atomic::{AtomicU64, Ordering};

const MIB: u64 = 1024 * 1024;

/// What an entry takes beside its key and its value, in bytes.
const ENTRY_BYTES: u64 = 64;

/// The bytes that one reading has taken. The parts of a reading share it.
#[derive(Debug)]
pub(super) struct ReadBudget {
    taken: AtomicU64,
    most: u64,
}

/// The most bytes of entries that a reading of a bucket takes.
pub(super) fn most_bytes(bucket: &str) -> u64 {
    match bucket {
        // Rules are limited together, and routers keep their text.
        RULES_BUCKET => 16 * MIB,
        // It grows with the users.
        SUBSCRIPTIONS_BUCKET => 1_024 * MIB,
        _ => 256 * MIB,
    }
}

impl ReadBudget {
    /// That of one reading of a bucket.
    pub(super) fn of(bucket: &str) -> Self {
        Self { taken: AtomicU64::new(0), most: most_bytes(bucket) }
    }

    /// Takes an entry. Returns whether there was room for it.
    pub(super) fn take(&self, entry: &BucketEntry) -> bool {
        let size = ENTRY_BYTES + entry.key.len() as u64 + entry.value.len() as u64;
        self.taken.fetch_add(size, Ordering::Relaxed) + size <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::event::Timestamp;

    fn entry(bytes: u64) -> BucketEntry {
        let value = vec![0; usize::try_from(bytes).unwrap()];
        BucketEntry { key: "a".to_owned(), revision: 1, stored: Timestamp(0), value }
    }

    #[test]
    fn reading_ends_when_its_entries_take_too_much() {
        let budget = ReadBudget::of(RULES_BUCKET);
        assert!((0..15).all(|_| budget.take(&entry(MIB))));
        assert!(!budget.take(&entry(MIB)), "keys count as well");
        let budget = ReadBudget::of(RULES_BUCKET);
        let deleted = entry(0);
        let count = (0..1_000_000).take_while(|_| budget.take(&deleted)).count();
        assert_eq!(count as u64, 16 * MIB / (ENTRY_BYTES + 1), "and so do the marks of deleted keys");
    }
}
