//! What a router can own and read: a partition, or the catch-all: all messages that the partition transform did not
//! recognise. The owner of partition 0 by the ring also owns the catch-all.

use std::fmt;
use tickwire_core::ids::Partition;
use tickwire_node::names;

/// One thing to own and to read, with a lease and a checkpoint of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A partition.
    Partition(Partition),
    /// The messages that are in no partition.
    CatchAll,
}

/// One time of owning a source. Results of an earlier tenure are recognised by the number and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenure {
    /// The owned source.
    pub source: Source,
    /// Counts up within this process.
    pub number: u64,
}

impl Source {
    /// The key of its lease.
    pub(crate) fn lease_key(self) -> String {
        match self {
            Self::Partition(partition) => names::lease_key(u32::from(partition.0)),
            Self::CatchAll => names::CATCH_ALL_KEY.to_owned(),
        }
    }

    /// The filter of its consumer.
    pub(crate) fn filter(self) -> String {
        match self {
            Self::Partition(partition) => names::partition(u32::from(partition.0)),
            Self::CatchAll => names::SOURCE_ALL.to_owned(),
        }
    }

    /// Its part of a consumer's name.
    pub(crate) fn label(self) -> String {
        match self {
            Self::Partition(partition) => format!("p{partition}"),
            Self::CatchAll => "catchall".to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => write!(f, "partition {partition}"),
            Self::CatchAll => f.write_str("the catch-all"),
        }
    }
}
