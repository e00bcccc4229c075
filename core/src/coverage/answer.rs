//! The messages by which a router answers a request for a replay. Like a live batch they have sections, each with a
//! range and a revision. They also report ranges that no router can give.

use serde::{Deserialize, Serialize};

use crate::coverage::section::Section;
use crate::ids::{EpochId, NodeRef, Partition, Revision, Seq};

/// One message of the answer to a request. The messages of an answer are in order, and `last` marks the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayAnswer<E> {
    /// The router that answers.
    pub router: NodeRef,
    /// The epoch of the stream that was read.
    pub epoch_id: EpochId,
    /// The content.
    pub part: ReplayPart<E>,
    /// Whether this is the last message for the request. The range may be incomplete: the gateway then asks for the
    /// rest again.
    pub last: bool,
}

/// The content of one message of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayPart<E> {
    /// All matching events in the section's range.
    Events(Section<E>),
    /// No matching event of this range can be read any more: retention has removed it, or it is `damaged`. Messages
    /// between two damaged places, if any, did not match.
    Removed {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        through: Seq,
        /// Set if no limit of the stream has removed the range: the revision of the interest that the messages in
        /// between did not match.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        damaged: Option<Revision>,
    },
    /// The router cannot answer. A later request or another router may succeed.
    Refused(ReplayRefusal),
}

/// Why a router does not answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReplayRefusal {
    /// It has reached its limit of replays.
    Busy,
    /// It does not know the gateway's interest at the requested revision.
    UnknownInterest,
    /// It reads another epoch of the stream than the requested one.
    OtherStream,
    /// The stream that it can read ends before the range, for example at a replica that lags.
    NotThere,
    /// The stream could not be read.
    Unreadable,
    /// The request is invalid.
    Malformed,
}

impl ReplayRefusal {
    /// The name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::UnknownInterest => "unknown_interest",
            Self::OtherStream => "other_stream",
            Self::NotThere => "not_there",
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
        }
    }
}
