//! When a subscription may be confirmed: once every partition's coverage carries a revision that includes it.
//!
//! Safety comes from [`Coverage::require`] alone: after it no older revision proves anything. Waiting only spares the
//! gap that would follow, so a partition that lags does not hold the confirmation for longer than a deadline.

use crate::coverage::{Coverage, Weight};
use crate::ids::{Millis, Revision};

/// What waits to be confirmed, oldest first. `T` is what the asker wants back.
#[derive(Debug)]
pub struct Confirmations<T> {
    timeout: u64,
    waiting: Vec<Waiting<T>>,
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
        Self { timeout, waiting: Vec::new() }
    }

    /// Something waits that is part of every revision from `revision` on. Who asks twice and wants the answers in
    /// order asks with a revision that never falls.
    pub fn ask(&mut self, now: Millis, revision: Revision, token: T) {
        self.waiting.push(Waiting { revision, deadline: now.plus(self.timeout), token });
    }

    /// Takes out what is confirmed now, in the order of asking. Nothing is while a partition's history has not begun.
    pub fn take<E: Weight>(&mut self, now: Millis, coverage: &mut Coverage<E>) -> Vec<T> {
        if self.waiting.is_empty() || !coverage.is_complete() {
            return Vec::new();
        }
        let carried = coverage.lowest_revision();
        self.waiting
            .extract_if(.., |waiting| waiting.revision <= carried || waiting.deadline <= now)
            .map(|waiting| {
                coverage.require(waiting.revision);
                waiting.token
            })
            .collect()
    }

    /// When the first of the waiting is confirmed whatever lags. While a partition's history has not begun, no time
    /// confirms anything, and there is none.
    #[must_use]
    pub fn next_deadline<E: Weight>(&self, coverage: &Coverage<E>) -> Option<Millis> {
        if !coverage.is_complete() {
            return None;
        }
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }
}
