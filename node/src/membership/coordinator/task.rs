//! What a coordinator needs: requests to KV, one at a time, and announcements.

use crate::lease::{LeaseError, LeaseRead};
use crate::membership::Announcement;
use tickwire_core::placement::View;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::membership) enum CoordinatorTask {
    /// Send a request to KV: [`Coordinator::take_answer`](super::Coordinator::take_answer) takes the answer.
    Ask(KvRequest),
    /// Announce the view, if NATS is connected.
    Announce(Announcement),
}

/// A request to the bucket of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::membership) enum KvRequest {
    /// Read the coordinator's lease.
    ReadLease,
    /// Write the coordinator's lease over this revision: as ours, or as given back.
    WriteLease { revision: u64, is_ours: bool },
    /// Read the view.
    ReadView,
    /// Write the view over this revision.
    WriteView { revision: u64, view: View },
}

/// The answer to a request. A write has a new revision.
#[derive(Debug)]
pub(in crate::membership) enum KvAnswer {
    LeaseRead(Result<LeaseRead<()>, LeaseError>),
    LeaseWritten(Result<u64, LeaseError>),
    ViewRead(Result<(u64, Option<View>), LeaseError>),
    ViewWritten(Result<u64, LeaseError>),
}

/// What the current tasks belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    News,
    Round,
    Leave,
}
