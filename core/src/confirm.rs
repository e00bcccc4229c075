//! When a subscription may be confirmed: once every partition's coverage carries a revision that includes it.
//!
//! Safety comes from [`Coverage::require`] alone: after it no older revision proves anything. Waiting only spares the
//! gap that would follow, so a partition that lags does not hold the confirmation for longer than a deadline.
//!
//! What proves nothing any more includes the answer to a request for a replay that is under way. So a confirmation also
//! waits for the end of those that were asked for before it: otherwise subscriptions that change faster than routers
//! answer would keep a gap open for ever. Each of them ends, answered or not, within its time.

use std::collections::{BTreeMap, BTreeSet};

use crate::coverage::{Coverage, Weight};
use crate::ids::{Millis, Revision};

/// What waits to be confirmed. `T` is what the asker wants back. What still has to wait costs nothing when others are
/// confirmed.
#[derive(Debug)]
pub struct Confirmations<T> {
    timeout: u64,
    /// By number, in the order of asking, which is that of the deadlines.
    waiting: BTreeMap<u64, Waiting<T>>,
    /// The same by what they wait for.
    by_revision: BTreeSet<(Revision, u64)>,
    asked: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    revision: Revision,
    deadline: Millis,
    token: T,
}

impl<T> Confirmations<T> {
    /// Nothing waits. `timeout`, in milliseconds, is how long a lagging partition may hold a confirmation.
    #[must_use]
    pub fn new(timeout: u64) -> Self {
        Self { timeout, waiting: BTreeMap::new(), by_revision: BTreeSet::new(), asked: 0 }
    }

    /// Something waits that is part of every revision from `revision` on. Who asks twice and wants the answers in
    /// order asks with a revision that never falls.
    pub fn ask(&mut self, now: Millis, revision: Revision, token: T) {
        self.asked += 1;
        self.by_revision.insert((revision, self.asked));
        self.waiting.insert(self.asked, Waiting { revision, deadline: now.plus(self.timeout), token });
    }

    /// Takes out what is confirmed now, in the order of asking. Nothing is while a partition's history has not begun.
    pub fn take<E: Weight>(&mut self, now: Millis, coverage: &mut Coverage<E>) -> Vec<T> {
        let Some(most) = self.most(coverage) else { return Vec::new() };
        let carried = coverage.lowest_revision().min(most);
        let carried =
            self.by_revision.iter().take_while(|(revision, _)| *revision <= carried).map(|(_, number)| *number);
        let late = self.waiting.iter().take_while(|(_, waiting)| waiting.deadline <= now);
        let late = late.filter(|(_, waiting)| waiting.revision <= most).map(|(number, _)| *number);
        let numbers: BTreeSet<u64> = carried.chain(late).collect();
        let mut tokens = Vec::with_capacity(numbers.len());
        for number in numbers {
            if let Some(Waiting { revision, token, .. }) = self.waiting.remove(&number) {
                self.by_revision.remove(&(revision, number));
                coverage.require(revision);
                tokens.push(token);
            }
        }
        tokens
    }

    /// When the first of the waiting is confirmed whatever lags. While a partition's history has not begun, or all wait for
    /// answers under way, no time confirms anything, and there is none.
    #[must_use]
    pub fn next_deadline<E: Weight>(&self, coverage: &Coverage<E>) -> Option<Millis> {
        let most = self.most(coverage)?;
        self.waiting.values().find(|waiting| waiting.revision <= most).map(|waiting| waiting.deadline)
    }

    /// The highest revision that may be confirmed now, unless nothing may that waits.
    fn most<E: Weight>(&self, coverage: &Coverage<E>) -> Option<Revision> {
        let (lowest, _) = self.by_revision.first()?;
        let most = coverage.revision_under_way().unwrap_or(Revision(u64::MAX));
        (*lowest <= most && coverage.is_complete()).then_some(most)
    }
}
