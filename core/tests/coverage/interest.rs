//! Tests of a gateway's interest.

use std::sync::Arc;

use tickwire_core::event::Event;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Confidence, Millis, Revision, Room, Symbol, UserId};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::{Member, Role, View};
use tickwire_testkit::blank_event;

use crate::fixtures::node;

#[test]
fn interest_grows_with_the_next_revision_and_shrinks_after_a_delay() {
    let mut log = InterestLog::new(node("gw"), View::default(), 1_000, Bounds::default());
    let narrow = Filter {
        symbols: Some([Symbol::new("AAPL").unwrap()].into()),
        min_confidence: Confidence::new(0.8),
        ..Filter::default()
    };
    let wide = Arc::new(Filter { min_confidence: None, ..narrow.clone() });
    let narrow = Arc::new(narrow);
    assert_eq!(log.add(&wide), Revision(1));
    assert_eq!(log.cut(Millis(0)).unwrap().set.len(), 1);
    assert_eq!(log.add(&narrow), Revision(1), "a want that is covered already has the old revision");
    assert_eq!(log.cut(Millis(0)), None);
    log.remove(Millis(0), wide.clone());
    assert_eq!(log.cut(Millis(999)), None);
    let shrunk = log.cut(Millis(1_000)).unwrap();
    assert_eq!((shrunk.revision, shrunk.set[0].1.min_confidence), (Revision(2), Confidence::new(0.8)));
    assert_eq!(log.add(&wide), Revision(3), "a want that grows again has the next revision");
    log.remove(Millis(2_000), wide);
    log.remove(Millis(2_000), narrow);
    assert_eq!(log.cut(Millis(3_000)).unwrap().unset.len(), 1);
}

#[test]
fn room_filter_excludes_events_outside_the_room() {
    let room = |name: &str| Room::new(name).unwrap();
    let of_rooms =
        |names: &[&str]| Filter { rooms: Some(names.iter().map(|name| room(name)).collect()), ..Filter::default() };
    let in_rooms = |names: &[&str]| Event { rooms: names.iter().map(|name| room(name)).collect(), ..blank_event() };
    let mut log = InterestLog::new(node("gw"), View::default(), 0, Bounds::default());
    let admits = |log: &mut InterestLog, names: &[&str]| {
        log.cut(Millis(0));
        log.sent().wants.values().any(|want| want.admits(&in_rooms(names)))
    };
    log.add(&Arc::new(of_rooms(&["vip"])));
    log.add(&Arc::new(of_rooms(&["desk"])));
    assert!(admits(&mut log, &["vip"]) && admits(&mut log, &["desk", "lobby"]));
    assert!(!admits(&mut log, &["lobby"]) && !admits(&mut log, &[]));
    log.remove(Millis(0), Arc::new(of_rooms(&["vip"])));
    assert!(!admits(&mut log, &["vip"]));
    log.add(&Arc::new(Filter::default()));
    assert!(admits(&mut log, &[]), "another filter wants the whole kind");
}

#[test]
fn only_strays_are_listed() {
    let view = |names: &[&str]| {
        let member = |name: &&str| Member { node: node(name), role: Role::Gateway, weight: 1, draining: false };
        View { version: 1, members: names.iter().map(member).collect(), ..View::default() }
    };
    let both = view(&["gw-1", "gw-2"]);
    let user = |at: &str| {
        let mut names = (0..).map(|number| UserId::new(&format!("u{number}")).unwrap());
        names.find(|user| both.home(user) == Some(&node(at))).unwrap()
    };
    let (at_home, stray) = (user("gw-1"), user("gw-2"));
    let mut log = InterestLog::new(node("gw-1"), both.clone(), 0, Bounds::default());
    log.cut(Millis(0)).unwrap();
    assert_eq!(log.add_user(&at_home), Revision(1), "the ring names the home gateway");
    assert_eq!(log.cut(Millis(0)), None);
    assert_eq!(log.add_user(&stray), Revision(2));
    assert_eq!(log.cut(Millis(0)).unwrap().strays, std::slice::from_ref(&stray));
    log.set_view(view(&["gw-1"]));
    let alone = log.cut(Millis(0)).unwrap();
    assert_eq!((alone.view, alone.settled), (log.view().id(), vec![stray]), "the view and its strays change together");
}
