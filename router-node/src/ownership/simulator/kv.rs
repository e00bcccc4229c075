//! The bucket of the leases, as KV keeps it: a write takes effect only on the revision that it names.

use crate::checkpoint::Checkpoint;
use crate::ownership::placement::{PlacementAction, WriteOutcome};
use crate::source::Source;
use std::collections::BTreeMap;
use tickwire_core::ids::NodeRef;
use tickwire_node::lease::{LeaseRead, LeaseRecord};

/// One key of KV.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    revision: u64,
    record: LeaseRecord<Checkpoint>,
    /// Whether a foreign writer has written over it since.
    is_foreign: bool,
}

/// The bucket of the leases. Its revisions count up; one that is lost is used again.
#[derive(Debug, Clone, Default)]
pub(super) struct Kv {
    pub(super) entries: BTreeMap<Source, Entry>,
    last: u64,
    /// Until when KV answers no request.
    pub(super) away_until: u64,
}

/// What KV answers.
#[derive(Debug, Clone)]
pub(super) enum PlacementAnswer {
    Read(LeaseRead<Checkpoint>),
    Written(WriteOutcome),
}

impl Kv {
    /// A foreign writer writes every key.
    pub(super) fn overwrite(&mut self) {
        for entry in self.entries.values_mut() {
            self.last += 1;
            (entry.revision, entry.is_foreign) = (self.last, true);
        }
    }

    /// What comes of a request of this router.
    pub(super) fn apply(&mut self, me: &NodeRef, action: &PlacementAction) -> PlacementAnswer {
        match action {
            PlacementAction::Write { source, revision, is_ours, checkpoint } => {
                let found = self.entries.get(source).map_or(0, |entry| entry.revision);
                if found != *revision {
                    return PlacementAnswer::Written(WriteOutcome::Refused);
                }
                self.last += 1;
                let record = LeaseRecord { owner: is_ours.then(|| me.clone()), state: *checkpoint };
                self.entries.insert(*source, Entry { revision: self.last, record, is_foreign: false });
                PlacementAnswer::Written(WriteOutcome::At(self.last))
            }
            PlacementAction::Read(source) => PlacementAnswer::Read(match self.entries.get(source) {
                Some(Entry { revision, record, is_foreign }) => LeaseRead {
                    revision: *revision,
                    record: Some(record.clone()).filter(|_| !is_foreign),
                    is_unreadable: false,
                    is_foreign: *is_foreign,
                },
                None => LeaseRead { revision: 0, record: None, is_unreadable: false, is_foreign: false },
            }),
            other => unreachable!("{other:?} is not for KV"),
        }
    }
}
