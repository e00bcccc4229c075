//! The rules of cohorts by example. `deadlines` tests their deadlines, and `simulator/crowd.rs` with whole gateways
//! that what they cost depends on what sessions lack.

use tickwire_core::filter::Filter;
use tickwire_core::ids::{Epoch, NodeId, NodeRef, Nonce, Partition, Revision, Symbol, UserId};
use tickwire_core::placement::View;
use tickwire_core::replay::ReplayPart;

use super::*;

#[path = "cohorts_deadlines.rs"]
mod deadlines;

const EPOCH: EpochId = EpochId(7);
const TIMEOUT: u64 = 200;
/// The time of three asks that are not answered.
const GIVE_UP: u64 = 3 * TIMEOUT;
const LIMITS: RepairLimits = RepairLimits {
    grace: 100,
    hold_bytes: 1 << 20,
    replays: 100,
    replay_timeout: TIMEOUT,
    give_up_after: GIVE_UP,
    replay_range: 1_000_000,
};

fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}

fn symbol(number: u8) -> Symbol {
    Symbol::new(&format!("S{number}")).unwrap()
}

fn user(number: u64) -> UserId {
    UserId::new(&format!("u{}", number % 3)).unwrap()
}

fn id(number: u64) -> SessionId {
    SessionId { shard: 0, number }
}

fn of_symbols(symbols: Option<BTreeSet<u8>>) -> Arc<Filter> {
    let symbols = symbols.map(|symbols| symbols.into_iter().map(symbol).collect());
    Arc::new(Filter { symbols, ..Filter::default() })
}

/// `(from, to]` of a single partition, and everything in it.
fn ranges(from: u64, to: u64) -> BackfillRanges {
    let (from, to) = (vec![Seq(from)], vec![Seq(to)]);
    BackfillRanges { epoch_id: EPOCH, from, to, user: user(0), filters: vec![of_symbols(None)] }
}

fn add(cohorts: &mut Cohorts, now: u64, session: u64, ranges: BackfillRanges) {
    cohorts.add(Millis(now), id(session), ranges, View::default().id());
}

/// Begins what is due. Returns the sessions of each cohort.
fn begin(cohorts: &mut Cohorts, now: u64) -> Vec<Vec<u64>> {
    let begun = cohorts.begin(Millis(now), Revision(0)).into_iter();
    begun.map(|(_, sessions)| sessions.into_iter().map(|session| session.number).collect()).collect()
}

/// The asks that are due now: number, from and to.
fn asks(cohorts: &mut Cohorts, now: u64) -> Vec<(u64, u64, u64)> {
    cohorts.asks(Millis(now)).into_iter().map(|(ask, _)| (ask.number, ask.from.0, ask.to.0)).collect()
}

/// Answers an ask as far as `through`, with no event.
fn cover(cohorts: &mut Cohorts, now: u64, ask: u64, (prev, through): (u64, u64)) -> SectionOutcome {
    let (prev, through) = (Seq(prev), Seq(through));
    let section = tickwire_core::coverage::section::Section {
        partition: Partition(0),
        revision: Revision(1),
        prev,
        through,
        events: Vec::new(),
    };
    let part = ReplayPart::Events(section);
    cohorts.answer(Millis(now), ask, ReplayAnswer { router: node("r"), epoch_id: EPOCH, part, last: true })
}

/// Answers with chunks that no shard processes, until nothing more is asked for. Returns how far the answers reached.
fn fill(cohorts: &mut Cohorts, now: u64, from: u64) -> u64 {
    let mut through = from;
    while let Some((ask, ..)) = asks(cohorts, now).pop() {
        assert_eq!(cover(cohorts, now, ask, (through, through + 1)), SectionOutcome::Applied);
        through += 1;
        assert_eq!(cohorts.take(1).len(), 1);
    }
    through
}

#[test]
fn sessions_that_ask_within_fifty_milliseconds_share_a_cohort() {
    let mut cohorts = Cohorts::new(LIMITS);
    add(&mut cohorts, 0, 1, ranges(100, 120));
    add(&mut cohorts, 49, 2, ranges(105, 125));
    assert_eq!(cohorts.next_turn(), Some(Millis(50)));
    assert!(begin(&mut cohorts, 49).is_empty() && asks(&mut cohorts, 49).is_empty());
    assert_eq!(begin(&mut cohorts, 50), [[1, 2]]);
    let [(ask, 100, 125)] = asks(&mut cohorts, 50)[..] else { panic!("one ask for what either lacks") };
    // A session that arrives now waits for the next cohort of its key, which waits for this one.
    add(&mut cohorts, 60, 3, ranges(110, 130));
    assert!(begin(&mut cohorts, 200).is_empty());
    assert_eq!(cohorts.next_turn(), Some(Millis(50 + TIMEOUT)), "there is nothing to do before that");
    cover(&mut cohorts, 200, ask, (100, 125));
    let progress = cohorts.take(1);
    assert!(
        matches!(&progress[..], [CohortProgress { coverage_events, ends: true, .. }] if coverage_events.events.len() == 1),
        "{progress:?}"
    );
    assert_eq!(begin(&mut cohorts, 200), [[3]]);
}

#[test]
fn size_classes_are_powers_of_four_from_4096_on() {
    let mut cohorts = Cohorts::new(LIMITS);
    let last = (1 << 20) - 1;
    for (session, missing) in (0..).zip([0, 1, 4_095, 4_096, 16_383, 16_384, 65_535, 65_536]) {
        add(&mut cohorts, 0, session, ranges(last - missing, last));
    }
    assert_eq!(begin(&mut cohorts, 50), [vec![0, 1, 2], vec![3, 4], vec![5, 6], vec![7]]);
    // With several partitions the one that lacks most counts.
    let mut two = Cohorts::new(LIMITS);
    for (session, missing) in [(1, [1, 4_096]), (2, [16_383, 0]), (3, [4_095, 4_095])] {
        let from = missing.map(|missing| Seq(last - missing)).into();
        add(&mut two, 0, session, BackfillRanges { from, to: vec![Seq(last); 2], ..ranges(0, 0) });
    }
    assert_eq!(begin(&mut two, 50), [vec![3], vec![1, 2]]);
}

#[test]
fn equal_sizes_in_distant_places_are_not_asked_for_together() {
    let mut cohorts = Cohorts::new(LIMITS);
    add(&mut cohorts, 0, 1, ranges(900, 1_000));
    add(&mut cohorts, 0, 2, ranges(1_999_900, 2_000_000));
    assert_eq!(begin(&mut cohorts, 50), [vec![1], vec![2]]);
    let ranges: Vec<_> = asks(&mut cohorts, 50).into_iter().map(|(_, from, to)| (from, to)).collect();
    assert_eq!(ranges, [(900, 1_000), (1_999_900, 2_000_000)]);
}

#[test]
fn cohort_does_not_wait_for_one_of_another_key() {
    let mut cohorts = Cohorts::new(LIMITS);
    add(&mut cohorts, 0, 1, ranges(0, 100_000));
    assert_eq!(begin(&mut cohorts, 50), [[1]]);
    assert_eq!(asks(&mut cohorts, 50).len(), 1);
    add(&mut cohorts, 60, 2, ranges(99_990, 100_000));
    assert_eq!(cohorts.next_turn(), Some(Millis(110)));
    assert_eq!(begin(&mut cohorts, 110), [[2]]);
    let [(ask, 99_990, 100_000)] = asks(&mut cohorts, 110)[..] else { panic!("asked for alone") };
    cover(&mut cohorts, 120, ask, (99_990, 100_000));
    let progress = cohorts.take(1);
    assert_eq!(progress.iter().map(|one| (one.cohort, one.ends)).collect::<Vec<_>>(), [(2, true)]);
    assert_eq!(cohorts.running.len(), 1, "the other one continues");
}

#[test]
fn backpressured_cohort_asks_for_nothing_and_lets_others_of_its_key_begin() {
    let mut cohorts = Cohorts::new(LIMITS);
    add(&mut cohorts, 0, 1, ranges(0, 100));
    begin(&mut cohorts, 50);
    add(&mut cohorts, 50, 2, ranges(0, 100));
    assert!(begin(&mut cohorts, 100).is_empty(), "one of a key at a time");
    assert_eq!(fill(&mut cohorts, 100, 0), UNPROCESSED as u64);
    assert_eq!(cohorts.next_turn(), Some(Millis(100)), "the other one may begin");
    assert_eq!(begin(&mut cohorts, 100), [[2]]);
    let [(ask, 0, 100)] = asks(&mut cohorts, 100)[..] else { panic!("only the other one asks") };
    assert_eq!(ask >> ASK_BITS, 2);
    cohorts.processed(1, usize::MAX);
    let [(ask, from, 100)] = asks(&mut cohorts, 101)[..] else { panic!("it continues") };
    assert_eq!((ask >> ASK_BITS, from), (1, UNPROCESSED as u64));
}

#[test]
fn chunk_counts_until_every_shard_has_processed_it() {
    let mut cohorts = Cohorts::new(LIMITS);
    add(&mut cohorts, 0, 1, ranges(0, 100));
    begin(&mut cohorts, 50);
    let (ask, ..) = asks(&mut cohorts, 50)[0];
    cover(&mut cohorts, 50, ask, (0, 1));
    assert_eq!(cohorts.take(UNPROCESSED).len(), 1);
    assert!(asks(&mut cohorts, 50).is_empty());
    assert!(cohorts.take(UNPROCESSED).is_empty(), "nothing was received, so there is nothing to process");
    cohorts.processed(1, usize::MAX);
    assert_eq!(asks(&mut cohorts, 50).len(), 1);
}

#[test]
fn number_of_running_cohorts_is_bounded() {
    let mut cohorts = Cohorts::new(LIMITS);
    for session in 1..RUNNING as u64 {
        add(&mut cohorts, 0, session, ranges(0, 100));
        assert_eq!(begin(&mut cohorts, 50), [[session]]);
        fill(&mut cohorts, 50, 0);
    }
    for (session, missing) in [(101, 1), (102, 5_000), (103, 20_000), (104, 100_000)] {
        add(&mut cohorts, 50, session, ranges(0, missing));
    }
    assert_eq!(begin(&mut cohorts, 100), [[101]], "there is room for one more");
    assert_eq!((cohorts.running.len(), cohorts.waiting.len()), (RUNNING, 3));
}

#[test]
fn cohort_without_sessions_asks_for_nothing() {
    let mut cohorts = Cohorts::new(LIMITS);
    for session in [1, 2] {
        add(&mut cohorts, 0, session, ranges(0, 100));
    }
    begin(&mut cohorts, 50);
    let (ask, ..) = asks(&mut cohorts, 50)[0];
    cover(&mut cohorts, 60, ask, (0, 50));
    cohorts.leave(id(1));
    let [(ask, 50, 100)] = asks(&mut cohorts, 60)[..] else { panic!("the other one still waits") };
    cohorts.leave(id(2));
    assert!(asks(&mut cohorts, 60 + TIMEOUT).is_empty() && cohorts.next_turn().is_none());
    assert_eq!(cover(&mut cohorts, 70, ask, (50, 100)), SectionOutcome::Unasked);
    assert!(cohorts.take(1).is_empty());
    // A cohort whose sessions all left does not begin.
    for session in [3, 4] {
        add(&mut cohorts, 300, session, ranges(0, 100));
    }
    cohorts.leave(id(3));
    assert_eq!(cohorts.next_turn(), Some(Millis(350)));
    cohorts.leave(id(4));
    assert!(cohorts.next_turn().is_none() && begin(&mut cohorts, 350).is_empty());
}

#[test]
fn new_epoch_ends_all_cohorts() {
    let mut cohorts = Cohorts::new(LIMITS);
    add(&mut cohorts, 0, 1, ranges(0, 100));
    begin(&mut cohorts, 50);
    let (ask, ..) = asks(&mut cohorts, 50)[0];
    add(&mut cohorts, 50, 2, ranges(0, 1));
    cohorts.clear();
    assert_eq!(cover(&mut cohorts, 60, ask, (0, 100)), SectionOutcome::Unasked);
    assert!(cohorts.take(1).is_empty() && begin(&mut cohorts, 500).is_empty() && cohorts.next_turn().is_none());
}

#[test]
fn ask_numbers_distinguish_cohorts_from_live_coverage() {
    let mut cohorts = Cohorts::new(LIMITS);
    for (session, missing) in (1..).zip([1, 5_000, 20_000, 100_000]) {
        add(&mut cohorts, 0, session, ranges(0, missing));
    }
    assert_eq!(begin(&mut cohorts, 50).len(), 4);
    let asked = asks(&mut cohorts, 50);
    assert!(asked.iter().all(|(ask, ..)| Cohorts::is_cohort_ask(*ask)));
    assert_eq!(asked.iter().map(|(ask, ..)| ask >> ASK_BITS).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let (mut live, mut coverage_events) =
        (Coverage::<Arc<Delivery>>::new(1, RepairLimits { grace: 0, ..LIMITS }), Vec::new());
    for (prev, through) in [(0, 1), (5, 6)] {
        let (partition, events) = (Partition(0), Vec::new());
        let (prev, through) = (Seq(prev), Seq(through));
        let section =
            tickwire_core::coverage::section::Section { partition, revision: Revision(1), prev, through, events };
        live.offer(Millis(0), Epoch { epoch_id: EPOCH, before: Seq(0) }, section, &mut coverage_events);
    }
    let asked = live.asks(Millis(0), Revision(1), &mut coverage_events);
    assert!(!asked.is_empty() && asked.iter().all(|ask| !Cohorts::is_cohort_ask(ask.number)));
    assert!(!Cohorts::is_cohort_ask((1 << ASK_BITS) - 1) && Cohorts::is_cohort_ask(1 << ASK_BITS));
}

#[test]
fn cohorts_ask_for_nothing_while_live_repairs_find_routers_busy() {
    let mut cohorts = Cohorts::new(LIMITS);
    add(&mut cohorts, 0, 1, ranges(0, 100));
    cohorts.pause(true);
    begin(&mut cohorts, 50);
    assert_eq!((asks(&mut cohorts, 50), cohorts.next_turn()), (vec![], None), "and nothing is due meanwhile");
    cohorts.pause(false);
    assert_eq!(asks(&mut cohorts, 60).len(), 1);
}

#[test]
fn unsent_ask_is_repeated() {
    let mut cohorts = Cohorts::new(LIMITS);
    add(&mut cohorts, 0, 1, ranges(0, 100));
    begin(&mut cohorts, 50);
    let mut now = 50;
    // For longer than asks may stay unanswered.
    while now < 50 + 2 * GIVE_UP {
        let [(ask, 0, 100)] = asks(&mut cohorts, now)[..] else { panic!("asked for again") };
        cohorts.unsent(Millis(now), ask);
        assert!(cohorts.take(1).is_empty());
        now = cohorts.next_turn().unwrap().0;
    }
    let (ask, ..) = asks(&mut cohorts, now)[0];
    cohorts.refused(Millis(now), ask);
    assert!(cohorts.take(1).is_empty(), "one refusal is no gap");
}

#[test]
fn session_that_leaves_is_removed_from_all_its_cohorts() {
    let mut cohorts = Cohorts::new(LIMITS);
    for number in 0..100 {
        add(&mut cohorts, 0, number, ranges(0, 4_u64.pow((number % 9) as u32)));
    }
    let begun: usize = begin(&mut cohorts, 50).iter().map(Vec::len).sum();
    assert_eq!(begun, 100);
    for number in 50..150 {
        add(&mut cohorts, 60, number, ranges(0, 50));
    }
    let places: usize = cohorts.places.values().map(Vec::len).sum();
    assert_eq!(places, 200, "a session that asks again waits twice");
    (0..150).for_each(|number| cohorts.leave(id(number)));
    assert!(cohorts.places.is_empty() && cohorts.waiting.is_empty() && cohorts.running.is_empty());
}

#[test]
fn interest_of_a_cohort_stops_growing_when_it_is_too_large_for_a_request() {
    let mut cohorts = Cohorts::new(LIMITS);
    for number in 0..50 {
        let filters = vec![of_symbols(Some((0..20).map(|symbol| symbol + 20 * (number % 10) as u8).collect()))];
        add(&mut cohorts, 0, number, BackfillRanges { filters, ..ranges(0, 100) });
    }
    begin(&mut cohorts, 50);
    let asked = cohorts.asks(Millis(50));
    let [(ask, sought)] = &asked[..] else { panic!("one cohort") };
    assert!(sought.wants.len() > 64 && sought.wants.len() <= 84, "{}", sought.wants.len());
    let request =
        crate::edge::replay::request(&node("g"), ask, Revision(3), sought, tickwire_core::replay::Purpose::Backfill)
            .unwrap();
    let request: tickwire_core::replay::ReplayRequest = tickwire_core::wire::decode(&request).unwrap();
    assert_eq!(request.interest, tickwire_core::replay::ReplayInterest::ByRevision(Revision(3)));
}
