//! The leases: a KV bucket that answers late, or not at all.

use std::collections::BTreeMap;

use tickwire_core::ids::NodeRef;
use tickwire_node::lease::{Read, Record};
use tickwire_router_node::decisions::{Checkpoint, Source, Written};

/// What a router asks of the bucket.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Read(Source),
    Write { source: Source, revision: u64, record: Record<Checkpoint> },
}

/// What it is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Read(Read<Checkpoint>),
    Written(Written),
}

#[derive(Debug, Default)]
pub(super) struct Kv {
    entries: BTreeMap<Source, (u64, Record<Checkpoint>)>,
    last: u64,
}

impl Kv {
    pub(super) fn apply(&mut self, asked: Asked) -> Answer {
        match asked {
            Asked::Read(source) => {
                let entry = self.entries.get(&source).cloned();
                let (revision, record) = entry.map_or((0, None), |(revision, record)| (revision, Some(record)));
                Answer::Read(Read { revision, record, is_unreadable: false, is_foreign: false })
            }
            Asked::Write { source, revision, record } => {
                let found = self.entries.get(&source).map_or(0, |(revision, _)| *revision);
                if found != revision {
                    return Answer::Written(Written::Refused);
                }
                Answer::Written(Written::At(self.put(source, record)))
            }
        }
    }

    /// A lease has another owner, who does not know it: its own write was not answered.
    pub(super) fn usurp(&mut self, source: Source, owner: NodeRef) {
        if let Some((_, record)) = self.entries.get(&source) {
            let record = Record { owner: Some(owner), ..record.clone() };
            self.put(source, record);
        }
    }

    fn put(&mut self, source: Source, record: Record<Checkpoint>) -> u64 {
        self.last += 1;
        self.entries.insert(source, (self.last, record));
        self.last
    }
}
