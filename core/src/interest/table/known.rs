//! What a router knows of one gateway.

use std::collections::BTreeMap;

use super::SharedInterest;
use crate::ids::{Millis, Revision};
use crate::interest::Delta;

/// What is known of one gateway.
#[derive(Debug)]
pub(crate) struct GatewayInterest {
    /// Its interest at a revision; `None` until a snapshot came.
    pub(crate) interest: Option<(Revision, SharedInterest)>,
    /// The most bytes that the interest takes, counting what deltas have said since it was measured.
    pub(crate) bytes: usize,
    /// What it took when it was measured.
    pub(crate) measured: usize,
    /// The highest revision it was heard to have.
    pub(crate) announced: Revision,
    /// Whether a snapshot told less than was announced since that was heard.
    pub(crate) doubted: bool,
    /// Deltas beyond one that was missed, by the revision that they lead to.
    pub(crate) ahead: BTreeMap<Revision, Delta>,
    /// The most bytes that these take.
    pub(crate) ahead_bytes: usize,
    pub(crate) heard: Millis,
}

impl GatewayInterest {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            interest: None,
            bytes: 0,
            measured: 0,
            announced: Revision(0),
            doubted: false,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            heard: now,
        }
    }

    /// The gateway was heard to have this revision.
    pub(crate) fn announce(&mut self, revision: Revision) {
        if revision > self.announced {
            (self.announced, self.doubted) = (revision, false);
        }
    }

    pub(crate) fn is_current(&self) -> bool {
        self.interest.as_ref().is_some_and(|(revision, _)| *revision >= self.announced)
    }

    /// Lets go of the deltas that await a snapshot. Returns how many bytes they took.
    pub(crate) fn clear_ahead(&mut self) -> usize {
        self.ahead.clear();
        std::mem::take(&mut self.ahead_bytes)
    }
}
