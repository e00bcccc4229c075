//! Tests of the table's limits, of lagging gateways, and of the routing of addressed events.

use super::*;
use crate::event::{Handling, Kind, Strategy, blank_event};
use crate::filter::Filter;
use crate::ids::{NodeId, Nonce, Room, Symbol, UserId};
use crate::interest::log::{Bounds, InterestLog};
use crate::interest::{Topic, Want};
use crate::placement::{Homes, Member, ViewId};

fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}

fn view(names: &[&str]) -> Arc<View> {
    let member = |name: &&str| Member { node: node(name), role: Role::Gateway, weight: 1, draining: false };
    Arc::new(View { version: 1, members: names.iter().map(member).collect(), ..View::default() })
}

fn beat(gateway: &str, revision: u64) -> InterestBeat {
    InterestBeat { gateway: node(gateway), revision: Revision(revision), reached: None }
}

fn want(symbols: std::ops::Range<usize>) -> Interest {
    let topic = |number| Topic { kind: Kind::Pattern, symbol: Some(Symbol::new(&format!("S{number}")).unwrap()) };
    Interest {
        wants: symbols.map(|number| (topic(number), Arc::new(Want::default()))).collect(),
        ..Interest::default()
    }
}

fn snapshot(table: &mut InterestTable, gateway: &str, revision: u64, interest: &Interest) -> InterestUpdate {
    table.snapshot(Millis(0), interest.parts(&node(gateway), Revision(revision), 10_000))
}

fn delta(gateway: &str, revision: u64, symbols: std::ops::Range<usize>) -> Delta {
    let mut delta = Delta {
        gateway: node(gateway),
        revision: Revision(revision),
        view: ViewId(0),
        set: Vec::new(),
        unset: Vec::new(),
        strays: Vec::new(),
        settled: Vec::new(),
        shared: Vec::new(),
    };
    delta.want(&want(symbols).wants.into_iter().collect::<Vec<_>>());
    delta
}

fn found(table: &mut InterestTable, event: &Event) -> Vec<String> {
    let mut found = Vec::new();
    table.matching(event, |gateway| found.push(gateway.id.to_string()));
    found.sort_unstable();
    found
}

#[test]
fn addressed_event_goes_to_home_gateway_strays_and_gateways_of_another_view() {
    let both = view(&["a", "b"]);
    let user = |home: &str| {
        let mut names = (0..).map(|number| UserId::new(&format!("u{number}")).unwrap());
        names.find(|user| both.home(user) == Some(&node(home))).unwrap()
    };
    let addressed = |user: &UserId| Event { audience: Audience::User(user.clone()), ..blank_event() };
    let (at_a, at_b) = (user("a"), user("b"));
    let mut table = InterestTable::default();
    table.set_view(Arc::clone(&both));
    for name in ["a", "b", "c"] {
        let mut log = InterestLog::new(node(name), View::clone(&both), 0, Bounds::default());
        if name == "b" {
            log.add_user(&at_a);
        }
        log.cut(Millis(0));
        snapshot(&mut table, name, 1, log.sent());
    }
    assert_eq!(found(&mut table, &addressed(&at_a)), ["a", "b"], "home gateway, and where the user is a stray");
    assert_eq!(found(&mut table, &addressed(&at_b)), ["b"]);
    // The router gets another view: all gateways differ from it, and each is found once.
    table.set_view(view(&["a"]));
    assert_eq!(found(&mut table, &addressed(&at_a)), ["a", "b", "c"]);
    table.set_view(Arc::clone(&both));
    assert_eq!(found(&mut table, &addressed(&at_b)), ["b"]);
    // A gateway with too many strays to list gets all addressed events.
    let any = Interest { view: ViewId::ANY, ..Interest::default() };
    snapshot(&mut table, "c", 2, &any);
    assert_eq!(found(&mut table, &addressed(&at_b)), ["b", "c"]);
    let settled = Delta { revision: Revision(2), view: both.id(), settled: vec![at_a.clone()], ..delta("b", 2, 0..0) };
    assert_eq!(table.delta(Millis(0), settled).advanced, Some(Revision(2)));
    assert_eq!(found(&mut table, &addressed(&at_a)), ["a", "c"]);
    assert_eq!(table.expire(Millis(100), 10).len(), 3);
    assert_eq!(found(&mut table, &addressed(&at_a)), [""; 0]);
}

#[test]
fn public_broadcast_goes_to_every_gateway_whose_interest_is_known() {
    let both = view(&["a", "b"]);
    let mut table = InterestTable::default();
    table.set_view(Arc::clone(&both));
    snapshot(&mut table, "a", 1, &Interest::default());
    snapshot(&mut table, "b", 1, &want(0..2));
    table.beat(Millis(0), &beat("c", 1));
    let handled = |strategy, rooms: &[&str]| {
        let rooms = rooms.iter().map(|room| Room::new(room).unwrap()).collect();
        Event { handling: Some(Box::new(Handling { strategy, rooms, ttl_ms: None })), ..blank_event() }
    };
    let (all, nobody) = (["a", "b"], [] as [&str; 0]);
    for rooms in [vec![], vec!["desk"]] {
        assert_eq!(found(&mut table, &handled(Strategy::Broadcast, &rooms)), all);
        assert_eq!(found(&mut table, &handled(Strategy::PriorityFirst, &rooms)), nobody);
    }
    // A replay finds the same gateways, one by one.
    let mut homes = Homes::new(both);
    let broadcast = handled(Strategy::Broadcast, &[]);
    assert!(Interest::default().admits(&broadcast, &node("a"), &mut homes));
    assert!(!Interest::default().admits(&handled(Strategy::Content, &[]), &node("a"), &mut homes));
    // An event for one user is not spread further.
    let addressed = |event: Event| Event { audience: Audience::User(UserId::new("ann").unwrap()), ..event };
    let plain = found(&mut table, &addressed(blank_event()));
    assert_eq!(found(&mut table, &addressed(broadcast)), plain);
}

#[test]
fn gateways_outside_the_view_are_limited_apart_from_members() {
    let mut table = InterestTable::new(TableLimits { members: 2, outsiders: 3, ..TableLimits::default() });
    let refused = |table: &mut InterestTable, name: &str| table.beat(Millis(0), &beat(name, 1)).refused;
    for number in 0..3 {
        assert_eq!(refused(&mut table, &format!("s{number}")), None);
    }
    assert_eq!(refused(&mut table, "s3"), Some(InterestRefused::TooManyGateways));
    table.set_view(view(&["a", "b", "s0"]));
    assert_eq!((refused(&mut table, "a"), refused(&mut table, "b")), (None, Some(InterestRefused::TooManyGateways)));
    assert_eq!(refused(&mut table, "s4"), None, "one of the outsiders has become a member");
    assert_eq!(table.lagging().count(), 5);
    assert_eq!(table.expire(Millis(2), 1).len(), 5);
    assert!(table.lagging().next().is_none() && table.outsiders == 0);
}

#[test]
fn interests_are_bounded_in_bytes_and_freed_with_their_gateways() {
    let limits = TableLimits { gateway_bytes: 4_000, in_all: 6_000, ..TableLimits::default() };
    let mut table = InterestTable::new(limits);
    assert_eq!(snapshot(&mut table, "a", 1, &want(0..1_000)).refused, Some(InterestRefused::TooLarge));
    assert_eq!(snapshot(&mut table, "a", 1, &want(0..100)).advanced, Some(Revision(1)));
    assert_eq!(snapshot(&mut table, "b", 1, &want(0..100)).advanced, Some(Revision(1)));
    assert_eq!(
        snapshot(&mut table, "c", 1, &want(0..200)).refused,
        Some(InterestRefused::TooLarge),
        "too large for all together"
    );
    assert!(table.lags(&node("c")) && table.bytes <= limits.in_all);
    let event = Event { symbol: Some(Symbol::new("S7").unwrap()), ..blank_event() };
    assert_eq!(found(&mut table, &event), ["a", "b"]);
    // Deltas of ever new revisions are held within the limit.
    for revision in 3..200 {
        table.delta(Millis(0), delta("a", revision, 0..40));
        assert!(table.bytes <= limits.in_all);
    }
    table.expire(Millis(2), 1);
    assert_eq!((table.bytes, found(&mut table, &event)), (0, vec![]));
}

#[test]
fn gateways_outside_the_view_leave_room_to_members() {
    let own = TableLimits { gateway_bytes: 4_000, outsider_bytes: 1_000, in_all: 6_000, ..TableLimits::default() };
    let mut table = InterestTable::new(own);
    table.set_view(view(&["a"]));
    for outsider in ["s0", "s1", "s2"] {
        for revision in 3..200 {
            table.delta(Millis(0), delta(outsider, revision, 0..20));
        }
        let large = snapshot(&mut table, outsider, 1, &want(0..100));
        assert_eq!(large, InterestUpdate::refused(InterestRefused::TooLarge));
    }
    assert!(table.bytes <= 3 * own.outsider_bytes, "{} bytes", table.bytes);
    assert_eq!(snapshot(&mut table, "a", 1, &want(0..100)).advanced, Some(Revision(1)));
}

#[test]
fn forged_revision_is_dropped_after_two_snapshots_without_it() {
    let future = u64::MAX;
    let forge: [fn(&mut InterestTable, u64) -> InterestUpdate; 2] = [
        |table, revision| table.beat(Millis(0), &beat("a", revision)),
        |table, revision| table.delta(Millis(0), delta("a", revision, 0..5)),
    ];
    for forge in forge {
        let mut table = InterestTable::default();
        // Before the first snapshot, and after it.
        assert!(forge(&mut table, future).needs_snapshot);
        let first = snapshot(&mut table, "a", 5, &want(0..10));
        assert_eq!((first.advanced, first.needs_snapshot), (Some(Revision(5)), true));
        assert!(table.lags(&node("a")));
        assert_eq!(snapshot(&mut table, "a", 5, &want(0..10)), InterestUpdate::default());
        assert!(table.knows(&node("a")) && !table.lags(&node("a")));
        assert!(forge(&mut table, future - 1).needs_snapshot && table.lags(&node("a")));
        assert!(snapshot(&mut table, "a", 5, &want(0..10)).needs_snapshot);
        assert!(!snapshot(&mut table, "a", 5, &want(0..10)).needs_snapshot && table.knows(&node("a")));
        // The gateway continues as if there had been no forgery.
        let next = table.delta(Millis(0), delta("a", 6, 20..21));
        assert_eq!(next, InterestUpdate { advanced: Some(Revision(6)), ..InterestUpdate::default() });
        assert!(table.knows(&node("a")) && table.bytes < 2_000, "{} bytes", table.bytes);
    }
}

#[test]
fn revision_announced_during_a_snapshot_is_asked_for_again() {
    let mut table = InterestTable::default();
    assert!(table.beat(Millis(0), &beat("a", 8)).needs_snapshot);
    // A higher revision was announced after the snapshot was requested: by a beat, or by a delta behind a missed one.
    for (announced, first, then) in [(10, 8, 10), (13, 11, 13)] {
        assert!(table.beat(Millis(0), &beat("a", announced)).needs_snapshot);
        assert!(snapshot(&mut table, "a", first, &want(0..1)).needs_snapshot && table.lags(&node("a")));
        assert!(!snapshot(&mut table, "a", then, &want(0..1)).needs_snapshot && table.knows(&node("a")));
    }
    assert!(table.delta(Millis(0), delta("a", 16, 7..8)).needs_snapshot);
    assert!(snapshot(&mut table, "a", 14, &want(0..1)).needs_snapshot);
    let event = Event { symbol: Some(Symbol::new("S7").unwrap()), ..blank_event() };
    assert!(found(&mut table, &event).is_empty() && table.lags(&node("a")));
    let filled = table.delta(Millis(0), delta("a", 15, 3..4));
    assert_eq!(filled, InterestUpdate { advanced: Some(Revision(16)), ..InterestUpdate::default() });
    assert_eq!((found(&mut table, &event), table.knows(&node("a"))), (vec!["a".to_owned()], true));
    // Every announcement resets the count, and an old snapshot does not count.
    assert!(table.beat(Millis(0), &beat("a", 20)).needs_snapshot);
    assert!(snapshot(&mut table, "a", 17, &want(0..1)).needs_snapshot);
    assert!(table.beat(Millis(0), &beat("a", 21)).needs_snapshot);
    assert!(snapshot(&mut table, "a", 18, &want(0..1)).needs_snapshot);
    for old in [8, 17] {
        assert_eq!(snapshot(&mut table, "a", old, &want(0..1)), InterestUpdate::default());
    }
    assert!(table.lags(&node("a")));
    assert!(!snapshot(&mut table, "a", 21, &want(0..1)).needs_snapshot && table.knows(&node("a")));
}

#[test]
fn dropped_oversized_interest_does_not_advance() {
    // A router that advanced to a revision without its interest would send empty sections.
    let limits = TableLimits { gateway_bytes: 400_000, ..TableLimits::default() };
    let step = |revision: u64| delta("a", revision, 10_000 * revision as usize..10_000 * revision as usize + 3_500);
    let mut table = InterestTable::new(limits);
    assert_eq!(snapshot(&mut table, "a", 1, &want(0..11_000)).advanced, Some(Revision(1)));
    let mut update = InterestUpdate::default();
    for revision in 2..20 {
        update = table.delta(Millis(0), step(revision));
        if table.interest(&node("a")).is_none() {
            break;
        }
        assert_eq!((update.advanced, update.refused), (Some(Revision(revision)), None));
    }
    assert_eq!(update, InterestUpdate::refused(InterestRefused::TooLarge));
    assert!(table.interest(&node("a")).is_none() && table.lags(&node("a")) && table.bytes < limits.gateway_bytes);
    // The same for deltas received before the snapshot.
    let mut table = InterestTable::new(limits);
    for revision in [2, 3, 4] {
        assert_eq!(table.delta(Millis(0), step(revision)).refused, None);
    }
    assert_eq!(snapshot(&mut table, "a", 1, &want(0..4_000)), InterestUpdate::refused(InterestRefused::TooLarge));
    assert!(table.interest(&node("a")).is_none() && table.lags(&node("a")));
}

#[test]
fn repeated_deltas_do_not_add_up_in_bytes() {
    let mut table = InterestTable::default();
    snapshot(&mut table, "a", 1, &want(0..100));
    for revision in 2..2_000 {
        assert_eq!(table.delta(Millis(0), delta("a", revision, 0..50)).advanced, Some(Revision(revision)));
    }
    assert!(table.bytes < 2 * table.limits.measured_bytes, "{}", table.bytes);
}

#[test]
fn holder_keeps_its_revision_without_a_copy_per_delta() {
    let mut table = InterestTable::default();
    snapshot(&mut table, "a", 1, &want(0..1_000));
    let base = |table: &InterestTable| Arc::as_ptr(&table.interest(&node("a")).unwrap().1.clone().base()).addr();
    let (held, place) = (table.interest(&node("a")).unwrap().1.clone(), base(&table));
    for revision in 2..50 {
        let symbol = 1_000 + revision as usize;
        table.delta(Millis(0), delta("a", revision, symbol..symbol + 1));
    }
    assert_eq!(base(&table), place, "nothing was copied");
    assert_eq!(held.latest().wants.len(), 1_000);
    assert_eq!(table.interest(&node("a")).unwrap().1.clone().latest().wants.len(), 1_048);
    // When nobody else holds it, deltas are applied at once.
    table.delta(Millis(0), delta("a", 50, 0..1));
    assert_eq!(base(&table), place);
    assert_eq!(table.interest(&node("a")).unwrap().1.clone().latest().wants.len(), 1_048);
}

#[test]
fn gateway_is_found_by_symbol_and_by_any_symbol() {
    let mut table = InterestTable::default();
    let mut log = InterestLog::new(node("a"), View::default(), 0, Bounds::default());
    let filter = |symbols: Option<&str>| Filter {
        symbols: symbols.map(|symbol| [Symbol::new(symbol).unwrap()].into()),
        ..Filter::default()
    };
    log.add(&Arc::new(filter(Some("AAPL"))));
    log.cut(Millis(0));
    snapshot(&mut table, "a", 1, log.sent());
    let of = |symbol: &str| Event { symbol: Some(Symbol::new(symbol).unwrap()), ..blank_event() };
    assert_eq!((found(&mut table, &of("AAPL")), found(&mut table, &of("MSFT"))), (vec!["a".to_owned()], vec![]));
    log.add(&Arc::new(filter(None)));
    table.delta(Millis(0), log.cut(Millis(0)).unwrap());
    assert_eq!((found(&mut table, &of("AAPL")).len(), found(&mut table, &of("MSFT")).len()), (1, 1));
    log.remove(Millis(0), Arc::new(filter(None)));
    log.remove(Millis(0), Arc::new(filter(Some("AAPL"))));
    table.delta(Millis(0), log.cut(Millis(0)).unwrap());
    assert_eq!(found(&mut table, &of("AAPL")), [""; 0]);
}
