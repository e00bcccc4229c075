//! The requests for replays that wait: which of them are read next, and which together. Pure.
//!
//! Gateways take turns, so one that asks for very much delays itself and no other. All gateways that the view does not
//! have count as one here. A request gets the turn after that of the last request of its gateway, or after the turn that
//! is read now, whichever is later. The lowest turn is read first. In a full queue the gateway with the most requests
//! gives way.
//!
//! Repairs go before backfills, but leave one place to them: a gateway that asks for repairs without end must not keep
//! the clients of the others waiting. Both have turns of their own. If repairs, which are read more often, moved the
//! turns of backfills on, a gateway that asks for its first backfill would wait for all earlier ones of the others.

use crate::asker::Asker;
use std::collections::{BTreeMap, VecDeque};
use tickwire_core::ids::Millis;
use tickwire_core::replay::{Purpose, ReplayRequest};

/// How many requests may wait. Beyond that they are refused.
pub(super) const WAITING: usize = 64;

/// At least this number of requests must begin near the first one to be read with it in one pass.
pub const TOGETHER: usize = 15;

/// A request is near the first one if it begins at most `BEFORE` sequences before it, or at most `AFTER` after it. A
/// request that the pass does not reach waits for the next one. A request that begins much earlier would delay the
/// rest.
const BEFORE: u64 = 2_000;
const AFTER: u64 = 16_384;

/// A request for more than `LONG` sequences waits for others for `COLLECT_MS` milliseconds: a gateway asks for one
/// partition after the other, and one pass for all costs much less.
const LONG: u64 = 1_000;
pub(super) const COLLECT_MS: u64 = 10;

/// A request that has waited for this time, in milliseconds, is refused: its gateway is about to ask another router.
const STALE: u64 = 1_000;

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct QueuedReplay<R> {
    pub(super) since: Millis,
    /// Who takes turns with others.
    pub(super) asker: Asker,
    /// In which turn of its purpose it is read.
    pub(super) turn: u64,
    /// The request.
    pub request: ReplayRequest,
    /// Where the answer goes.
    pub reply: R,
    /// Whether a pass went beyond its begin and found nothing for it. Its partition is then read by itself.
    pub(super) is_sparse: bool,
}

impl<R> QueuedReplay<R> {
    /// Whether it is a repair.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        self.request.purpose.is_repair()
    }

    fn is_due(&self, now: Millis) -> bool {
        let ReplayRequest { from, to, .. } = &self.request;
        to.0.saturating_sub(from.0) <= LONG || now.since(self.since) >= COLLECT_MS
    }
}

/// The requests of a pass that is to begin.
#[derive(Debug)]
pub struct Due<R> {
    /// Those that are read.
    pub requests: Vec<QueuedReplay<R>>,
    /// Those that have waited for too long, and are refused.
    pub stale: Vec<QueuedReplay<R>>,
}

/// The requests that wait, and how many passes run.
#[derive(Debug)]
pub struct Queue<R> {
    /// In the order of their arrival.
    waiting: VecDeque<QueuedReplay<R>>,
    repairs: Passes,
    backfills: Passes,
    /// How many passes may run, one of which is a repair's, and one a backfill's.
    at_once: usize,
    /// How many requests must be near another one to be read with it.
    together: usize,
}

/// The passes of one purpose.
#[derive(Debug, Default)]
struct Passes {
    /// The latest turn of a request that was taken.
    turn: u64,
    /// How many run.
    running: usize,
}

impl<R> Queue<R> {
    /// An empty queue. At most `at_once` passes run at a time. If that is more than one, one place is for repairs alone,
    /// and repairs leave one to backfills that wait. At least `together` requests must be near another one to be read
    /// with it, because a pass for several costs more than one for one.
    #[must_use]
    pub fn new(at_once: usize, together: usize) -> Self {
        let (repairs, backfills) = (Passes::default(), Passes::default());
        Self { waiting: VecDeque::new(), repairs, backfills, at_once, together }
    }

    /// Adds a request. If the queue is full, it returns the one that gives way: of the gateway with the most requests
    /// the last one, a backfill before a repair.
    pub fn push(&mut self, now: Millis, asker: Asker, request: ReplayRequest, reply: R) -> Option<QueuedReplay<R>> {
        let (last, is_repair) = (self.passes_for(request.purpose).turn, request.purpose.is_repair());
        let same = self.waiting.iter().filter(|other| other.asker == asker && other.is_repair() == is_repair);
        let turn = same.map(|other| other.turn).fold(last, u64::max) + 1;
        self.waiting.push_back(QueuedReplay { since: now, asker, turn, request, reply, is_sparse: false });
        if self.waiting.len() <= WAITING {
            return None;
        }
        self.gives_way().and_then(|at| self.waiting.remove(at))
    }

    /// The requests of the next pass, if one is to begin. It runs until [`ended`](Self::ended), unless all are stale.
    pub fn begin(&mut self, now: Millis) -> Option<Due<R>> {
        let first = self.take_due(now)?;
        let together = self.with_neighbours(first);
        let (requests, stale): (Vec<_>, Vec<_>) =
            together.into_iter().partition(|waiting| now.since(waiting.since) < STALE);
        if let Some(first) = requests.first() {
            self.passes_for(first.request.purpose).running += 1;
        }
        Some(Due { requests, stale })
    }

    /// Notes that a pass for this purpose has ended. The requests that it has left are read next.
    pub fn ended(&mut self, purpose: Purpose, left: Vec<QueuedReplay<R>>) {
        let passes = self.passes_for(purpose);
        passes.running = passes.running.saturating_sub(1);
        left.into_iter().rev().for_each(|one| self.waiting.push_front(one));
    }

    /// Whether a pass may begin after a while without another input.
    #[must_use]
    pub fn is_collecting(&self) -> bool {
        self.running() < self.at_once && !self.waiting.is_empty()
    }

    /// Takes out all requests.
    pub fn drain(&mut self) -> impl Iterator<Item = QueuedReplay<R>> {
        self.waiting.drain(..)
    }

    fn running(&self) -> usize {
        self.repairs.running + self.backfills.running
    }

    fn passes_for(&mut self, purpose: Purpose) -> &mut Passes {
        if purpose.is_repair() { &mut self.repairs } else { &mut self.backfills }
    }

    /// Where the request is that gives way.
    fn gives_way(&self) -> Option<usize> {
        let mut counts: BTreeMap<&Asker, usize> = BTreeMap::new();
        self.waiting.iter().for_each(|one| *counts.entry(&one.asker).or_default() += 1);
        let most = counts.values().max()?;
        let of_most = self.waiting.iter().enumerate().filter(|(_, one)| counts.get(&one.asker) == Some(most));
        of_most.max_by_key(|(_, one)| (!one.is_repair(), one.turn)).map(|(at, _)| at)
    }

    /// Takes out the request whose turn it is, if a pass may begin now: a repair if there is one, except for the place
    /// that repairs leave.
    fn take_due(&mut self, now: Millis) -> Option<QueuedReplay<R>> {
        if self.running() >= self.at_once {
            return None;
        }
        let others = self.at_once.saturating_sub(1).max(1);
        let due = |is_repair: bool| {
            let due =
                self.waiting.iter().enumerate().filter(|(_, one)| one.is_repair() == is_repair && one.is_due(now));
            due.min_by_key(|(_, one)| one.turn).map(|(at, _)| at)
        };
        let at = if self.repairs.running >= others {
            // No backfill runs now.
            due(false).or_else(|| due(true))?
        } else {
            due(true).or_else(|| due(false).filter(|_| self.running() < others))?
        };
        let taken = self.waiting.remove(at)?;
        let passes = self.passes_for(taken.request.purpose);
        passes.turn = passes.turn.max(taken.turn);
        Some(taken)
    }

    /// The request, with those that begin near it if there are enough of them.
    fn with_neighbours(&mut self, first: QueuedReplay<R>) -> Vec<QueuedReplay<R>> {
        let begin = first.request.from.0;
        let near = begin.saturating_sub(BEFORE)..=begin.saturating_add(AFTER);
        let purpose = first.request.purpose;
        let may_share = |other: &QueuedReplay<R>| !other.is_sparse && other.request.purpose == purpose;
        let is_near = |other: &QueuedReplay<R>| may_share(other) && near.contains(&other.request.from.0);
        let is_sparse = first.is_sparse;
        let mut together = vec![first];
        if !is_sparse && self.waiting.iter().filter(|other| is_near(other)).count() >= self.together {
            let (near, far): (VecDeque<_>, VecDeque<_>) = self.waiting.drain(..).partition(is_near);
            together.extend(near);
            self.waiting = far;
        }
        together
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
