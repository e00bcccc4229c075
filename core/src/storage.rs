//! What routers find wrong with the streams that NATS keeps for tickwire, as they tell it to all nodes: routers alone
//! store anything, and what they find concerns gateways and their clients too.

use serde::{Deserialize, Serialize};

use crate::ids::NodeRef;

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageFault {
    /// It does not exist.
    Missing,
    /// It is sealed, and takes nothing any more.
    Sealed,
    /// It has reached a limit of its own, and refuses what is new.
    Full,
    /// The account or the server has used up the storage that it is allowed.
    OverLimit,
    /// It is not acknowledged that anything is stored.
    NotStoring,
    /// Its subjects, or something else that tickwire relies on, were edited.
    Edited,
    /// It has another number of copies than configured.
    Replicas,
}

impl StorageFault {
    /// Every fault, the worst first.
    pub const ALL: [Self; 7] =
        [Self::Missing, Self::Sealed, Self::Full, Self::OverLimit, Self::NotStoring, Self::Edited, Self::Replicas];

    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Sealed => "sealed",
            Self::Full => "full",
            Self::OverLimit => "over_limit",
            Self::NotStoring => "not_storing",
            Self::Edited => "edited",
            Self::Replicas => "replicas",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageProblem {
    /// The stream.
    pub stream: String,
    /// What is wrong with it.
    pub fault: StorageFault,
    /// Whether events are refused or lost because of it, so that clients are to be told.
    pub stops_events: bool,
    /// All of it in one line for people: what, for how long, and what to do.
    pub text: String,
}

/// All that one router finds wrong at one moment. It says so about once a second while there is anything, and once when
/// there is nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageReport {
    /// Who says it.
    pub router: NodeRef,
    /// What is wrong.
    pub troubles: Vec<StorageProblem>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_fault_comes_first_and_labels_are_the_names_on_the_wire() {
        assert!(StorageFault::ALL.is_sorted());
        for fault in StorageFault::ALL {
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.as_str());
        }
    }
}
