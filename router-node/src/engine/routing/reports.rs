//! What gateways report of their coverage, and which of these reports are believed. A report can show that the stream
//! has lost messages, and so begin an epoch. Pure: beats and the time are passed in.
//!
//! Who can publish to NATS in the name of a gateway can send any report. But a gateway goes on to send beats, and what
//! it was given never becomes less. So a report that the next one takes back came from somebody else.

use crate::checkpoint::{Checkpoint, Mark};
use crate::metrics;
use std::collections::BTreeMap;
use tickwire_core::ids::{Millis, NodeRef};
use tracing::debug;

/// How long no report of a gateway is believed after one was taken back, in milliseconds.
const DOUBT_MS: u64 = 10_000;

/// The state.
#[derive(Debug, Default)]
pub(super) struct CoverageReports {
    of: BTreeMap<NodeRef, LastReport>,
    /// Whether any report has changed since they were last taken.
    is_changed: bool,
}

/// The last report of a gateway.
#[derive(Debug)]
struct LastReport {
    reached: Checkpoint,
    /// When a report was taken back, until nothing was for a while.
    doubted_since: Option<Millis>,
}

impl CoverageReports {
    /// Notes a report of a member. An impossible one changes nothing.
    pub(super) fn note(&mut self, now: Millis, gateway: &NodeRef, reached: Checkpoint) {
        if !reached.is_possible() {
            return;
        }
        let Some(last) = self.of.get_mut(gateway) else {
            self.of.insert(gateway.clone(), LastReport { reached, doubted_since: None });
            self.is_changed = true;
            return;
        };
        let was = (last.reached, last.doubted_since);
        if is_taken_back(&last.reached, &reached) {
            metrics::INTEREST_REFUSED.with("taken_back").increment(1);
            debug!(%gateway, from = ?last.reached, to = ?reached, "a coverage that a gateway reported was taken back");
            last.doubted_since = Some(now);
        } else if last.doubted_since.is_some_and(|since| now.since(since) >= DOUBT_MS) {
            last.doubted_since = None;
        }
        last.reached = reached;
        self.is_changed |= was != (last.reached, last.doubted_since);
    }

    /// Forgets the reports of gateways that are no members any more.
    pub(super) fn retain(&mut self, is_member: impl Fn(&NodeRef) -> bool) {
        let known = self.of.len();
        self.of.retain(|gateway, _| is_member(gateway));
        self.is_changed |= self.of.len() < known;
    }

    /// The last report of each gateway that is believed, if any has changed since the last call. Each counts: one that
    /// states less may be that of the only gateway that was given a message that the stream has lost since.
    pub(super) fn take(&mut self) -> Option<BTreeMap<NodeRef, Checkpoint>> {
        let believed = self.of.iter().filter(|(_, last)| last.doubted_since.is_none());
        std::mem::take(&mut self.is_changed)
            .then(|| believed.map(|(gateway, last)| (gateway.clone(), last.reached)).collect())
    }
}

/// Whether a report contradicts the one before: a gateway was given less than it had said, or another message with the
/// same sequence.
fn is_taken_back(before: &Checkpoint, after: &Checkpoint) -> bool {
    let is_other = |(a, b): (Mark, Mark)| b.seq < a.seq || (b.seq == a.seq && b.stored != a.stored);
    let is_less = (after.epoch_id, after.checkpoint) < (before.epoch_id, before.checkpoint);
    let is_same_epoch = before.epoch_id == after.epoch_id;
    is_less || (is_same_epoch && before.mark.is_some_and(|a| after.mark.is_none_or(|b| is_other((a, b)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{EpochId, NodeId, Nonce, Seq};

    fn gateway() -> NodeRef {
        NodeRef { id: NodeId::new("g1").unwrap(), nonce: Nonce(1) }
    }

    fn reached(epoch_id: u64, through: u64, mark: Option<(u64, i64)>) -> Checkpoint {
        let mark = mark.map(|(seq, stored)| Mark { seq: Seq(seq), stored });
        Checkpoint { checkpoint: Seq(through), epoch_id: EpochId(epoch_id), mark }
    }

    #[test]
    fn reports_that_grow_are_believed() {
        let mut reports = CoverageReports::default();
        let grown = [
            reached(1, 5, None),
            reached(1, 5, Some((4, 40))),
            reached(1, 9, Some((4, 40))),
            reached(1, 9, Some((9, 40))),
            reached(2, 1, None),
        ];
        for report in grown {
            reports.note(Millis(0), &gateway(), report);
            assert_eq!(reports.take(), Some(BTreeMap::from([(gateway(), report)])));
            reports.note(Millis(0), &gateway(), report);
            assert_eq!(reports.take(), None, "nothing is new");
        }
    }

    #[test]
    fn gateway_whose_report_is_taken_back_is_not_believed_for_a_while() {
        let own = reached(1, 9, Some((8, 80)));
        for forged in [
            reached(1, 1_009, Some((8, 80))),
            reached(2, 1, None),
            reached(1, 9, Some((9, 70))),
            reached(1, 9, Some((8, 90))),
        ] {
            let mut reports = CoverageReports::default();
            reports.note(Millis(0), &gateway(), own);
            reports.note(Millis(500), &gateway(), forged);
            reports.note(Millis(900), &gateway(), own);
            assert_eq!(reports.take(), Some(BTreeMap::new()), "{forged:?}");
            reports.note(Millis(901), &gateway(), forged);
            reports.note(Millis(1_900), &gateway(), own);
            assert_eq!(reports.take(), Some(BTreeMap::new()), "{forged:?}");
            reports.note(Millis(1_900 + DOUBT_MS), &gateway(), own);
            assert_eq!(reports.take(), Some(BTreeMap::from([(gateway(), own)])));
        }
    }
}
