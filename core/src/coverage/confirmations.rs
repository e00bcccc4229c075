//! Decides when a subscription is confirmed: when the coverage of every partition has a revision that includes it.
//!
//! [`Coverage::require`] alone gives safety: after it, sections of older revisions are invalid. Waiting only avoids the
//! gap that would follow. So a partition that sends nothing delays a confirmation only up to a first deadline.
//!
//! Sections on their way have older revisions: pending replays, sections held behind a gap, sections of a router that
//! lags. A confirmation would make them invalid, and they would have to be read again. So a confirmation waits for them
//! up to a second deadline. Otherwise subscriptions that change faster than routers answer would keep gaps open for
//! ever, and would give even more work to a busy router.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::coverage::{Coverage, Weight};
use crate::ids::{Millis, Revision};

/// The pending confirmations. `T` is a token that the caller gets back. The cost of a call does not depend on those
/// that stay pending.
#[derive(Debug)]
pub struct Confirmations<T> {
    timeout: u64,
    patience: u64,
    /// All, by number: in the order of asking, which is also the order of the deadlines.
    waiting: BTreeMap<u64, PendingConfirmation<T>>,
    /// All, by the revision that they wait for.
    by_revision: BTreeSet<(Revision, u64)>,
    /// The numbers of those before their first deadline, in order. Some may be confirmed already.
    early: VecDeque<u64>,
    /// Those after their first deadline, which wait for sections that are on their way.
    late: BTreeSet<(Revision, u64)>,
    asked: u64,
}

#[derive(Debug)]
struct PendingConfirmation<T> {
    revision: Revision,
    /// The first deadline: then it is confirmed if that makes no section on its way invalid.
    deadline: Millis,
    token: T,
}

impl<T> Confirmations<T> {
    /// No confirmations yet. `timeout` is how long a silent partition may delay one, in milliseconds. `patience` is how
    /// much longer sections on their way may delay it.
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

    /// Adds a confirmation of something that is part of every revision from `revision` on. Confirmations come in the
    /// order of asking if the revisions never fall.
    pub fn ask(&mut self, now: Millis, revision: Revision, token: T) {
        self.asked += 1;
        self.by_revision.insert((revision, self.asked));
        self.early.push_back(self.asked);
        self.waiting.insert(self.asked, PendingConfirmation { revision, deadline: now.plus(self.timeout), token });
    }

    /// Takes what is confirmed now, in the order of asking. Nothing is confirmed before every partition's history has
    /// begun.
    pub fn take<E: Weight>(&mut self, now: Millis, coverage: &mut Coverage<E>) -> Vec<T> {
        if self.waiting.is_empty() || !coverage.is_complete() {
            return Vec::new();
        }
        self.move_late(now);
        let mut taken = BTreeMap::new();
        // Sections that one confirmation makes invalid no longer delay the others.
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
        self.move_late(now);
        taken.into_values().collect()
    }

    /// The numbers of the confirmations that are due now.
    fn due<E: Weight>(&self, now: Millis, coverage: &Coverage<E>) -> BTreeSet<u64> {
        let harmless = self.harmless(now, coverage);
        let up_to = |most: Revision| move |(revision, _): &&(Revision, u64)| *revision <= most;
        let carried = self.by_revision.iter().take_while(up_to(coverage.lowest_revision().min(harmless)));
        let late = self.late.iter().take_while(up_to(harmless));
        let last = self.waiting.iter().take_while(|(_, waiting)| self.last_deadline(waiting) <= now);
        carried.chain(late).map(|(_, number)| *number).chain(last.map(|(number, _)| *number)).collect()
    }

    /// Moves those whose first deadline has passed from `early` to `late`. Confirmed ones are removed.
    fn move_late(&mut self, now: Millis) {
        let Self { waiting, early, late, .. } = self;
        let is_over = |number: &mut u64| waiting.get(number).is_none_or(|waiting| waiting.deadline <= now);
        while let Some(number) = early.pop_front_if(is_over) {
            late.extend(waiting.get(&number).map(|waiting| (waiting.revision, number)));
        }
    }

    /// The second deadline: then it is confirmed in any case.
    fn last_deadline(&self, waiting: &PendingConfirmation<T>) -> Millis {
        waiting.deadline.plus(self.patience)
    }

    /// When to call [`Self::take`] next if nothing is received before: when a deadline passes, or when a partition that
    /// lags counts as silent. `None` before every partition's history has begun.
    #[must_use]
    pub fn next_deadline<E: Weight>(&self, coverage: &Coverage<E>) -> Option<Millis> {
        let (_, first) = self.waiting.first_key_value()?;
        if !coverage.is_complete() {
            return None;
        }
        let early = self.early.front().and_then(|number| self.waiting.get(number)).map(|waiting| waiting.deadline);
        let quiet = coverage.last_received().map(|received| received.plus(self.timeout));
        let late = self.late.first().and_then(|(lowest, _)| quiet.filter(|at| *lowest <= self.harmless(*at, coverage)));
        early.into_iter().chain(late).chain([self.last_deadline(first)]).min()
    }

    /// The highest revision that can be required without making sections on their way invalid.
    fn harmless<E: Weight>(&self, now: Millis, coverage: &Coverage<E>) -> Revision {
        let since = Millis(now.0.saturating_sub(self.timeout));
        coverage.lowest_pending_revision(since).unwrap_or(Revision(u64::MAX))
    }
}
