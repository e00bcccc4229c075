//! What gateways report of the stream, and for how long one has stood by a report that shows a loss. Pure: the reports,
//! the results of checks and the time are passed in.
//!
//! Who can send reports in the name of a gateway could otherwise begin an epoch at will. So a loss that only gateways
//! report counts when the reports of one of them have shown it for a while. What others report meanwhile, and gateways
//! that leave, do not change that time.

use super::MAX_UNCHECKED;
use crate::checkpoint::{Checkpoint, Mark};
use crate::stream::{Reported, StreamFacts};
use std::collections::{BTreeMap, BTreeSet};
use tickwire_core::ids::{EpochId, Millis, NodeRef};

/// The state.
#[derive(Debug, Default)]
pub(super) struct GatewayReports {
    /// The coverage of each gateway, as it was last reported, of any epoch.
    last: BTreeMap<NodeRef, Checkpoint>,
    /// Messages that gateways report, of the known epoch, and that no check has found yet.
    unchecked: BTreeSet<(Mark, NodeRef)>,
    /// The part of `last` that is being checked.
    last_to_check: BTreeMap<NodeRef, Checkpoint>,
    /// The part of `unchecked` that is being checked.
    to_check: BTreeSet<(Mark, NodeRef)>,
    /// Since when a gateway's reports show a loss. It counts until a check finds everything.
    suspected_since: BTreeMap<NodeRef, Millis>,
}

impl GatewayReports {
    /// Takes the coverage of each gateway whose reports are believed. What others have reported does not count any
    /// more. `is_found` says whether a check has found a message.
    pub(super) fn set(
        &mut self,
        epoch_id: EpochId,
        reports: BTreeMap<NodeRef, Checkpoint>,
        is_found: impl Fn(&Mark) -> bool,
    ) {
        for marks in [&mut self.unchecked, &mut self.to_check] {
            marks.retain(|(_, gateway)| reports.contains_key(gateway));
        }
        self.last_to_check.retain(|gateway, _| reports.contains_key(gateway));
        self.suspected_since.retain(|gateway, _| reports.contains_key(gateway));
        for (gateway, report) in reports.iter().filter(|(_, report)| report.epoch_id == epoch_id) {
            let is_new = self.last.get(gateway) != Some(report);
            let mark = report.mark.filter(|mark| is_new && !is_found(mark));
            self.unchecked.extend(mark.map(|mark| (mark, gateway.clone())));
        }
        while self.unchecked.len() > MAX_UNCHECKED {
            self.unchecked.pop_last();
        }
        self.last = reports;
    }

    /// A new epoch begins: only what gateways report of this one is checked.
    pub(super) fn enter(&mut self, epoch_id: EpochId) {
        let last = std::mem::take(&mut self.last);
        *self = Self::default();
        self.set(epoch_id, last, |_| false);
    }

    /// What a check compares with.
    pub(super) fn expected(&mut self, epoch_id: EpochId) -> Reported {
        self.to_check.append(&mut self.unchecked);
        self.last_to_check.clone_from(&self.last);
        let current = self.last.values().filter(|report| report.epoch_id == epoch_id);
        let mut to_check: Vec<Mark> = self.to_check.iter().rev().map(|(mark, _)| *mark).collect();
        to_check.dedup();
        Reported {
            epoch_id: self.checked_epoch(),
            reached: current.map(|report| report.checkpoint).max().unwrap_or_default(),
            to_check,
        }
    }

    /// The latest epoch in the reports that are being checked.
    pub(super) fn checked_epoch(&self) -> EpochId {
        self.last_to_check.values().map(|report| report.epoch_id).max().unwrap_or_default()
    }

    /// The check has found everything. Returns the messages.
    pub(super) fn take_found(&mut self) -> BTreeSet<Mark> {
        self.trust();
        std::mem::take(&mut self.to_check).into_iter().map(|(mark, _)| mark).collect()
    }

    /// No report shows a loss that routers have not read.
    pub(super) fn trust(&mut self) {
        self.suspected_since.clear();
    }

    /// The stream could not be read, or something is lost.
    pub(super) fn fail(&mut self) {
        self.unchecked.append(&mut self.to_check);
    }

    /// A check that has failed has found that the stream lacks what only gateways report, and `lost` is the earliest
    /// lost message. Returns for how long the reports of one of them have shown a loss, in milliseconds.
    pub(super) fn shown_for(&mut self, now: Millis, facts: &StreamFacts, lost: Option<Mark>) -> u64 {
        let has_lost = |gateway: &NodeRef| lost.is_some_and(|mark| self.unchecked.contains(&(mark, gateway.clone())));
        let is_beyond = |report: &Checkpoint| {
            report.epoch_id > facts.epoch_id || report.epoch_id == facts.epoch_id && report.checkpoint > facts.last
        };
        for (gateway, _) in self.last_to_check.iter().filter(|(gateway, report)| is_beyond(report) || has_lost(gateway))
        {
            self.suspected_since.entry(gateway.clone()).or_insert(now);
        }
        let first = self.suspected_since.values().min();
        first.map_or(0, |first| now.since(*first))
    }
}
