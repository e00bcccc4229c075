//! Tests of interest: against a naive oracle, and its bounds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::event::{Event, Kind, Priority, Tier, blank_event};
use crate::ids::{Confidence, NodeId, Nonce, Pattern, Room, Symbol};
use crate::interest::table::SharedInterest;
use crate::interest::{SnapshotPart, Topic, Want};
use crate::placement::{Homes, Member, Role};
use crate::wire;

/// Bounds in which hardly anything fits.
const TINY: Bounds = Bounds { names: 20, wants: 120, topics: 60, strays: 12 };

/// Bounds in which everything that the tests generate fits.
const AMPLE: Bounds = Bounds { names: 1 << 20, wants: 1 << 20, topics: 1 << 20, strays: 1 << 20 };

const KINDS: [Kind; 3] = [Kind::Pattern, Kind::Market, Kind::Health];

fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}

pub(super) fn log(bounds: Bounds) -> InterestLog {
    InterestLog::new(node("gw"), View::default(), 0, bounds)
}

pub(super) fn symbol(number: usize) -> Symbol {
    Symbol::new(&format!("S{number:03}")).unwrap()
}

fn pattern(number: usize) -> Pattern {
    Pattern::new(&format!("Pat{number}")).unwrap()
}

fn room(number: usize) -> Room {
    Room::new(&format!("room-{number}")).unwrap()
}

/// A filter as large as a 17 KB frame, with this many kinds, symbols and patterns that no other filter has.
pub(super) fn greedy(number: usize, kinds: usize, symbols: usize, patterns: usize) -> Arc<Filter> {
    let kinds = [Kind::Pattern, Kind::Market, Kind::Health, Kind::Alert, Kind::Backtest].into_iter().take(kinds);
    let symbols = (0..symbols).map(|symbol| Symbol::new(&format!("Z{number}-{symbol}")).unwrap());
    let patterns = (0..patterns).map(|pattern| Pattern::new(&format!("{number}-{pattern:p<58}")).unwrap());
    Arc::new(Filter {
        kinds: kinds.collect(),
        symbols: Some(symbols.collect()),
        patterns: Some(patterns.collect()),
        ..Filter::default()
    })
}

fn of_symbol(name: &str) -> Arc<Filter> {
    Arc::new(Filter { symbols: Some([Symbol::new(name).unwrap()].into()), ..Filter::default() })
}

/// Advances the time until all removals are done, and returns the deltas.
pub(super) fn finish_removals(log: &mut InterestLog, now: &mut Millis) -> Vec<Delta> {
    let mut deltas: Vec<Delta> = log.cut(*now).into_iter().collect();
    while let Some(next) = log.next_shrink() {
        *now = next.max(*now);
        deltas.extend(log.cut(*now));
    }
    deltas
}

fn admits(interest: &Interest, event: &Event) -> bool {
    interest.admits(event, &node("gw"), &mut Homes::default())
}

fn some<T: Ord + std::fmt::Debug>(most: usize, make: fn(usize) -> T) -> impl Strategy<Value = Option<BTreeSet<T>>> {
    prop::option::of(
        prop::collection::btree_set(0..most, 1..4).prop_map(move |set| set.into_iter().map(make).collect()),
    )
}

fn filter() -> impl Strategy<Value = Arc<Filter>> {
    let kinds = prop::collection::btree_set(0..KINDS.len(), 1..3);
    let least = prop::option::of((0..5u8).prop_map(|tenths| Confidence::new(f64::from(tenths) / 5.0).unwrap()));
    let tiers = prop::option::of(Just(BTreeSet::from([Tier::Daily])));
    (kinds, some(6, symbol), some(6, pattern), some(4, room), tiers, least).prop_map(
        |(kinds, symbols, patterns, rooms, tiers, min_confidence)| {
            let kinds = kinds.into_iter().map(|number| KINDS[number].clone()).collect();
            Arc::new(Filter { kinds, symbols, patterns, rooms, tiers, min_confidence, ..Filter::default() })
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let least = prop::option::of((0..5u8).prop_map(|tenths| Confidence::new(f64::from(tenths) / 5.0).unwrap()));
    let names = (prop::option::of(0..7usize), prop::option::of(0..7usize), prop::option::of(0..5usize));
    (0..KINDS.len(), names, any::<bool>(), least).prop_map(|(kind, (of, found, sent_to), daily, confidence)| Event {
        kind: KINDS[kind].clone(),
        symbol: of.map(symbol),
        pattern: found.map(pattern),
        rooms: sent_to.map(room).into_iter().collect(),
        tier: daily.then_some(Tier::Daily),
        confidence,
        priority: Priority::Low,
        ..blank_event()
    })
}

#[derive(Clone, Debug)]
enum Action {
    Add(Arc<Filter>),
    /// Removes one of the present filters.
    Remove(usize),
    Cut,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        3 => filter().prop_map(Action::Add),
        2 => any::<usize>().prop_map(Action::Remove),
        2 => Just(Action::Cut),
    ];
    prop::collection::vec(action, 1..60)
}

proptest! {
    /// For any additions and removals: a revision that includes a filter admits what the filter passes, a router that
    /// follows the deltas has the same interest, all stays within bounds, and at the end only the present filters
    /// count.
    #[test]
    fn interest_admits_all_wanted_events_within_bounds_and_narrows_again(
        actions in actions(),
        events in prop::collection::vec(event(), 20),
        is_tiny: bool,
    ) {
        let bounds = if is_tiny { TINY } else { AMPLE };
        let (mut log, mut followed, mut now) = (log(bounds), Interest::default(), Millis(0));
        // While another holder has the base, deltas are collected.
        let mut held = SharedInterest::default();
        let _holder = held.clone();
        let mut present: Vec<(Arc<Filter>, Revision)> = Vec::new();
        for action in actions.into_iter().chain([Action::Cut]) {
            now = now.plus(1);
            match action {
                Action::Add(filter) => {
                    let included = log.add(&filter);
                    present.push((filter, included));
                }
                Action::Remove(_) if present.is_empty() => {}
                Action::Remove(pick) => {
                    let (filter, _) = present.swap_remove(pick % present.len());
                    log.remove(now, filter);
                }
                Action::Cut => {
                    if let Some(delta) = log.cut(now) {
                        prop_assert!(wire::encode(&delta).unwrap().len() <= delta.encoded());
                        followed.apply(&delta);
                        held.step(Arc::new(delta));
                    }
                    prop_assert_eq!(&followed, log.sent());
                    let latest = held.clone().held();
                    for event in &events {
                        let is_admitted = latest.admits(event, &node("gw"), &mut Homes::default());
                        prop_assert_eq!(is_admitted, admits(&followed, event), "{:?}", event);
                    }
                    for (filter, included) in &present {
                        prop_assert!(*included <= log.revision());
                        for event in events.iter().filter(|event| filter.matches(event)) {
                            prop_assert!(admits(&followed, event), "{:?} is wanted by {:?}", event, filter);
                        }
                    }
                    let of_symbols = followed.wants.keys().filter(|topic| topic.symbol.is_some());
                    prop_assert!(of_symbols.map(Topic::encoded).sum::<usize>() <= bounds.topics);
                    prop_assert!(log.topics.wants_bytes() <= bounds.wants + Want::default().encoded());
                }
            }
        }
        finish_removals(&mut log, &mut now);
        let mut fresh = InterestLog::new(node("gw"), View::default(), 0, bounds);
        for (filter, _) in &present {
            fresh.add(filter);
        }
        fresh.cut(now);
        if !is_tiny {
            prop_assert_eq!(&fresh.sent().wants, &log.sent().wants);
        }
        for (filter, _) in present.drain(..) {
            log.remove(now, filter);
        }
        finish_removals(&mut log, &mut now);
        prop_assert!(log.sent().wants.is_empty() && log.filters.is_empty() && log.topics.is_empty());
    }

    /// The parts of a snapshot are within the size limit, and give the same interest when assembled.
    #[test]
    fn snapshot_parts_fit_the_limit_and_reassemble(
        filters in prop::collection::vec(filter(), 0..20),
        users in prop::collection::btree_set(0..50u8, 0..20),
        most in 320..2_000usize,
    ) {
        let mut log = log(AMPLE);
        for filter in &filters {
            log.add(filter);
        }
        for user in &users {
            log.add_user(&UserId::new(&format!("user-{user}")).unwrap());
        }
        log.cut(Millis(0));
        let parts = log.sent().parts(&node("gw"), log.revision(), most);
        for part in &parts {
            let bytes = wire::encode(part).unwrap();
            prop_assert!(bytes.len() <= most, "{} of {most}", bytes.len());
            prop_assert_eq!(wire::decode::<SnapshotPart>(&bytes).unwrap(), part.clone());
        }
        let taken: usize = parts.iter().map(|part| wire::encode(part).unwrap().len()).sum();
        prop_assert!(parts.len() > 1 || taken <= log.sent().encoded() + 192);
        let whole = Interest::assemble(parts).unwrap();
        prop_assert_eq!(whole, (log.revision(), log.sent().clone()));
    }
}

#[test]
fn want_shared_by_many_topics_is_sent_and_held_once() {
    let mut log = log(Bounds::default());
    let filter = greedy(0, 5, 500, 200);
    log.add(&filter);
    assert!(log.topics.steps() <= 2_500, "each topic is visited once: {}", log.topics.steps());
    let delta = log.cut(Millis(0)).unwrap();
    let [shared] = &delta.shared[..] else { panic!("one want, {} shared", delta.shared.len()) };
    assert_eq!((shared.topics.len(), delta.set.len()), (2_500, 0));
    let bytes = wire::encode(&delta).unwrap().len();
    assert!(bytes < 75_000, "{bytes} bytes for a filter of {}", filter.bytes());
    let wants: BTreeSet<_> = log.sent().wants.values().map(|want| Arc::as_ptr(want).addr()).collect();
    assert_eq!(wants.len(), 1);
}

#[test]
fn greedy_sessions_do_not_exceed_bounds_or_hide_other_filters() {
    let (mut log, mut now) = (log(Bounds::default()), Millis(0));
    let aapl = Event { symbol: Some(Symbol::new("AAPL").unwrap()), ..blank_event() };
    log.add(&of_symbol("AAPL"));
    let greedy: Vec<_> = (0..50).map(|number| greedy(number, 5, 500, 200)).collect();
    for filter in &greedy {
        log.add(filter);
        log.cut(now);
        assert!(admits(log.sent(), &aapl));
    }
    let taken = log.sent().encoded();
    assert!(taken < 800 * 1024, "{taken} bytes");
    let parts = log.sent().parts(&node("gw"), log.revision(), 128 * 1024);
    assert!(parts.iter().all(|part| wire::encode(part).unwrap().len() <= 128 * 1024) && parts.len() < 10);
    greedy.into_iter().for_each(|filter| log.remove(now, filter));
    finish_removals(&mut log, &mut now);
    assert_eq!(log.sent().wants.len(), 1, "what was widened for them is narrow again");
    assert!(!admits(log.sent(), &blank_event()) && admits(log.sent(), &aapl));
}

#[test]
fn too_many_rooms_widen_to_any_and_narrow_again() {
    let (mut log, mut now) = (log(Bounds::default()), Millis(0));
    let of_rooms = |from: usize| {
        let rooms = (from..from + 900).map(|number| Room::new(&format!("{number:a>100}")).unwrap());
        Arc::new(Filter { rooms: Some(rooms.collect()), ..Filter::default() })
    };
    let mine = Arc::new(Filter { rooms: Some([room(1)].into()), ..Filter::default() });
    log.add(&mine);
    log.cut(now);
    let elsewhere = Event { rooms: vec![room(2)], ..blank_event() };
    assert!(!admits(log.sent(), &elsewhere));
    for number in 0..20 {
        log.add(&of_rooms(number * 900));
    }
    let delta = log.cut(now).unwrap();
    assert!(wire::encode(&delta).unwrap().len() < 1_000 && admits(log.sent(), &elsewhere));
    for number in 0..20 {
        log.remove(now, of_rooms(number * 900));
    }
    finish_removals(&mut log, &mut now);
    assert!(!admits(log.sent(), &elsewhere) && admits(log.sent(), &Event { rooms: vec![room(1)], ..blank_event() }));
}

#[test]
fn filters_beyond_the_topic_bound_are_filed_by_kind_until_there_is_room() {
    let bounds = Bounds { topics: 100, ..AMPLE };
    let (mut log, mut now) = (log(bounds), Millis(0));
    let large = greedy(0, 1, 5, 1);
    let small = of_symbol("AAPL");
    assert_eq!(log.add(&large), Revision(1));
    assert_eq!(log.add(&small), Revision(1));
    log.cut(now);
    assert!(admits(log.sent(), &blank_event()), "no room for AAPL");
    log.remove(now, large);
    finish_removals(&mut log, &mut now);
    assert!(!admits(log.sent(), &blank_event()));
    let aapl = Topic { kind: Kind::Pattern, symbol: Some(Symbol::new("AAPL").unwrap()) };
    assert_eq!(log.sent().wants.keys().collect::<Vec<_>>(), [&aapl]);
}

#[test]
fn strays_beyond_the_bound_are_not_listed_until_they_are_few_again() {
    let alone = View {
        version: 1,
        members: vec![Member { node: node("other"), role: Role::Gateway, weight: 1, draining: false }],
        ..View::default()
    };
    let mut log = InterestLog::new(node("gw"), alone.clone(), 0, Bounds { strays: 20, ..AMPLE });
    let user = |number: u8| UserId::new(&format!("u{number}")).unwrap();
    let mut followed = Interest::default();
    let mut cut = |log: &mut InterestLog| {
        let delta = log.cut(Millis(0)).unwrap();
        followed.apply(&delta);
        assert_eq!(&followed, log.sent());
        (delta.view, followed.strays.len())
    };
    for number in 0..5 {
        log.add_user(&user(number));
    }
    assert_eq!(cut(&mut log), (alone.id(), 5));
    log.add_user(&user(5));
    assert_eq!(cut(&mut log), (ViewId::ANY, 0));
    log.remove_user(Millis(0), user(0));
    log.remove_user(Millis(0), user(1));
    log.remove_user(Millis(0), user(2));
    assert_eq!(cut(&mut log), (alone.id(), 3));
    assert_eq!(log.sent().strays, BTreeSet::from([user(3), user(4), user(5)]));
}

#[test]
fn nearly_all_admitted_events_are_wanted_for_ordinary_filters() {
    let mut random = (0..).scan(7u64, |state, _: u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 33) as usize)
    });
    let mut next = |below: usize| random.next().unwrap_or_default() % below;
    let mut log = log(Bounds::default());
    let mut filters = BTreeMap::new();
    for number in 0..2_000 {
        let symbols = (0..5).map(|_| symbol(next(500))).collect();
        let patterns = Some([pattern(next(12))].into());
        let min_confidence = Confidence::new((50 + next(50)) as f64 / 100.0);
        let filter = Arc::new(Filter { symbols: Some(symbols), patterns, min_confidence, ..Filter::default() });
        log.add(&filter);
        filters.insert(number, filter);
    }
    log.cut(Millis(0));
    // Each field of a union is computed separately, so the union admits some events that no filter passes. The events
    // here have the confidence that most filters want.
    let (mut admitted, mut wanted) = (0, 0);
    for _ in 0..1_000 {
        let confidence = Confidence::new((95 + next(5)) as f64 / 100.0);
        let event =
            Event { symbol: Some(symbol(next(500))), pattern: Some(pattern(next(12))), confidence, ..blank_event() };
        if admits(log.sent(), &event) {
            admitted += 1;
            wanted += usize::from(filters.values().any(|filter| filter.matches(&event)));
        }
    }
    assert!(admitted > 500 && wanted * 100 >= admitted * 95, "{wanted} of {admitted}");
}
