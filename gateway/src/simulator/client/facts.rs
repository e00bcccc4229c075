//! What the simulator knows of the cluster when it checks a frame that a client has received.

use std::collections::BTreeMap;

use tickwire_core::ids::{Epoch, EpochId, Millis, Partition, Seq, UserId};

use super::super::alerts::{SimAlerts, is_alert_to};
use super::super::clocks;
use super::super::cluster::{PARTITIONS, StoredEvent};
use super::super::saved::SimSaved;
use super::super::stream::Lost;

/// Facts of the cluster that checks need, and that a client does not know.
pub(super) struct ClusterFacts<'a> {
    /// All epochs of the stream so far.
    pub(super) epochs: &'a BTreeMap<EpochId, Epoch>,
    /// The messages of each epoch.
    pub(super) history: &'a BTreeMap<EpochId, Vec<StoredEvent>>,
    /// The messages of each epoch that the stream has lost.
    pub(super) lost: &'a Lost,
    /// What users have saved.
    pub(super) saved: &'a SimSaved,
    /// What users have acknowledged; `None` if no alerts come again.
    pub(super) alerts: Option<&'a SimAlerts>,
    /// Whether the plan has no faults.
    pub(super) is_quiet: bool,
    /// Whether `gateway.replay_range` is so small that a gateway that lags refuses valid positions as beyond the end.
    pub(super) is_tight: bool,
    /// Whether more events were stored at once than the rate limit of a user lets through, so that some wait.
    pub(super) has_burst: bool,
    /// Whether no gateway's clock is or was wrong.
    pub(super) are_clocks_true: bool,
    /// Whether a gateway is or was frozen, so that it may have read what a client has sent much later.
    pub(super) has_frozen: bool,
    pub(super) now: Millis,
    /// How long an event may take to reach a client, in milliseconds; `None` if that has no bound.
    pub(super) delay: Option<u64>,
}

impl ClusterFacts<'_> {
    /// When a message was stored, if it was.
    pub(super) fn stored(&self, epoch_id: EpochId, seq: Seq) -> Option<Millis> {
        let log = self.history.get(&epoch_id)?;
        let at = log.binary_search_by_key(&seq, |stored| stored.seq).ok()?;
        Some(clocks::moment(log[at].event.stored))
    }

    /// The alerts to a user that were ever stored at a place. The stream uses some sequences several times.
    pub(super) fn alerts_at(
        &self,
        user: &UserId,
        (partition, seq): (Partition, Seq),
    ) -> impl Iterator<Item = &StoredEvent> {
        let all = self.history.values().chain(self.lost.values()).flatten();
        all.filter(move |stored| (stored.partition, stored.seq) == (partition, seq) && is_alert_to(stored, user))
    }

    /// For each partition, the last message that was stored, even if the stream has lost it: it may wait for a client.
    pub(super) fn ends(&self, epoch_id: EpochId) -> Vec<Seq> {
        let mut ends = vec![self.epochs[&epoch_id].before; usize::from(PARTITIONS)];
        for stored in self.history[&epoch_id].iter().chain(self.lost.get(&epoch_id).into_iter().flatten()) {
            let end = &mut ends[usize::from(stored.partition.0)];
            *end = stored.seq.max(*end);
        }
        ends
    }
}
