//! What the simulator knows about the cluster when a client receives something.

use std::collections::BTreeMap;

use tickwire_core::ids::{Epoch, EpochId, Millis, Seq};

use super::super::clocks;
use super::super::cluster::{PARTITIONS, StoredEvent};
use super::super::stream::Lost;

/// Facts of the cluster that a check needs, and that a client does not know.
pub(super) struct ClusterFacts<'a> {
    /// All epochs of the stream so far.
    pub(super) epochs: &'a BTreeMap<EpochId, Epoch>,
    /// What was stored in each.
    pub(super) history: &'a BTreeMap<EpochId, Vec<StoredEvent>>,
    /// What was stored in each and is there no more.
    pub(super) lost: &'a Lost,
    /// Whether a gateway that lags a little takes positions for ones that cannot be.
    pub(super) is_tight: bool,
    /// Whether more was stored at once than a user's rate, so that some of it waits.
    pub(super) has_burst: bool,
    pub(super) now: Millis,
    /// How long an event may take to reach a client, if nothing keeps it from that, in milliseconds.
    pub(super) delay: Option<u64>,
}

impl ClusterFacts<'_> {
    /// When a message was stored, if it was.
    pub(super) fn stored(&self, epoch_id: EpochId, seq: Seq) -> Option<Millis> {
        let log = self.history.get(&epoch_id)?;
        let at = log.binary_search_by_key(&seq, |stored| stored.seq).ok()?;
        Some(clocks::moment(log[at].event.stored))
    }

    /// Per partition, the last message that was stored. What the stream has lost since may wait for a client.
    pub(super) fn ends(&self, epoch_id: EpochId) -> Vec<Seq> {
        let mut ends = vec![self.epochs[&epoch_id].before; usize::from(PARTITIONS)];
        for stored in self.history[&epoch_id].iter().chain(self.lost.get(&epoch_id).into_iter().flatten()) {
            let end = &mut ends[usize::from(stored.partition.0)];
            *end = stored.seq.max(*end);
        }
        ends
    }
}
