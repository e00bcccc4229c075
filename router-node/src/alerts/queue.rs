//! The requests for alerts that wait, and which of them is served next. Pure.
//!
//! Gateways take turns, so one that asks without end delays itself and no other. All gateways that the view does not have
//! count as one.

use crate::asker::Asker;
use std::collections::{BTreeMap, VecDeque};
use tickwire_core::ids::Millis;

/// How many requests of one gateway may wait. It has at most 16 at a time, and asks again for those that were late.
const OF_ONE: usize = 64;

/// How many bytes of requests may wait.
const BYTES: usize = 4 * 1024 * 1024;

/// A request that has waited for this time, in milliseconds, is late: its gateway does not wait for the answer any more.
const LATE: u64 = 2_000;

/// The requests that wait.
#[derive(Debug)]
pub(super) struct AlertQueue<R> {
    /// Those of each gateway that has some.
    waiting: BTreeMap<Asker, OfOne<R>>,
    /// The gateways that have some, the next one first.
    turns: VecDeque<Asker>,
    bytes: usize,
}

/// The requests of one gateway.
#[derive(Debug)]
struct OfOne<R> {
    /// In the order of their arrival.
    requests: VecDeque<WaitingRequest<R>>,
    bytes: usize,
}

#[derive(Debug)]
struct WaitingRequest<R> {
    since: Millis,
    bytes: usize,
    request: R,
}

/// The request that is served next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken<R> {
    /// `None` if none waits.
    pub(super) next: Option<R>,
    /// How many were late, and are dropped.
    pub(super) late: u64,
}

impl<R> AlertQueue<R> {
    /// No request waits.
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), turns: VecDeque::new(), bytes: 0 }
    }

    /// Adds a request of this many bytes. If there is no room, the last request of its gateway, or of the one with the
    /// most bytes, is dropped. Returns how many were dropped.
    pub(super) fn push(&mut self, now: Millis, asker: &Asker, bytes: usize, request: R) -> u64 {
        let turns = &mut self.turns;
        let of_one = self.waiting.entry(asker.clone()).or_insert_with(|| {
            turns.push_back(asker.clone());
            OfOne { requests: VecDeque::new(), bytes: 0 }
        });
        if of_one.requests.len() >= OF_ONE {
            return 1;
        }
        of_one.requests.push_back(WaitingRequest { since: now, bytes, request });
        of_one.bytes += bytes;
        self.bytes += bytes;
        let mut dropped = 0;
        while self.bytes > BYTES
            && let Some(most) = self.waiting.iter().max_by_key(|(_, one)| one.bytes).map(|(asker, _)| asker.clone())
        {
            self.remove(&most, VecDeque::pop_back);
            dropped += 1;
        }
        dropped
    }

    /// Takes out the request whose turn it is.
    pub(super) fn take(&mut self, now: Millis) -> Taken<R> {
        let mut late = 0;
        while let Some(asker) = self.turns.pop_front() {
            self.turns.push_back(asker.clone());
            match self.remove(&asker, VecDeque::pop_front) {
                Some(waiting) if now.since(waiting.since) < LATE => {
                    return Taken { next: Some(waiting.request), late };
                }
                Some(_) => late += 1,
                None => {}
            }
        }
        Taken { next: None, late }
    }

    /// Takes one request of a gateway out. A gateway without another one has no turns.
    fn remove(
        &mut self,
        asker: &Asker,
        pop: impl FnOnce(&mut VecDeque<WaitingRequest<R>>) -> Option<WaitingRequest<R>>,
    ) -> Option<WaitingRequest<R>> {
        let of_one = self.waiting.get_mut(asker);
        let removed = of_one.and_then(|of_one| {
            let removed = pop(&mut of_one.requests)?;
            of_one.bytes -= removed.bytes;
            Some(removed)
        });
        self.bytes -= removed.as_ref().map_or(0, |removed| removed.bytes);
        if self.waiting.get(asker).is_none_or(|of_one| of_one.requests.is_empty()) {
            self.waiting.remove(asker);
            self.turns.retain(|other| other != asker);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, NodeRef, Nonce};

    const NOW: Millis = Millis(5_000);

    fn gateway(id: &str) -> Asker {
        Asker::Member(NodeRef { id: NodeId::new(id).unwrap(), nonce: Nonce(1) })
    }

    fn take_all(queue: &mut AlertQueue<u64>, now: Millis) -> Vec<u64> {
        std::iter::from_fn(|| queue.take(now).next).collect()
    }

    #[test]
    fn gateways_take_turns_and_the_others_count_as_one() {
        let mut queue = AlertQueue::new();
        let dropped = (0..1_000).map(|number| queue.push(NOW, &Asker::Outsider, 1, number)).sum::<u64>();
        assert_eq!(dropped, 1_000 - OF_ONE as u64);
        let added = [("a", 2_000), ("a", 2_001), ("b", 3_000)];
        assert!(added.iter().all(|(id, number)| queue.push(NOW, &gateway(id), 1, *number) == 0));
        let served: Vec<u64> = (0..6).filter_map(|_| queue.take(NOW).next).collect();
        assert_eq!(served, [0, 2_000, 3_000, 1, 2_001, 2]);
        queue.push(NOW, &gateway("b"), 1, 3_001);
        let served: Vec<u64> = (0..2).filter_map(|_| queue.take(NOW).next).collect();
        assert_eq!(served, [3, 3_001]);
        assert_eq!(take_all(&mut queue, NOW), (4..OF_ONE as u64).collect::<Vec<_>>());
        assert!(queue.waiting.is_empty() && queue.turns.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn gateway_with_the_most_bytes_gives_way() {
        let mut queue = AlertQueue::new();
        let large = (0..16).map(|number| queue.push(NOW, &gateway("large"), BYTES / 16, number)).sum::<u64>();
        assert_eq!(large, 0);
        assert_eq!(queue.push(NOW, &gateway("small"), BYTES / 16 + 1, 100), 2);
        assert_eq!(queue.push(NOW, &gateway("vast"), 2 * BYTES, 200), 1, "it alone");
        let expected = std::iter::once(0).chain([100]).chain(1..14).collect::<Vec<_>>();
        assert_eq!(take_all(&mut queue, NOW), expected);
        assert!(queue.waiting.is_empty() && queue.turns.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn late_requests_are_dropped() {
        let mut queue = AlertQueue::new();
        for (since, number) in [(NOW, 1), (NOW, 2), (NOW.plus(1), 3)] {
            queue.push(since, &gateway("a"), 1, number);
        }
        let taken = queue.take(NOW.plus(LATE));
        assert_eq!(taken, Taken { next: Some(3), late: 2 });
        assert_eq!(queue.take(NOW.plus(LATE)), Taken { next: None, late: 0 });
    }
}
