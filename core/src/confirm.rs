//! When a subscription may be confirmed: once every partition's coverage carries a revision that includes it.
//!
//! Safety comes from [`Coverage::require`] alone: after it no older revision proves anything. Waiting only spares the
//! gap that would follow, so a partition of which nothing comes does not hold the confirmation for longer than a deadline.
//!
//! What is on its way is older: the answer to a request for a replay, what came behind a gap and is held, what a router sends
//! that lags. All of that would have to be read again. So a confirmation waits longer for it, for another deadline:
//! otherwise subscriptions that change faster than routers answer would keep gaps open for ever, and a router that is a
//! little late because it has much to do would be given the more to do.

use std::collections::{BTreeMap, BTreeSet};

use crate::coverage::{Coverage, Weight};
use crate::ids::{Millis, Revision};

/// What waits to be confirmed. `T` is what the asker wants back. What still has to wait costs nothing when others are
/// confirmed.
#[derive(Debug)]
pub struct Confirmations<T> {
    timeout: u64,
    patience: u64,
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
    /// Nothing waits. `timeout`, in milliseconds, is how long a partition of which nothing comes may hold a confirmation, and
    /// `patience` for how much longer one may that lags, or whose gap is about to close.
    #[must_use]
    pub fn new(timeout: u64, patience: u64) -> Self {
        Self { timeout, patience, waiting: BTreeMap::new(), by_revision: BTreeSet::new(), asked: 0 }
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
        if self.waiting.is_empty() || !coverage.is_complete() {
            return Vec::new();
        }
        let harmless = self.harmless(now, coverage);
        let carried = coverage.lowest_revision().min(harmless);
        let carried =
            self.by_revision.iter().take_while(|(revision, _)| *revision <= carried).map(|(_, number)| *number);
        let delay = if self.is_any_harmless(harmless) { 0 } else { self.patience };
        let late = self.waiting.iter().take_while(|(_, waiting)| waiting.deadline.plus(delay) <= now);
        let is_due = |waiting: &Waiting<T>| waiting.revision <= harmless || self.last_deadline(waiting) <= now;
        let late = late.filter(|(_, waiting)| is_due(waiting)).map(|(number, _)| *number);
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

    /// When the first of the waiting is confirmed whatever lags. While a partition's history has not begun, no time
    /// confirms anything, and there is none.
    #[must_use]
    pub fn next_deadline<E: Weight>(&self, now: Millis, coverage: &Coverage<E>) -> Option<Millis> {
        if !coverage.is_complete() {
            return None;
        }
        let last = self.waiting.values().next().map(|waiting| self.last_deadline(waiting));
        let first = self.first_deadline(self.harmless(now, coverage));
        // If nothing more comes, what lags holds nothing any more by then.
        let quiet = coverage.last_heard().map_or(now, |heard| heard.plus(self.timeout).max(now));
        let later = self.first_deadline(self.harmless(quiet, coverage)).map(|deadline| deadline.max(quiet));
        first.into_iter().chain(later).chain(last).min()
    }

    /// The deadline of the first of the waiting that outdates nothing, if no higher revision than this does.
    fn first_deadline(&self, harmless: Revision) -> Option<Millis> {
        let waiting = self.is_any_harmless(harmless).then(|| self.waiting.values()).into_iter().flatten();
        waiting.filter(|waiting| waiting.revision <= harmless).map(|waiting| waiting.deadline).next()
    }

    /// Whether anything waits that outdates nothing. Mostly all does or nothing, and then no search is needed.
    fn is_any_harmless(&self, harmless: Revision) -> bool {
        self.by_revision.first().is_some_and(|(lowest, _)| *lowest <= harmless)
    }

    /// When it is confirmed whatever that outdates.
    fn last_deadline(&self, waiting: &Waiting<T>) -> Millis {
        waiting.deadline.plus(self.patience)
    }

    /// The highest revision that outdates nothing which is on its way.
    fn harmless<E: Weight>(&self, now: Millis, coverage: &Coverage<E>) -> Revision {
        let since = Millis(now.0.saturating_sub(self.timeout));
        coverage.coming_revision(since).unwrap_or(Revision(u64::MAX))
    }
}
