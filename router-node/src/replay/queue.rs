//! The requests for replays that wait: which of them are read next, and which together. Pure.
//!
//! Gateways take turns, so one that asks for very much delays itself and no other. All gateways that the view does not
//! have count as one here. A request gets the turn after that of the last request of its gateway, or after the turn that
//! is read now, whichever is later. The lowest turn is read first, and in a full queue the gateway with the highest one
//! gives way.
//!
//! Repairs go before backfills, but leave one place to them: a gateway that asks for repairs without end must not keep
//! the clients of the others waiting.

use crate::asker::Asker;
use std::collections::VecDeque;
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
    /// The turn of its gateway in which it is read.
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
    /// The turn of the request that was taken last.
    turn: u64,
    /// How many passes of repairs run, and how many of backfills.
    repairs: usize,
    backfills: usize,
    /// How many passes may run, one of which is a repair's, and one a backfill's.
    at_once: usize,
    /// How many requests must be near another one to be read with it.
    together: usize,
}

impl<R> Queue<R> {
    /// An empty queue. At most `at_once` passes run at a time. If that is more than one, one place is for repairs alone,
    /// and repairs leave one to backfills that wait. At least `together` requests must be near another one to be read
    /// with it, because a pass for several costs more than one for one.
    #[must_use]
    pub fn new(at_once: usize, together: usize) -> Self {
        Self { waiting: VecDeque::new(), turn: 0, repairs: 0, backfills: 0, at_once, together }
    }

    /// Adds a request. If the queue is full, it returns the one that gives way: of the gateway with the most requests
    /// the last one, a backfill before a repair.
    pub fn push(&mut self, now: Millis, asker: Asker, request: ReplayRequest, reply: R) -> Option<QueuedReplay<R>> {
        let of_asker = self.waiting.iter().filter(|other| other.asker == asker);
        let turn = of_asker.map(|other| other.turn).fold(self.turn, u64::max) + 1;
        self.waiting.push_back(QueuedReplay { since: now, asker, turn, request, reply, is_sparse: false });
        if self.waiting.len() <= WAITING {
            return None;
        }
        let most = self.waiting.iter().max_by_key(|one| one.turn)?.asker.clone();
        let of_most = self.waiting.iter().enumerate().filter(|(_, one)| one.asker == most);
        let last = of_most.max_by_key(|(_, one)| (!one.is_repair(), one.turn))?.0;
        self.waiting.remove(last)
    }

    /// The requests of the next pass, if one is to begin. It runs until [`ended`](Self::ended), unless all are stale.
    pub fn begin(&mut self, now: Millis) -> Option<Due<R>> {
        let first = self.take_due(now)?;
        let together = self.with_neighbours(first);
        let (requests, stale): (Vec<_>, Vec<_>) =
            together.into_iter().partition(|waiting| now.since(waiting.since) < STALE);
        if let Some(first) = requests.first() {
            *self.running_of(first.request.purpose) += 1;
        }
        Some(Due { requests, stale })
    }

    /// Notes that a pass for this purpose has ended. The requests that it has left are read next.
    pub fn ended(&mut self, purpose: Purpose, left: Vec<QueuedReplay<R>>) {
        let running = self.running_of(purpose);
        *running = running.saturating_sub(1);
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
        self.repairs + self.backfills
    }

    fn running_of(&mut self, purpose: Purpose) -> &mut usize {
        if purpose.is_repair() { &mut self.repairs } else { &mut self.backfills }
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
        let at = if self.repairs >= others {
            // No backfill runs now.
            due(false).or_else(|| due(true))?
        } else {
            due(true).or_else(|| due(false).filter(|_| self.running() < others))?
        };
        let taken = self.waiting.remove(at)?;
        self.turn = self.turn.max(taken.turn);
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
mod tests {
    use super::*;
    use tickwire_core::ids::{EpochId, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
    use tickwire_core::replay::ReplayInterest;

    const NOW: Millis = Millis(5_000);

    fn request(from: u64) -> ReplayRequest {
        ReplayRequest {
            gateway: NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) },
            partition: Partition(0),
            from: Seq(from),
            to: Seq(from + 50_000),
            epoch_id: EpochId(1),
            interest: ReplayInterest::ByRevision(Revision(1)),
            purpose: Purpose::Repair,
        }
    }

    fn backfill(from: u64) -> ReplayRequest {
        ReplayRequest { purpose: Purpose::Backfill, ..request(from) }
    }

    fn short(request: ReplayRequest) -> ReplayRequest {
        ReplayRequest { to: Seq(request.from.0 + 1), ..request }
    }

    fn asker(request: &ReplayRequest) -> Asker {
        Asker::Member(request.gateway.clone())
    }

    fn push(queue: &mut Queue<()>, request: ReplayRequest) -> Option<QueuedReplay<()>> {
        queue.push(NOW, asker(&request), request, ())
    }

    fn waiting(request: ReplayRequest, is_sparse: bool) -> QueuedReplay<()> {
        QueuedReplay { since: NOW, asker: asker(&request), turn: 0, request, reply: (), is_sparse }
    }

    fn queue(at_once: usize, requests: impl IntoIterator<Item = ReplayRequest>) -> Queue<()> {
        let mut queue = Queue::new(at_once, TOGETHER);
        requests.into_iter().for_each(|request| assert!(push(&mut queue, request).is_none()));
        queue
    }

    fn begins<'w>(waiting: impl IntoIterator<Item = &'w QueuedReplay<()>>) -> Vec<u64> {
        waiting.into_iter().map(|waiting| waiting.request.from.0).collect()
    }

    /// Where the requests begin that are read with one that begins at 10,000.
    fn neighbours(first_is_sparse: bool, others: impl IntoIterator<Item = QueuedReplay<()>>) -> Vec<u64> {
        let mut queue = queue(4, []);
        queue.waiting.extend(others);
        begins(&queue.with_neighbours(waiting(request(10_000), first_is_sparse))[1..])
    }

    #[test]
    fn near_requests_share_a_pass_and_sparse_ones_are_read_alone() {
        let near = || (0..TOGETHER as u64).map(|number| waiting(request(10_000 + number), false));
        let expected: Vec<u64> = (0..TOGETHER as u64).map(|number| 10_000 + number).collect();
        assert_eq!(neighbours(false, near()), expected);
        assert_eq!(neighbours(false, near().skip(1)), [0; 0], "too few");
        assert_eq!(neighbours(true, near()), [0; 0]);
        let strangers = [(10_001, true), (7_999, false), (26_385, false)];
        let strangers = strangers.map(|(from, is_sparse)| waiting(request(from), is_sparse));
        assert_eq!(neighbours(false, near().chain(strangers)), expected);
        let just = [8_000, 26_384].map(|from| waiting(request(from), false));
        assert_eq!(neighbours(false, near().chain(just)).len(), TOGETHER + 2);
        let others = (0..TOGETHER as u64).map(|number| waiting(backfill(10_000 + number), false));
        assert_eq!(neighbours(false, others), [0; 0], "a repair shares its pass with no backfill");
    }

    #[test]
    fn repair_takes_the_place_of_the_last_backfill_in_a_full_queue() {
        let refused = |queue: &mut Queue<()>, request| {
            push(queue, request).map(|refused: QueuedReplay<()>| refused.request.from.0)
        };
        let mut all = queue(4, (0..WAITING as u64 - 1).map(backfill).chain([request(500)]));
        assert_eq!(refused(&mut all, backfill(600)), Some(600));
        assert_eq!(refused(&mut all, request(700)), Some(WAITING as u64 - 2));
        assert_eq!(begins(&all.waiting)[WAITING - 2..], [500, 700]);
        let mut repairs = queue(4, (0..WAITING as u64).map(request));
        assert_eq!(refused(&mut repairs, request(700)), Some(700));
    }

    #[test]
    fn gateways_take_turns_and_the_one_with_the_most_requests_gives_way() {
        let of = |gateway: &str, number| {
            let gateway = NodeRef { id: NodeId::new(gateway).unwrap(), nonce: Nonce(1) };
            // Too far from each other for one pass.
            short(ReplayRequest { gateway, ..backfill(number * 100_000) })
        };
        let number = |one: &QueuedReplay<()>| one.request.from.0 / 100_000;
        let mut queue = queue(2, (0..WAITING as u64).map(|number| of("many", number)));
        let pushed = [of("many", 100), of("few", 200), of("few", 201)];
        let refused = pushed.map(|request| number(&push(&mut queue, request).unwrap()));
        assert_eq!(refused, [100, WAITING as u64 - 1, WAITING as u64 - 2]);
        let next = |queue: &mut Queue<()>| {
            // The gateway goes on to ask.
            push(queue, of("many", 300));
            let due = queue.begin(NOW).unwrap();
            queue.ended(Purpose::Backfill, Vec::new());
            number(&due.requests[0])
        };
        assert_eq!([(); 4].map(|()| next(&mut queue)), [0, 200, 1, 201]);
        // Whoever comes later gets the next turn, and none for the time before.
        push(&mut queue, of("late", 400));
        push(&mut queue, of("late", 401));
        assert_eq!([(); 4].map(|()| next(&mut queue)), [2, 400, 3, 401]);
    }

    #[test]
    fn gateways_that_somebody_invents_have_the_turns_of_one() {
        let of = |gateway: &str, number| {
            let gateway = NodeRef { id: NodeId::new(gateway).unwrap(), nonce: Nonce(number) };
            short(ReplayRequest { gateway, ..backfill(number * 100_000) })
        };
        let number = |one: &QueuedReplay<()>| one.request.from.0 / 100_000;
        let mut queue = queue(2, []);
        let invented = |queue: &mut Queue<()>, at| queue.push(NOW, Asker::Stranger, of(&format!("x{at}"), at), ());
        assert_eq!((0..WAITING as u64).filter_map(|at| invented(&mut queue, at)).count(), 0);
        assert_eq!(number(&push(&mut queue, of("real", 200)).unwrap()), WAITING as u64 - 1);
        assert_eq!(number(&push(&mut queue, of("real", 201)).unwrap()), WAITING as u64 - 2);
        assert_eq!(number(&invented(&mut queue, 100).unwrap()), 100);
        let due = [(); 4].map(|()| {
            let due = queue.begin(NOW).unwrap();
            queue.ended(Purpose::Backfill, Vec::new());
            number(&due.requests[0])
        });
        assert_eq!(due, [0, 200, 1, 201]);
    }

    #[test]
    fn repairs_of_one_gateway_leave_room_and_a_place_to_the_backfills_of_others() {
        let of = |gateway: &str, request| {
            let gateway = NodeRef { id: NodeId::new(gateway).unwrap(), nonce: Nonce(1) };
            short(ReplayRequest { gateway, ..request })
        };
        let mut queue = queue(4, (0..WAITING as u64).map(|number| of("many", request(number * 100_000))));
        let refused = push(&mut queue, of("few", backfill(500))).unwrap();
        assert_eq!(refused.request.from.0, (WAITING as u64 - 1) * 100_000);
        let begun: Vec<_> = std::iter::from_fn(|| queue.begin(NOW)).map(|due| begins(&due.requests)).collect();
        assert_eq!(begun, [vec![0], vec![100_000], vec![200_000], vec![500]]);
        queue.ended(Purpose::Repair, Vec::new());
        assert_eq!(queue.begin(NOW).map(|due| begins(&due.requests)), Some(vec![300_000]), "no other backfill waits");
    }

    #[test]
    fn repairs_begin_first_and_have_a_reserved_place() {
        let due = |queue: &mut Queue<()>| queue.begin(NOW).map(|due| begins(&due.requests));
        let mut all = queue(4, [backfill(1), backfill(2), request(3)].map(short));
        all.backfills = 4;
        assert_eq!(due(&mut all), None);
        all.backfills = 3;
        assert_eq!(due(&mut all), Some(vec![3]));
        (all.repairs, all.backfills) = (0, 3);
        assert_eq!(due(&mut all), None);
        all.backfills = 1;
        assert_eq!([due(&mut all), due(&mut all)], [Some(vec![1]), Some(vec![2])]);
        assert_eq!(due(&mut queue(1, [short(backfill(4))])), Some(vec![4]), "with a single place");
    }

    #[test]
    fn long_ranges_wait_for_others_and_stale_requests_are_refused() {
        let mut queue = queue(4, [request(1)]);
        assert!(queue.begin(NOW.plus(COLLECT_MS - 1)).is_none() && queue.is_collecting());
        let due = queue.begin(NOW.plus(COLLECT_MS)).unwrap();
        assert_eq!((due.requests.len(), due.stale.len(), queue.running()), (1, 0, 1));
        queue.ended(Purpose::Repair, due.requests);
        let due = queue.begin(NOW.plus(STALE)).unwrap();
        assert_eq!((due.requests.len(), due.stale.len(), queue.running()), (0, 1, 0));
    }
}
