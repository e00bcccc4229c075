//! When a subscription may be confirmed: once every partition's coverage carries a revision that includes it.
//!
//! Safety comes from [`Coverage::require`] alone: after it no older revision proves anything. Waiting only spares the
//! gap that would follow, so a partition of which nothing comes does not hold the confirmation for longer than a deadline.
//!
//! What is on its way is older: the answer to a request for a replay, what came behind a gap and is held, what a router
//! sends that lags. All of that would have to be read again. So a confirmation waits longer for it, for another deadline:
//! otherwise subscriptions that change faster than routers answer would keep gaps open for ever, and a router that is a
//! little late because it has much to do would be given the more to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::coverage::{Coverage, Weight};
use crate::ids::{Millis, Revision};

/// What waits to be confirmed. `T` is what the asker wants back. What still has to wait costs nothing when others are
/// confirmed.
#[derive(Debug)]
pub struct Confirmations<T> {
    timeout: u64,
    patience: u64,
    /// By number, in the order of asking, which is that of the deadlines.
    waiting: BTreeMap<u64, PendingConfirmation<T>>,
    /// The same by what they wait for.
    by_revision: BTreeSet<(Revision, u64)>,
    /// The numbers of those whose first deadline has not passed, in order. Some may be confirmed already.
    early: VecDeque<u64>,
    /// Those whose first deadline has passed, and which would outdate something that is on its way.
    late: BTreeSet<(Revision, u64)>,
    asked: u64,
}

#[derive(Debug)]
struct PendingConfirmation<T> {
    revision: Revision,
    /// Whatever lags, it is confirmed by then if it outdates nothing that is on its way.
    deadline: Millis,
    token: T,
}

impl<T> Confirmations<T> {
    /// Nothing waits. `timeout`, in milliseconds, is how long a partition of which nothing comes may hold a confirmation,
    /// and `patience` for how much longer one may of which something is on its way that it would outdate.
    #[must_use]
    pub fn new(timeout: u64, patience: u64) -> Self {
        Self {
            timeout,
            patience,
            waiting: BTreeMap::new(),
            by_revision: BTreeSet::new(),
            early: VecDeque::new(),
            late: BTreeSet::new(),
            asked: 0,
        }
    }

    /// Something waits that is part of every revision from `revision` on. Who asks twice and wants the answers in
    /// order asks with a revision that never falls.
    pub fn ask(&mut self, now: Millis, revision: Revision, token: T) {
        self.asked += 1;
        self.by_revision.insert((revision, self.asked));
        self.early.push_back(self.asked);
        self.waiting.insert(self.asked, PendingConfirmation { revision, deadline: now.plus(self.timeout), token });
    }

    /// Takes out what is confirmed now, in the order of asking. Nothing is while a partition's history has not begun.
    pub fn take<E: Weight>(&mut self, now: Millis, coverage: &mut Coverage<E>) -> Vec<T> {
        if self.waiting.is_empty() || !coverage.is_complete() {
            return Vec::new();
        }
        self.see_deadlines(now);
        let mut taken = BTreeMap::new();
        // What is outdated by one holds the others no longer.
        loop {
            let due = self.due(now, coverage);
            if due.is_empty() {
                break;
            }
            for number in due {
                if let Some(PendingConfirmation { revision, token, .. }) = self.waiting.remove(&number) {
                    self.by_revision.remove(&(revision, number));
                    self.late.remove(&(revision, number));
                    coverage.require(revision);
                    taken.insert(number, token);
                }
            }
        }
        self.see_deadlines(now);
        taken.into_values().collect()
    }

    /// The numbers of those that are confirmed now.
    fn due<E: Weight>(&self, now: Millis, coverage: &Coverage<E>) -> BTreeSet<u64> {
        let harmless = self.harmless(now, coverage);
        let up_to = |most: Revision| move |(revision, _): &&(Revision, u64)| *revision <= most;
        let carried = self.by_revision.iter().take_while(up_to(coverage.lowest_revision().min(harmless)));
        let late = self.late.iter().take_while(up_to(harmless));
        let last = self.waiting.iter().take_while(|(_, waiting)| self.last_deadline(waiting) <= now);
        carried.chain(late).map(|(_, number)| *number).chain(last.map(|(number, _)| *number)).collect()
    }

    /// Those whose first deadline has passed are late from now on; those that are confirmed are passed over.
    fn see_deadlines(&mut self, now: Millis) {
        let Self { waiting, early, late, .. } = self;
        let is_over = |number: &mut u64| waiting.get(number).is_none_or(|waiting| waiting.deadline <= now);
        while let Some(number) = early.pop_front_if(is_over) {
            late.extend(waiting.get(&number).map(|waiting| (waiting.revision, number)));
        }
    }

    /// By then it is confirmed, whatever that outdates.
    fn last_deadline(&self, waiting: &PendingConfirmation<T>) -> Millis {
        waiting.deadline.plus(self.patience)
    }

    /// When [`Self::take`] is next to be called, if nothing comes before that: when a deadline passes, or what lags counts
    /// as what nothing comes of. While a partition's history has not begun, no time confirms anything, and there is none.
    #[must_use]
    pub fn next_deadline<E: Weight>(&self, coverage: &Coverage<E>) -> Option<Millis> {
        let (_, first) = self.waiting.first_key_value()?;
        if !coverage.is_complete() {
            return None;
        }
        let early = self.early.front().and_then(|number| self.waiting.get(number)).map(|waiting| waiting.deadline);
        let quiet = coverage.last_heard().map(|heard| heard.plus(self.timeout));
        let late = self.late.first().and_then(|(lowest, _)| quiet.filter(|at| *lowest <= self.harmless(*at, coverage)));
        early.into_iter().chain(late).chain([self.last_deadline(first)]).min()
    }

    /// The highest revision that outdates nothing which is on its way.
    fn harmless<E: Weight>(&self, now: Millis, coverage: &Coverage<E>) -> Revision {
        let since = Millis(now.0.saturating_sub(self.timeout));
        coverage.coming_revision(since).unwrap_or(Revision(u64::MAX))
    }
}
