//! Whether nodes can notice that the stream has lost its end. If not, clients may lack what replaced the lost messages.

use std::collections::BTreeMap;

use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::ids::{EpochId, NodeRef, Seq};
use tickwire_node::clock::millis;
use tickwire_router_node::decisions::Checkpoint;

use super::super::cluster::{BEAT, SimCluster};
use super::super::router::SimRouter;

/// For how many beats in a row a checkpoint must show that the stream has lost its end, so that a router must notice. A
/// gateway sends its coverage once a beat, and a router looks at the stream after that. What only the coverage of a
/// gateway shows must show for `membership.timeout` more.
const SHOWN_BEATS: u32 = 4;

/// For how many beats the loss of the end has been visible.
#[derive(Debug, Default)]
pub(super) struct ShownLoss {
    /// In a row in a lease, and the highest such number.
    in_lease: (u32, u32),
    /// In a row to a router, in the coverage of a gateway.
    at_gateway: BTreeMap<(NodeRef, NodeRef), u32>,
    /// The highest such number.
    most_at_gateway: u32,
}

impl SimCluster {
    /// Notes whether nodes can detect that the stream has lost its end. They can if the checkpoint of a lease or the
    /// coverage of a gateway is beyond the end, or if its mark is a lost message whose sequence has another message
    /// now. If a router dies before its next checkpoint, only the coverage of gateways can show the loss. If the stream
    /// grows beyond that at once, nothing shows it.
    pub(in super::super) fn note_whether_loss_shows(&mut self) {
        let Some(unchanged_through) = self.stream.unchanged_through else { return };
        let shows = |epoch_id: EpochId, through: Seq, mark: Option<(Seq, i64)>| {
            let is_replaced = |(seq, stored): (Seq, i64)| {
                let now = self.readable(Seq(seq.0.saturating_sub(1))).next();
                now.is_some_and(|now| now.seq == seq && now.event.stored.0 != stored)
            };
            let is_beyond = through > self.last || mark.is_some_and(is_replaced);
            epoch_id == self.epoch.epoch_id && through > unchanged_through && is_beyond
        };
        let in_lease = self.kv.checkpoints().any(|Checkpoint { checkpoint, epoch_id, mark }| {
            shows(*epoch_id, *checkpoint, mark.map(|mark| (mark.seq, mark.stored)))
        });
        let (row, most) = self.stream.shown.in_lease;
        let row = if in_lease && self.routers.iter().any(SimRouter::runs) { row + 1 } else { 0 };
        let gateways = self.gateways.iter().filter(|gateway| !gateway.is_down && !gateway.is_cut).filter(|gateway| {
            let GatewayCoverage { epoch_id, through, last } = gateway.edge.reached();
            shows(epoch_id, through, last.map(|(seq, stored)| (seq, stored.0)))
        });
        let mut at_gateway = BTreeMap::new();
        for gateway in gateways {
            for router in self.routers.iter().filter(|router| router.runs() && !router.is_cut) {
                let pair = (router.node.clone(), gateway.node.clone());
                let row = self.stream.shown.at_gateway.get(&pair).map_or(1, |row| row + 1);
                at_gateway.insert(pair, row);
            }
        }
        let longest = at_gateway.values().copied().max().unwrap_or_default();
        let most_at_gateway = self.stream.shown.most_at_gateway.max(longest);
        self.stream.shown = ShownLoss { in_lease: (row, most.max(row)), at_gateway, most_at_gateway };
    }

    /// Whether a router must have noticed the loss.
    fn has_loss_shown(&self) -> bool {
        let stands = millis(self.config.membership.timeout).div_ceil(BEAT) as u32;
        let shown = &self.stream.shown;
        shown.in_lease.1 >= SHOWN_BEATS || shown.most_at_gateway >= SHOWN_BEATS + stands
    }

    /// Messages that replaced lost ones need not be delivered if no node could notice the loss before another follows.
    pub(super) fn excuse_unseen_loss(&mut self) {
        let has_shown = self.has_loss_shown();
        if let Some(unchanged_through) = self.stream.unchanged_through.filter(|_| !has_shown) {
            self.move_to_lost(unchanged_through, self.stream.last_lost);
        }
    }

    /// Whether clients may lack a message because it replaced a lost one, and no node could notice that.
    pub(in super::super) fn may_lack(&self, epoch_id: EpochId, seq: Seq) -> bool {
        epoch_id == self.epoch.epoch_id && !self.has_loss_shown() && self.stream.is_replaced(seq)
    }
}
