//! What gateways tell, held within limits, and where addressed events go.

use super::*;
use crate::event::{Kind, blank_event};
use crate::filter::Filter;
use crate::ids::{NodeId, Nonce, Symbol, UserId};
use crate::interest::{Topic, Want};
use crate::interest_log::{Bounds, InterestLog};
use crate::ring::{Member, ViewId};

fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}

fn view(names: &[&str]) -> Arc<View> {
    let member = |name: &&str| Member { node: node(name), role: Role::Gateway, weight: 1, draining: false };
    Arc::new(View { version: 1, members: names.iter().map(member).collect() })
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

fn tell(table: &mut InterestTable, gateway: &str, revision: u64, interest: &Interest) -> Heard {
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
fn an_addressed_event_goes_home_and_to_where_its_user_strays_and_to_gateways_of_another_view() {
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
        tell(&mut table, name, 1, log.sent());
    }
    assert_eq!(found(&mut table, &addressed(&at_a)), ["a", "b"], "home, and where they stray");
    assert_eq!(found(&mut table, &addressed(&at_b)), ["b"]);
    // The router learns another view: all gateways place users otherwise, each is told once.
    table.set_view(view(&["a"]));
    assert_eq!(found(&mut table, &addressed(&at_a)), ["a", "b", "c"]);
    table.set_view(Arc::clone(&both));
    assert_eq!(found(&mut table, &addressed(&at_b)), ["b"]);
    // One whose strays are too many to be named gets all.
    let any = Interest { view: ViewId::ANY, ..Interest::default() };
    tell(&mut table, "c", 2, &any);
    assert_eq!(found(&mut table, &addressed(&at_b)), ["b", "c"]);
    let settled = Delta { revision: Revision(2), view: both.id(), settled: vec![at_a.clone()], ..delta("b", 2, 0..0) };
    assert_eq!(table.delta(Millis(0), settled).advanced, Some(Revision(2)));
    assert_eq!(found(&mut table, &addressed(&at_a)), ["a", "c"]);
    assert_eq!(table.expire(Millis(100), 10).len(), 3);
    assert_eq!(found(&mut table, &addressed(&at_a)), [""; 0]);
}

#[test]
fn strangers_are_taken_up_to_a_number_and_members_all_the_same() {
    let mut table = InterestTable::new(Limits { members: 2, strangers: 3, ..Limits::default() });
    let refused = |table: &mut InterestTable, name: &str| table.beat(Millis(0), &beat(name, 1)).refused;
    for number in 0..3 {
        assert_eq!(refused(&mut table, &format!("s{number}")), None);
    }
    assert_eq!(refused(&mut table, "s3"), Some(Refused::TooManyGateways));
    table.set_view(view(&["a", "b", "s0"]));
    assert_eq!((refused(&mut table, "a"), refused(&mut table, "b")), (None, Some(Refused::TooManyGateways)));
    assert_eq!(refused(&mut table, "s4"), None, "one of the strangers has become a member");
    assert_eq!(table.lagging().count(), 5);
    assert_eq!(table.expire(Millis(2), 1).len(), 5);
    assert!(table.lagging().next().is_none() && table.strangers == 0);
}

#[test]
fn interests_are_held_up_to_so_many_bytes_and_let_go_with_their_gateways() {
    let limits = Limits { of_gateway: 4_000, in_all: 6_000, ..Limits::default() };
    let mut table = InterestTable::new(limits);
    assert_eq!(tell(&mut table, "a", 1, &want(0..1_000)).refused, Some(Refused::TooLarge));
    assert_eq!(tell(&mut table, "a", 1, &want(0..100)).advanced, Some(Revision(1)));
    assert_eq!(tell(&mut table, "b", 1, &want(0..100)).advanced, Some(Revision(1)));
    assert_eq!(tell(&mut table, "c", 1, &want(0..200)).refused, Some(Refused::TooLarge), "too large for all together");
    assert!(table.lags(&node("c")) && table.bytes <= limits.in_all);
    let event = Event { symbol: Some(Symbol::new("S7").unwrap()), ..blank_event() };
    assert_eq!(found(&mut table, &event), ["a", "b"]);
    // Deltas that come for ever new revisions are not held for ever.
    for revision in 3..200 {
        table.delta(Millis(0), delta("a", revision, 0..40));
        assert!(table.bytes <= limits.in_all);
    }
    table.expire(Millis(2), 1);
    assert_eq!((table.bytes, found(&mut table, &event)), (0, vec![]));
}

#[test]
fn deltas_that_say_again_what_was_said_do_not_add_up() {
    let mut table = InterestTable::default();
    tell(&mut table, "a", 1, &want(0..100));
    for revision in 2..2_000 {
        assert_eq!(table.delta(Millis(0), delta("a", revision, 0..50)).advanced, Some(Revision(revision)));
    }
    assert!(table.bytes < 2 * MEASURED_BYTES, "{}", table.bytes);
}

#[test]
fn who_holds_an_interest_sees_it_as_it_was_and_costs_no_copy_for_each_step() {
    let mut table = InterestTable::default();
    tell(&mut table, "a", 1, &want(0..1_000));
    let base = |table: &InterestTable| Arc::as_ptr(&table.interest(&node("a")).unwrap().1.clone().base()).addr();
    let (held, place) = (table.interest(&node("a")).unwrap().1.clone(), base(&table));
    for revision in 2..50 {
        let symbol = 1_000 + revision as usize;
        table.delta(Millis(0), delta("a", revision, symbol..symbol + 1));
    }
    assert_eq!(base(&table), place, "nothing was copied");
    assert_eq!(held.latest().wants.len(), 1_000);
    assert_eq!(table.interest(&node("a")).unwrap().1.clone().latest().wants.len(), 1_048);
    // When nobody else holds it, steps are taken at once.
    table.delta(Millis(0), delta("a", 50, 0..1));
    assert_eq!(base(&table), place);
    assert_eq!(table.interest(&node("a")).unwrap().1.clone().latest().wants.len(), 1_048);
}

#[test]
fn a_filter_of_a_gateway_is_found_by_its_symbol_or_any() {
    let mut table = InterestTable::default();
    let mut log = InterestLog::new(node("a"), View::default(), 0, Bounds::default());
    let filter = |symbols: Option<&str>| Filter {
        symbols: symbols.map(|symbol| [Symbol::new(symbol).unwrap()].into()),
        ..Filter::default()
    };
    log.add(&Arc::new(filter(Some("AAPL"))));
    log.cut(Millis(0));
    tell(&mut table, "a", 1, log.sent());
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
