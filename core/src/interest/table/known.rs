//! What a router knows of one gateway's interest.

use std::collections::BTreeMap;

use super::SharedInterest;
use crate::ids::{Millis, Revision};
use crate::interest::Delta;

/// The interest of one gateway, and its announced revision.
#[derive(Debug)]
pub(crate) struct GatewayInterest {
    /// Its interest at a revision; `None` until a snapshot was received.
    pub(crate) interest: Option<(Revision, SharedInterest)>,
    /// The most bytes that the interest takes, including all deltas since it was measured.
    pub(crate) bytes: usize,
    /// Its bytes when it was measured.
    pub(crate) measured: usize,
    /// The highest announced revision.
    pub(crate) announced: Revision,
    /// Whether a snapshot received after the announcement had a lower revision.
    pub(crate) second_snapshot_asked: bool,
    /// Deltas that wait behind a missed one, by their revision.
    pub(crate) ahead: BTreeMap<Revision, Delta>,
    /// The most bytes that these take.
    pub(crate) ahead_bytes: usize,
    /// When its last message was received.
    pub(crate) last_seen: Millis,
}

impl GatewayInterest {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            interest: None,
            bytes: 0,
            measured: 0,
            announced: Revision(0),
            second_snapshot_asked: false,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            last_seen: now,
        }
    }

    /// The gateway announces this revision.
    pub(crate) fn announce(&mut self, revision: Revision) {
        if revision > self.announced {
            (self.announced, self.second_snapshot_asked) = (revision, false);
        }
    }

    pub(crate) fn is_current(&self) -> bool {
        self.interest.as_ref().is_some_and(|(revision, _)| *revision >= self.announced)
    }

    /// Drops the waiting deltas. Returns their bytes.
    pub(crate) fn clear_ahead(&mut self) -> usize {
        self.ahead.clear();
        std::mem::take(&mut self.ahead_bytes)
    }
}
