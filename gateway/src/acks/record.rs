//! What a user has acknowledged: one value of the bucket, of bounded size. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::wire::{self, WireError};
use tickwire_node::clock::millis;
use tickwire_node::provision::ACKS_KEPT;

/// The most acknowledgements of a user that are kept.
const MOST: usize = 1_000;

/// An acknowledged alert. The time tells it from an event of another epoch with the same sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct AckedAlert {
    /// When the stream stored it.
    pub(crate) stored: Timestamp,
    /// Its partition.
    pub(crate) p: Partition,
    /// Its sequence.
    pub(crate) seq: Seq,
}

/// All that a user has acknowledged, of the alerts that are not older than [`ACKS_KEPT`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AckRecord {
    /// The oldest first.
    alerts: BTreeSet<AckedAlert>,
}

impl AckRecord {
    /// Reads the value of a key.
    pub(crate) fn read(value: &[u8]) -> Result<Self, WireError> {
        let alerts: Vec<AckedAlert> = wire::decode(value)?;
        Ok(Self { alerts: alerts.into_iter().collect() })
    }

    /// The value of the key.
    pub(crate) fn write(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(&self.alerts.iter().collect::<Vec<_>>())
    }

    /// The acknowledged alerts, by their sequences, each with the time when it was stored.
    pub(crate) fn sequences(&self) -> Vec<(Seq, Timestamp)> {
        let mut sequences: Vec<_> = self.alerts.iter().map(|alert| (alert.seq, alert.stored)).collect();
        sequences.sort_unstable();
        sequences
    }

    /// From when on it has every acknowledgement, if it may have forgotten earlier ones because there were too many.
    pub(crate) fn complete_since(&self) -> Option<Timestamp> {
        self.alerts.first().filter(|_| self.alerts.len() >= MOST).map(|oldest| oldest.stored)
    }

    /// Adds acknowledgements, and forgets those of old alerts. Returns whether any was added.
    pub(crate) fn add(&mut self, now: Timestamp, acked: &[AckedAlert]) -> bool {
        let oldest = Timestamp(now.0.saturating_sub_unsigned(millis(ACKS_KEPT)));
        let mut added = false;
        for alert in acked.iter().filter(|alert| alert.stored >= oldest) {
            added |= self.alerts.insert(*alert);
        }
        self.alerts.retain(|alert| alert.stored >= oldest);
        while self.alerts.len() > MOST {
            self.alerts.pop_first();
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use tickwire_testkit::assert_vectors;

    use super::*;

    fn alert(stored: i64, seq: u64) -> AckedAlert {
        AckedAlert { stored: Timestamp(stored), p: Partition(3), seq: Seq(seq) }
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let mut record = AckRecord::default();
        assert!(record.add(Timestamp(9), &[alert(7, 2), alert(5, 1)]));
        assert!(!record.add(Timestamp(9), &[alert(5, 1)]), "it is there already");
        assert_eq!(AckRecord::read(&record.write().unwrap()).unwrap(), record);
        assert!(AckRecord::read(b"foreign").is_err());
        assert_eq!(record.sequences(), [(Seq(1), Timestamp(5)), (Seq(2), Timestamp(7))]);
        assert_eq!(record.complete_since(), None);
    }

    #[test]
    fn old_alerts_are_forgotten_and_not_added() {
        let mut record = AckRecord::default();
        let kept = millis(ACKS_KEPT) as i64;
        record.add(Timestamp(10), &[alert(10, 1)]);
        assert!(!record.add(Timestamp(20 + kept), &[alert(19, 2)]), "it is too old");
        assert_eq!(record, AckRecord::default());
        assert!(record.add(Timestamp(20 + kept), &[alert(20, 3)]));
    }

    #[test]
    fn newest_acknowledgements_are_kept() {
        let mut record = AckRecord::default();
        let alerts: Vec<AckedAlert> = (0..MOST as i64 + 5).map(|at| alert(at, at as u64 + 1)).collect();
        record.add(Timestamp(5_000), &alerts);
        assert_eq!((record.alerts.len(), record.alerts.first()), (MOST, Some(&alert(5, 6))));
        assert_eq!(record.complete_since(), Some(Timestamp(5)));
        let bytes = record.write().unwrap().len();
        assert!(bytes < 32 * 1024, "{bytes} bytes");
    }

    #[test]
    fn record_has_the_documented_form() {
        assert_vectors::<Vec<AckedAlert>>("acks");
    }
}
