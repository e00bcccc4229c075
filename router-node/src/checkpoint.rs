//! One lease as it was read: its content, and how long it has not been written. Pure.

use serde::{Deserialize, Serialize};
use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::ids::{EpochId, Millis, Seq};
use tickwire_node::lease::{LeaseRead, LeaseRecord};

/// A message of the stream that was read: its sequence, and when the server stored it, in milliseconds since 1970. A
/// stream that has lost its end may give the sequence to another message, but not with the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Its sequence.
    pub seq: Seq,
    /// When it was stored.
    pub stored: i64,
}

/// The state in a lease: up to where everything was published, in which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// A new owner reads messages after this sequence.
    pub checkpoint: Seq,
    /// The epoch of that sequence.
    pub epoch_id: EpochId,
    /// The last message that was read up to there. Checkpoints of older versions have none.
    #[serde(default)]
    pub mark: Option<Mark>,
}

impl Checkpoint {
    /// The coverage of a gateway, in the form of a checkpoint.
    pub(crate) fn of(reached: GatewayCoverage) -> Self {
        let GatewayCoverage { epoch_id, through, last } = reached;
        Self { checkpoint: through, epoch_id, mark: last.map(|(seq, stored)| Mark { seq, stored: stored.0 }) }
    }

    /// Whether its values are possible.
    pub(crate) fn is_possible(&self) -> bool {
        self.epoch_id <= EpochId::LAST && self.mark.is_none_or(|mark| mark.seq <= self.checkpoint)
    }
}

/// How far a source was read and published, and the last message of that range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceProgress {
    /// Everything up to this sequence.
    pub checkpoint: Seq,
    /// The last message that was read; `None` if none was.
    pub mark: Option<Mark>,
}

/// A lease that is not ours, as it was last read.
#[derive(Debug)]
pub(crate) struct SeenLease {
    pub(crate) read: LeaseRead<Checkpoint>,
    /// For how long it was not written, in milliseconds: the time between answered reads. While KV does not answer, the
    /// owner cannot write either, and this time does not count.
    pub(crate) quiet: u64,
    /// Whether it was overwritten by a foreign writer since it was read as free. An owner would renew it soon.
    pub(crate) is_in_doubt: bool,
    last: Millis,
}

impl SeenLease {
    /// The first read.
    pub(crate) fn new(now: Millis, read: LeaseRead<Checkpoint>) -> Self {
        Self { read: checked(read), quiet: 0, is_in_doubt: false, last: now }
    }

    /// Takes another read. Between two reads, at most `longest` milliseconds count. Any other revision means that the
    /// lease was written, also a lower one: a KV that has lost its end uses revisions again. A lease that was given
    /// back late, after more than half of its `ttl` without a renewal, has been without an owner for the rest.
    pub(crate) fn take_read(&mut self, now: Millis, read: LeaseRead<Checkpoint>, longest: u64, ttl: u64) {
        let quiet = self.quiet.saturating_add(now.since(self.last).min(longest));
        if read.is_foreign {
            // A router may have taken a free lease before it was overwritten. Otherwise the owner is known from an
            // earlier read, and has not written.
            let was_free = !self.read.is_unreadable && self.read.record.as_ref().is_none_or(|it| it.owner.is_none());
            let is_new_doubt = was_free && !std::mem::replace(&mut self.is_in_doubt, true);
            (self.read.revision, self.quiet, self.last) = (read.revision, if is_new_doubt { 0 } else { quiet }, now);
            return;
        }
        self.is_in_doubt = false;
        let is_given_back = read.record.as_ref().is_some_and(|record| record.owner.is_none());
        self.quiet = match read.revision == self.read.revision {
            true => quiet,
            false if is_given_back => self.quiet.saturating_sub(ttl / 2),
            false => 0,
        };
        (self.read, self.last) = (checked(read), now);
    }

    /// The checkpoint that the last owner wrote.
    pub(crate) fn written(&self) -> Option<Checkpoint> {
        self.read.record.as_ref().map(|record| record.state)
    }
}

/// An impossible record counts as unreadable: it has an owner until it is stale, and no checkpoint.
fn checked(read: LeaseRead<Checkpoint>) -> LeaseRead<Checkpoint> {
    match read {
        LeaseRead { revision, record: Some(LeaseRecord { state, .. }), .. } if !state.is_possible() => {
            LeaseRead { revision, record: None, is_unreadable: true, is_foreign: false }
        }
        // It has an owner, but which one is not known.
        LeaseRead { revision, is_foreign: true, .. } => {
            LeaseRead { revision, record: None, is_unreadable: true, is_foreign: false }
        }
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, NodeRef, Nonce};
    use tickwire_core::wire;
    use tickwire_testkit::assert_vectors;

    fn read(revision: u64, state: Checkpoint) -> LeaseRead<Checkpoint> {
        LeaseRead {
            revision,
            record: Some(LeaseRecord { owner: None, state }),
            is_unreadable: false,
            is_foreign: false,
        }
    }

    fn me() -> NodeRef {
        NodeRef { id: NodeId::new("r1").unwrap(), nonce: Nonce(1) }
    }

    fn checkpoint(epoch_id: u64) -> Checkpoint {
        Checkpoint { checkpoint: Seq(7), epoch_id: EpochId(epoch_id), mark: None }
    }

    #[test]
    fn only_time_between_answered_reads_counts_and_a_new_revision_resets_it() {
        let mut seen = SeenLease::new(Millis(0), read(5, checkpoint(1)));
        seen.take_read(Millis(400), read(5, checkpoint(1)), 500, 2_000);
        assert_eq!(seen.quiet, 400);
        seen.take_read(Millis(9_000), read(5, checkpoint(1)), 500, 2_000);
        assert_eq!(seen.quiet, 900);
        for revision in [6, 4] {
            seen.take_read(Millis(9_100), read(revision, checkpoint(1)), 500, 2_000);
            assert_eq!(seen.quiet, 0, "revision {revision}");
            seen.take_read(Millis(9_200), read(revision, checkpoint(1)), 500, 2_000);
        }
        for number in 0..4 {
            seen.take_read(Millis(9_600 + number * 400), read(7, checkpoint(1)), 500, 2_000);
        }
        assert_eq!(seen.quiet, 1_200);
        seen.take_read(Millis(11_000), read(8, checkpoint(1)), 500, 2_000);
        assert_eq!(seen.quiet, 200, "given back late");
    }

    #[test]
    fn foreign_overwrite_changes_neither_age_nor_owner() {
        let foreign = |revision| LeaseRead { revision, record: None, is_unreadable: false, is_foreign: true };
        let other = NodeRef { id: NodeId::new("r2").unwrap(), nonce: Nonce(1) };
        let owned = LeaseRecord { owner: Some(other), state: checkpoint(1) };
        let mut seen = SeenLease::new(Millis(0), LeaseRead { record: Some(owned), ..read(5, checkpoint(1)) });
        for number in 1..=4 {
            seen.take_read(Millis(number * 400), foreign(5 + number), 500, 2_000);
        }
        assert_eq!((seen.quiet, seen.read.revision, seen.written()), (1_600, 9, Some(checkpoint(1))));
        seen.take_read(Millis(2_000), read(10, checkpoint(1)), 500, 2_000);
        assert_eq!(seen.quiet, 600, "given back late");
        let first = SeenLease::new(Millis(0), foreign(3));
        assert!(first.read.is_unreadable && !first.read.is_free_for(&me()));
    }

    #[test]
    fn free_lease_may_have_an_owner_after_a_foreign_overwrite() {
        let foreign = |revision| LeaseRead { revision, record: None, is_unreadable: false, is_foreign: true };
        let never = LeaseRead { revision: 0, record: None, is_unreadable: false, is_foreign: false };
        for (free, known) in [(read(5, checkpoint(1)), Some(checkpoint(1))), (never, None)] {
            let mut seen = SeenLease::new(Millis(0), free);
            seen.take_read(Millis(400), foreign(6), 500, 2_000);
            assert_eq!((seen.is_in_doubt, seen.quiet, seen.written()), (true, 0, known), "its time begins anew, once");
            seen.take_read(Millis(800), foreign(7), 500, 2_000);
            assert_eq!((seen.is_in_doubt, seen.quiet), (true, 400));
            seen.take_read(Millis(900), read(8, checkpoint(1)), 500, 2_000);
            assert!(!seen.is_in_doubt, "a router has written it");
        }
    }

    #[test]
    fn checkpoint_of_an_older_version_is_read() {
        let old = wire::encode(&(Seq(7), EpochId(3))).unwrap();
        assert_eq!(wire::decode::<Checkpoint>(&old).unwrap(), checkpoint(3));
        let mark = Some(Mark { seq: Seq(5), stored: 9 });
        let new = Checkpoint { mark, ..checkpoint(3) };
        assert_eq!(wire::decode::<Checkpoint>(&wire::encode(&new).unwrap()).unwrap(), new);
    }

    #[test]
    fn impossible_checkpoint_counts_as_unreadable() {
        let beyond = Checkpoint { mark: Some(Mark { seq: Seq(8), stored: 9 }), ..checkpoint(3) };
        for odd in [checkpoint(u64::MAX), beyond] {
            let seen = SeenLease::new(Millis(0), read(5, odd));
            assert_eq!((seen.written(), seen.read.is_unreadable), (None, true));
        }
    }

    #[test]
    fn lease_of_a_partition_has_the_documented_form() {
        assert_vectors::<LeaseRecord<Checkpoint>>("partition_lease");
    }
}
