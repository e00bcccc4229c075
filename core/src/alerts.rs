//! The messages by which a gateway gets the alerts of one user that it may send again: it asks for one page after the
//! other, and the router that takes a request reads the page from the stream.
//!
//! Rules apply as in a replay, so only routers know an alert as its user may see it. A page proves nothing: the gateway
//! knows the last alert of the user from the leader of the stream, and asks until a page reaches it.

use serde::{Deserialize, Serialize};

use crate::event::Timestamp;
use crate::ids::{EpochId, NodeRef, Seq, UserId};

/// A request for a page of the alerts of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertsRequest {
    /// The gateway that asks.
    pub gateway: NodeRef,
    /// The user.
    pub user: UserId,
    /// Only alerts that the stream has stored at this time or later.
    pub since: Timestamp,
    /// Only alerts after this sequence; 0 for the first page.
    pub after: Seq,
    /// The alerts to leave out, each with the time when it was stored, sorted. The time tells an alert from one of
    /// another epoch.
    pub acked: Vec<(Seq, Timestamp)>,
}

impl AlertsRequest {
    /// Whether it asks for the alert with this sequence, which was stored at this time.
    #[must_use]
    pub fn wants(&self, seq: Seq, stored: Timestamp) -> bool {
        seq > self.after && stored >= self.since && self.acked.binary_search(&(seq, stored)).is_err()
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlertsAnswer<E> {
    /// A page of alerts.
    Page(AlertsPage<E>),
    /// The router could not read the stream.
    Failed,
}

/// A page of the alerts of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertsPage<E> {
    /// The epoch of the sequences.
    pub epoch_id: EpochId,
    /// Every alert that the request asks for is in this page, up to here, as far as the server had them that was read.
    pub through: Seq,
    /// The alerts, in order.
    pub alerts: Vec<(Seq, E)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, Nonce};

    #[test]
    fn alerts_are_wanted_that_are_new_enough_and_not_acknowledged() {
        let request = AlertsRequest {
            gateway: NodeRef { id: NodeId::new("gw-1").unwrap(), nonce: Nonce(1) },
            user: UserId::new("ann").unwrap(),
            since: Timestamp(100),
            after: Seq(5),
            acked: vec![(Seq(7), Timestamp(110)), (Seq(9), Timestamp(120))],
        };
        let wanted = |seq, stored| request.wants(Seq(seq), Timestamp(stored));
        assert!(!wanted(5, 105) && wanted(6, 105), "after the last page");
        assert!(!wanted(6, 99) && wanted(6, 100), "within the window");
        assert!(!wanted(7, 110) && !wanted(9, 120) && wanted(8, 110), "acknowledged");
        assert!(wanted(7, 111), "another alert got the sequence in a later epoch");
    }
}
