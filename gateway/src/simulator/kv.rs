//! The KV bucket of the leases. The network may lose its requests and answers, or delay them.

use std::collections::BTreeMap;

use tickwire_core::ids::NodeRef;
use tickwire_node::lease::{LeaseRead, LeaseRecord};
use tickwire_router_node::decisions::{Checkpoint, Source, WriteOutcome};

/// A request of a router to the bucket.
#[derive(Clone, Debug)]
pub(super) enum KvRequest {
    Read(Source),
    Write { source: Source, revision: u64, record: LeaseRecord<Checkpoint> },
}

/// The answer to a [`KvRequest`].
#[derive(Clone, Debug)]
pub(super) enum KvAnswer {
    Read(LeaseRead<Checkpoint>),
    Written(WriteOutcome),
}

#[derive(Debug, Default)]
pub(super) struct Kv {
    entries: BTreeMap<Source, (u64, LeaseRecord<Checkpoint>)>,
    last: u64,
}

impl Kv {
    /// The checkpoints in the leases.
    pub(super) fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.entries.values().map(|(_, record)| &record.state)
    }

    pub(super) fn apply(&mut self, request: KvRequest) -> KvAnswer {
        match request {
            KvRequest::Read(source) => {
                let entry = self.entries.get(&source).cloned();
                let (revision, record) = entry.map_or((0, None), |(revision, record)| (revision, Some(record)));
                KvAnswer::Read(LeaseRead { revision, record, is_unreadable: false, is_foreign: false })
            }
            KvRequest::Write { source, revision, record } => {
                let found = self.entries.get(&source).map_or(0, |(revision, _)| *revision);
                if found != revision {
                    return KvAnswer::Written(WriteOutcome::Refused);
                }
                KvAnswer::Written(WriteOutcome::At(self.put(source, record)))
            }
        }
    }

    /// Gives a lease to another router, which does not know that: as if its write was stored, and the answer was lost.
    pub(super) fn usurp(&mut self, source: Source, owner: NodeRef) {
        if let Some((_, record)) = self.entries.get(&source) {
            let record = LeaseRecord { owner: Some(owner), ..record.clone() };
            self.put(source, record);
        }
    }

    fn put(&mut self, source: Source, record: LeaseRecord<Checkpoint>) -> u64 {
        self.last += 1;
        self.entries.insert(source, (self.last, record));
        self.last
    }
}
