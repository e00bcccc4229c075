//! Turns, places and neighbours of requests for replays.

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

/// A short request of another gateway.
fn of(gateway: &str, request: ReplayRequest) -> ReplayRequest {
    let gateway = NodeRef { id: NodeId::new(gateway).unwrap(), nonce: Nonce(1) };
    short(ReplayRequest { gateway, ..request })
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
    let refused =
        |queue: &mut Queue<()>, request| push(queue, request).map(|refused: QueuedReplay<()>| refused.request.from.0);
    let mut all = queue(4, (0..WAITING as u64 - 1).map(backfill).chain([request(500)]));
    assert_eq!(refused(&mut all, backfill(600)), Some(600));
    assert_eq!(refused(&mut all, request(700)), Some(WAITING as u64 - 2));
    assert_eq!(begins(&all.waiting)[WAITING - 2..], [500, 700]);
    let mut repairs = queue(4, (0..WAITING as u64).map(request));
    assert_eq!(refused(&mut repairs, request(700)), Some(700));
}

#[test]
fn gateways_take_turns_and_the_one_with_the_most_requests_gives_way() {
    // Too far from each other for one pass.
    let of = |gateway: &str, number| of(gateway, backfill(number * 100_000));
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
        let gateway = NodeRef { id: NodeId::new(gateway).unwrap(), nonce: Nonce(1) };
        short(ReplayRequest { gateway, ..backfill(number * 100_000) })
    };
    let number = |one: &QueuedReplay<()>| one.request.from.0 / 100_000;
    let mut queue = queue(2, []);
    let invented = |queue: &mut Queue<()>, at| queue.push(NOW, Asker::Outsider, of(&format!("x{at}"), at), ());
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
    let mut queue = queue(4, (0..WAITING as u64).map(|number| of("many", request(number * 100_000))));
    let refused = push(&mut queue, of("few", backfill(500))).unwrap();
    assert_eq!(refused.request.from.0, (WAITING as u64 - 1) * 100_000);
    let begun: Vec<_> = std::iter::from_fn(|| queue.begin(NOW)).map(|due| begins(&due.requests)).collect();
    assert_eq!(begun, [vec![0], vec![100_000], vec![200_000], vec![500]]);
    queue.ended(Purpose::Repair, Vec::new());
    assert_eq!(queue.begin(NOW).map(|due| begins(&due.requests)), Some(vec![300_000]), "no other backfill waits");
}

#[test]
fn first_backfill_of_a_gateway_waits_for_no_turns_of_repairs() {
    let mut queue = queue(2, (1..=WAITING as u64).map(|number| of("many", backfill(number * 100_000))));
    for _ in 0..2 * WAITING {
        // In a full queue each repair takes the place of a backfill of the gateway with the most requests.
        push(&mut queue, of("other", request(1)));
        let due = queue.begin(NOW).unwrap();
        assert_eq!(begins(&due.requests), [1]);
        queue.ended(Purpose::Repair, Vec::new());
    }
    assert!(push(&mut queue, of("many", backfill(9_900_000))).is_none());
    let refused = push(&mut queue, of("few", backfill(500))).unwrap();
    assert_eq!(refused.request.from.0, 9_900_000, "the last one of the gateway with the most requests");
    let due = [(); 3].map(|()| {
        let due = queue.begin(NOW).unwrap();
        queue.ended(Purpose::Backfill, Vec::new());
        begins(&due.requests)
    });
    assert_eq!(due, [vec![100_000], vec![500], vec![200_000]]);
}

#[test]
fn repairs_begin_first_and_have_a_reserved_place() {
    let due = |queue: &mut Queue<()>| queue.begin(NOW).map(|due| begins(&due.requests));
    let mut all = queue(4, [backfill(1), backfill(2), request(3)].map(short));
    all.backfills.running = 4;
    assert_eq!(due(&mut all), None);
    all.backfills.running = 3;
    assert_eq!(due(&mut all), Some(vec![3]));
    (all.repairs.running, all.backfills.running) = (0, 3);
    assert_eq!(due(&mut all), None);
    all.backfills.running = 1;
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
