//! Problems of tickwire's streams in NATS, as routers report them to all nodes. Only routers store anything, but the
//! problems concern gateways and their clients too.

use serde::{Deserialize, Serialize};

use crate::ids::NodeRef;

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageFault {
    /// It does not exist.
    Missing,
    /// It is sealed, and accepts no more messages.
    Sealed,
    /// It has reached one of its limits, and refuses new messages.
    Full,
    /// The account or the server has no storage left.
    OverLimit,
    /// It does not acknowledge that messages are stored.
    NotStoring,
    /// Its subjects, or another setting that tickwire relies on, were edited.
    Edited,
    /// Its number of replicas is not the configured one.
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
    /// Whether it makes NATS refuse or lose events, so that clients must be notified.
    pub stops_events: bool,
    /// One line for people: what is wrong, for how long, and what to do.
    pub text: String,
}

/// All problems that one router finds. It sends the report about once a second while there is a problem, and once more
/// when there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageReport {
    /// The router that reports.
    pub router: NodeRef,
    /// What is wrong.
    pub troubles: Vec<StorageProblem>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_sorted_worst_first_and_labels_match_the_wire() {
        assert!(StorageFault::ALL.is_sorted());
        for fault in StorageFault::ALL {
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.as_str());
        }
    }
}
