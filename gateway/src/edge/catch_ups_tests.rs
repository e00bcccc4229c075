//! Gatherings: their rules by example. `crowd` tries them together, `deadlines` looks at what they wait for.

use tickwire_core::filter::Filter;
use tickwire_core::ids::{Life, NodeId, NodeRef, Nonce, Partition, Revision, Symbol, UserId};
use tickwire_core::replay::Part;
use tickwire_core::ring::View;

use super::*;

#[path = "catch_ups_crowd.rs"]
mod crowd;

#[path = "catch_ups_deadlines.rs"]
mod deadlines;

const LIFE: Incarnation = Incarnation(7);
const TIMEOUT: u64 = 200;
/// Three asks that are not answered.
const GIVE_UP: u64 = 3 * TIMEOUT;
const LIMITS: Limits = Limits {
    grace: 100,
    hold_bytes: 1 << 20,
    replays: 100,
    replay_timeout: TIMEOUT,
    give_up_after: GIVE_UP,
    replay_range: 1_000_000,
};

/// How many messages a router reads for one part of its answer.
const PART: usize = 3;

/// How many events the model of a shard digests at a time.
const BITE: usize = 2;

/// How long those who read wait for those who do not, as shards have it.
const PATIENCE: u64 = 500;

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
fn lack(from: u64, to: u64) -> Lack {
    let (from, to) = (vec![Seq(from)], vec![Seq(to)]);
    Lack { incarnation: LIFE, from, to, user: user(0), filters: vec![of_symbols(None)] }
}

fn add(catch_ups: &mut CatchUps, now: u64, session: u64, lack: Lack) {
    catch_ups.add(Millis(now), id(session), lack, View::default().id());
}

/// What begins now: the sessions of each gathering.
fn begin(catch_ups: &mut CatchUps, now: u64) -> Vec<Vec<u64>> {
    let begun = catch_ups.begin(Millis(now), Revision(0)).into_iter();
    begun.map(|(_, sessions)| sessions.into_iter().map(|session| session.number).collect()).collect()
}

/// What is asked for now: number, from and to.
fn asks(catch_ups: &mut CatchUps, now: u64) -> Vec<(u64, u64, u64)> {
    catch_ups.asks(Millis(now)).into_iter().map(|(ask, _)| (ask.number, ask.from.0, ask.to.0)).collect()
}

/// Answers an ask as far as `upto`, with no event.
fn cover(catch_ups: &mut CatchUps, now: u64, ask: u64, (prev, upto): (u64, u64)) -> Offered {
    let (prev, upto) = (Seq(prev), Seq(upto));
    let section = tickwire_core::section::Section {
        partition: Partition(0),
        revision: Revision(1),
        prev,
        upto,
        events: Vec::new(),
    };
    let part = Part::Events(section);
    catch_ups.answer(Millis(now), ask, ReplayAnswer { router: node("r"), incarnation: LIFE, part, last: true })
}

/// Has pieces come that no shard digests, until nothing more is asked for. Returns how far the answers came.
fn clog(catch_ups: &mut CatchUps, now: u64, from: u64) -> u64 {
    let mut upto = from;
    while let Some((ask, ..)) = asks(catch_ups, now).pop() {
        assert_eq!(cover(catch_ups, now, ask, (upto, upto + 1)), Offered::Applied);
        upto += 1;
        assert_eq!(catch_ups.take(1).len(), 1);
    }
    upto
}

#[test]
fn those_who_come_within_fifty_milliseconds_begin_together() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(100, 120));
    add(&mut catch_ups, 49, 2, lack(105, 125));
    assert_eq!(catch_ups.next_turn(), Some(Millis(50)));
    assert!(begin(&mut catch_ups, 49).is_empty() && asks(&mut catch_ups, 49).is_empty());
    assert_eq!(begin(&mut catch_ups, 50), [[1, 2]]);
    let [(ask, 100, 125)] = asks(&mut catch_ups, 50)[..] else { panic!("one ask for what either lacks") };
    // Who comes now waits for the next one of its class, which waits for this one.
    add(&mut catch_ups, 60, 3, lack(110, 130));
    assert!(begin(&mut catch_ups, 200).is_empty());
    assert_eq!(catch_ups.next_turn(), Some(Millis(50 + TIMEOUT)), "there is nothing to do before that");
    cover(&mut catch_ups, 200, ask, (100, 125));
    let came = catch_ups.take(1);
    assert!(matches!(&came[..], [Came { steps, ends: true, .. }] if steps.steps.len() == 1), "{came:?}");
    assert_eq!(begin(&mut catch_ups, 200), [[3]]);
}

#[test]
fn classes_are_powers_of_four_from_4096_on() {
    let mut catch_ups = CatchUps::new(LIMITS);
    let last = (1 << 20) - 1;
    for (session, missing) in (0..).zip([0, 1, 4_095, 4_096, 16_383, 16_384, 65_535, 65_536]) {
        add(&mut catch_ups, 0, session, lack(last - missing, last));
    }
    assert_eq!(begin(&mut catch_ups, 50), [vec![0, 1, 2], vec![3, 4], vec![5, 6], vec![7]]);
    // Of several partitions the one that lacks most counts.
    let mut two = CatchUps::new(LIMITS);
    for (session, missing) in [(1, [1, 4_096]), (2, [16_383, 0]), (3, [4_095, 4_095])] {
        let from = missing.map(|missing| Seq(last - missing)).into();
        add(&mut two, 0, session, Lack { from, to: vec![Seq(last); 2], ..lack(0, 0) });
    }
    assert_eq!(begin(&mut two, 50), [vec![3], vec![1, 2]]);
}

#[test]
fn who_lacks_as_much_of_another_time_is_not_asked_for_together() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(900, 1_000));
    add(&mut catch_ups, 0, 2, lack(1_999_900, 2_000_000));
    assert_eq!(begin(&mut catch_ups, 50), [vec![1], vec![2]]);
    let ranges: Vec<_> = asks(&mut catch_ups, 50).into_iter().map(|(_, from, to)| (from, to)).collect();
    assert_eq!(ranges, [(900, 1_000), (1_999_900, 2_000_000)]);
}

#[test]
fn a_gathering_waits_for_none_of_another_class() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100_000));
    assert_eq!(begin(&mut catch_ups, 50), [[1]]);
    assert_eq!(asks(&mut catch_ups, 50).len(), 1);
    add(&mut catch_ups, 60, 2, lack(99_990, 100_000));
    assert_eq!(catch_ups.next_turn(), Some(Millis(110)));
    assert_eq!(begin(&mut catch_ups, 110), [[2]]);
    let [(ask, 99_990, 100_000)] = asks(&mut catch_ups, 110)[..] else { panic!("asked for alone") };
    cover(&mut catch_ups, 120, ask, (99_990, 100_000));
    let came = catch_ups.take(1);
    assert_eq!(came.iter().map(|came| (came.gathering, came.ends)).collect::<Vec<_>>(), [(2, true)]);
    assert_eq!(catch_ups.running.len(), 1, "the other one goes on");
}

#[test]
fn a_clogged_gathering_asks_for_nothing_and_lets_others_of_its_class_begin() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    begin(&mut catch_ups, 50);
    add(&mut catch_ups, 50, 2, lack(0, 100));
    assert!(begin(&mut catch_ups, 100).is_empty(), "one of a class at a time");
    assert_eq!(clog(&mut catch_ups, 100, 0), UNDIGESTED as u64);
    assert_eq!(catch_ups.next_turn(), Some(Millis(100)), "the other one may begin");
    assert_eq!(begin(&mut catch_ups, 100), [[2]]);
    let [(ask, 0, 100)] = asks(&mut catch_ups, 100)[..] else { panic!("the other one alone asks") };
    assert_eq!(ask >> ASK_BITS, 2);
    catch_ups.digested(1, usize::MAX);
    let [(ask, from, 100)] = asks(&mut catch_ups, 101)[..] else { panic!("it goes on") };
    assert_eq!((ask >> ASK_BITS, from), (1, UNDIGESTED as u64));
}

#[test]
fn each_shard_has_to_digest_a_piece() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    begin(&mut catch_ups, 50);
    let (ask, ..) = asks(&mut catch_ups, 50)[0];
    cover(&mut catch_ups, 50, ask, (0, 1));
    assert_eq!(catch_ups.take(UNDIGESTED).len(), 1);
    assert!(asks(&mut catch_ups, 50).is_empty());
    assert!(catch_ups.take(UNDIGESTED).is_empty(), "nothing came: there is nothing to digest");
    catch_ups.digested(1, usize::MAX);
    assert_eq!(asks(&mut catch_ups, 50).len(), 1);
}

#[test]
fn a_bounded_number_of_gatherings_run() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for session in 1..RUNNING as u64 {
        add(&mut catch_ups, 0, session, lack(0, 100));
        assert_eq!(begin(&mut catch_ups, 50), [[session]]);
        clog(&mut catch_ups, 50, 0);
    }
    for (session, missing) in [(101, 1), (102, 5_000), (103, 20_000), (104, 100_000)] {
        add(&mut catch_ups, 50, session, lack(0, missing));
    }
    assert_eq!(begin(&mut catch_ups, 100), [[101]], "there is room for one more");
    assert_eq!((catch_ups.running.len(), catch_ups.waiting.len()), (RUNNING, 3));
}

#[test]
fn nothing_is_asked_for_that_nobody_waits_for() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for session in [1, 2] {
        add(&mut catch_ups, 0, session, lack(0, 100));
    }
    begin(&mut catch_ups, 50);
    let (ask, ..) = asks(&mut catch_ups, 50)[0];
    cover(&mut catch_ups, 60, ask, (0, 50));
    catch_ups.leave(id(1));
    let [(ask, 50, 100)] = asks(&mut catch_ups, 60)[..] else { panic!("the other one waits yet") };
    catch_ups.leave(id(2));
    assert!(asks(&mut catch_ups, 60 + TIMEOUT).is_empty() && catch_ups.next_turn().is_none());
    assert_eq!(cover(&mut catch_ups, 70, ask, (50, 100)), Offered::Foreign);
    assert!(catch_ups.take(1).is_empty());
    // Nor does anything begin for those who left before.
    for session in [3, 4] {
        add(&mut catch_ups, 300, session, lack(0, 100));
    }
    catch_ups.leave(id(3));
    assert_eq!(catch_ups.next_turn(), Some(Millis(350)));
    catch_ups.leave(id(4));
    assert!(catch_ups.next_turn().is_none() && begin(&mut catch_ups, 350).is_empty());
}

#[test]
fn another_life_of_the_stream_ends_all() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    begin(&mut catch_ups, 50);
    let (ask, ..) = asks(&mut catch_ups, 50)[0];
    add(&mut catch_ups, 50, 2, lack(0, 1));
    catch_ups.forget_all();
    assert_eq!(cover(&mut catch_ups, 60, ask, (0, 100)), Offered::Foreign);
    assert!(catch_ups.take(1).is_empty() && begin(&mut catch_ups, 500).is_empty() && catch_ups.next_turn().is_none());
}

#[test]
fn numbers_of_asks_tell_gatherings_from_live_coverage() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for (session, missing) in (1..).zip([1, 5_000, 20_000, 100_000]) {
        add(&mut catch_ups, 0, session, lack(0, missing));
    }
    assert_eq!(begin(&mut catch_ups, 50).len(), 4);
    let asked = asks(&mut catch_ups, 50);
    assert!(asked.iter().all(|(ask, ..)| CatchUps::is_asked(*ask)));
    assert_eq!(asked.iter().map(|(ask, ..)| ask >> ASK_BITS).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let (mut live, mut steps) = (Coverage::<Arc<Delivery>>::new(1, Limits { grace: 0, ..LIMITS }), Vec::new());
    for (prev, upto) in [(0, 1), (5, 6)] {
        let (partition, events) = (Partition(0), Vec::new());
        let (prev, upto) = (Seq(prev), Seq(upto));
        let section = tickwire_core::section::Section { partition, revision: Revision(1), prev, upto, events };
        live.offer(Millis(0), Life { incarnation: LIFE, before: Seq(0) }, section, &mut steps);
    }
    let asked = live.asks(Millis(0), Revision(1), &mut steps);
    assert!(!asked.is_empty() && asked.iter().all(|ask| !CatchUps::is_asked(ask.number)));
    assert!(!CatchUps::is_asked((1 << ASK_BITS) - 1) && CatchUps::is_asked(1 << ASK_BITS));
}

#[test]
fn live_repairs_go_first_where_routers_are_busy() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    catch_ups.give_way(true);
    begin(&mut catch_ups, 50);
    assert_eq!((asks(&mut catch_ups, 50), catch_ups.next_turn()), (vec![], None), "and nothing is due meanwhile");
    catch_ups.give_way(false);
    assert_eq!(asks(&mut catch_ups, 60).len(), 1);
}

#[test]
fn an_ask_that_could_not_be_sent_is_made_again() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    begin(&mut catch_ups, 50);
    let mut now = 50;
    // For longer than asks may bring nothing.
    while now < 50 + 2 * GIVE_UP {
        let [(ask, 0, 100)] = asks(&mut catch_ups, now)[..] else { panic!("asked for again") };
        catch_ups.unsent(Millis(now), ask);
        assert!(catch_ups.take(1).is_empty());
        now = catch_ups.next_turn().unwrap().0;
    }
    let (ask, ..) = asks(&mut catch_ups, now)[0];
    catch_ups.refused(Millis(now), ask);
    assert!(catch_ups.take(1).is_empty(), "one refusal is no gap");
}

#[test]
fn sessions_that_leave_are_let_go_of_wherever_they_wait() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for number in 0..100 {
        add(&mut catch_ups, 0, number, lack(0, 4_u64.pow((number % 9) as u32)));
    }
    let begun: usize = begin(&mut catch_ups, 50).iter().map(Vec::len).sum();
    assert_eq!(begun, 100);
    for number in 50..150 {
        add(&mut catch_ups, 60, number, lack(0, 50));
    }
    let places: usize = catch_ups.places.values().map(Vec::len).sum();
    assert_eq!(places, 200, "who asks again waits twice");
    (0..150).for_each(|number| catch_ups.leave(id(number)));
    assert!(catch_ups.places.is_empty() && catch_ups.waiting.is_empty() && catch_ups.running.is_empty());
}

#[test]
fn what_is_too_large_to_travel_is_not_gathered() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for number in 0..50 {
        let filters = vec![of_symbols(Some((0..20).map(|symbol| symbol + 20 * (number % 10) as u8).collect()))];
        add(&mut catch_ups, 0, number, Lack { filters, ..lack(0, 100) });
    }
    begin(&mut catch_ups, 50);
    let asked = catch_ups.asks(Millis(50));
    let [(ask, sought)] = &asked[..] else { panic!("one gathering") };
    assert!(sought.wants.len() > 64 && sought.wants.len() <= 84, "{}", sought.wants.len());
    let request =
        crate::edge::replay::request(&node("g"), ask, Revision(3), sought, tickwire_core::replay::Purpose::CatchUp)
            .unwrap();
    let request: tickwire_core::replay::ReplayRequest = tickwire_core::wire::decode(&request).unwrap();
    assert_eq!(request.interest, tickwire_core::replay::Sought::Told(Revision(3)));
}
