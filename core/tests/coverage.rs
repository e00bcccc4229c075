//! Coverage, claims and interest by example: each rule once, small enough to read. The simulator tries them together.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use tickwire_core::claims::{Claims, Delivered, Reading};
use tickwire_core::confirm::Confirmations;
use tickwire_core::coverage::{Coverage, Limits, Offered, Step};
use tickwire_core::event::{Audience, Event, Kind, Priority, Timestamp};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{
    Confidence, Incarnation, Millis, NodeId, NodeRef, Nonce, Partition, Revision, Room, Seq, Symbol, UserId,
};
use tickwire_core::interest_log::InterestLog;
use tickwire_core::ring::{Member, Role, View};
use tickwire_core::section::Section;

const LIFE: Incarnation = Incarnation(7);
const GRACE: u64 = 20;

fn coverage() -> Coverage<&'static str> {
    Coverage::new(2, Limits { grace: GRACE, held_events: 3 })
}

fn section(
    partition: u16,
    revision: u64,
    prev: u64,
    upto: u64,
    events: &[(u64, &'static str)],
) -> Section<&'static str> {
    Section {
        partition: Partition(partition),
        revision: Revision(revision),
        prev: Seq(prev),
        upto: Seq(upto),
        events: events.iter().map(|(seq, event)| (Seq(*seq), *event)).collect(),
    }
}

/// Offers a section at `now`, and tells what became of it and what is to be done.
fn offer(
    coverage: &mut Coverage<&'static str>,
    now: u64,
    section: Section<&'static str>,
) -> (Offered, Vec<Step<&'static str>>) {
    let mut steps = Vec::new();
    let offered = coverage.offer(Millis(now), LIFE, section, &mut steps);
    steps.retain(|step| !matches!(step, Step::Reset { .. } | Step::Adopt { .. }));
    (offered, steps)
}

fn apply(partition: u16, from: u64, upto: u64, events: &[(u64, &'static str)]) -> Step<&'static str> {
    let events = events.iter().map(|(seq, event)| (Seq(*seq), *event)).collect();
    Step::Apply { partition: Partition(partition), from: Seq(from), upto: Seq(upto), events }
}

fn gap(partition: u16, from: u64, upto: u64) -> Step<&'static str> {
    Step::Gap { partition: Partition(partition), from: Seq(from), upto: Seq(upto) }
}

#[test]
fn coverage_applies_what_follows_and_trims_what_is_known() {
    let mut coverage = coverage();
    let first = offer(&mut coverage, 0, section(0, 1, 10, 12, &[(12, "a")]));
    assert_eq!(first, (Offered::Applied, vec![apply(0, 10, 12, &[(12, "a")])]));
    let overlapping = offer(&mut coverage, 0, section(0, 1, 8, 15, &[(9, "old"), (12, "a"), (14, "b")]));
    assert_eq!(overlapping, (Offered::Applied, vec![apply(0, 12, 15, &[(14, "b")])]));
    let known = offer(&mut coverage, 0, section(0, 1, 10, 15, &[(12, "a"), (14, "b")]));
    assert_eq!(known, (Offered::Duplicate, vec![]));
}

#[test]
fn coverage_puts_sections_in_order_within_the_grace() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 5, 7, &[(6, "b")])), (Offered::Held, vec![]));
    let filled = offer(&mut coverage, GRACE - 1, section(0, 1, 0, 5, &[(3, "a")]));
    assert_eq!(filled.1, [apply(0, 0, 5, &[(3, "a")]), apply(0, 5, 7, &[(6, "b")])]);
    assert_eq!(coverage.next_expiry(), None);
}

#[test]
fn coverage_tells_a_gap_when_the_grace_is_over_and_holds_no_other_partition() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(1, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(0, 1, 5, 7, &[(6, "b")]));
    assert_eq!(offer(&mut coverage, 1, section(1, 1, 0, 8, &[])).1, [apply(1, 0, 8, &[])]);
    assert_eq!(coverage.next_expiry(), Some(Millis(GRACE)));
    let mut steps = Vec::new();
    coverage.expire(Millis(GRACE), &mut steps);
    assert_eq!(steps, [gap(0, 0, 5), apply(0, 5, 7, &[(6, "b")])]);
}

#[test]
fn coverage_holds_within_a_bound() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    offer(&mut coverage, 0, section(0, 1, 5, 8, &[(6, "a"), (7, "b"), (8, "c")]));
    let over = offer(&mut coverage, 0, section(0, 1, 8, 9, &[(9, "d")]));
    let all = [gap(0, 0, 5), apply(0, 5, 8, &[(6, "a"), (7, "b"), (8, "c")]), apply(0, 8, 9, &[(9, "d")])];
    assert_eq!(over.1, all);
}

#[test]
fn coverage_takes_no_proof_from_a_revision_older_than_what_was_confirmed() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 3, 0, 4, &[]));
    coverage.require(Revision(4));
    assert_eq!(offer(&mut coverage, 0, section(0, 3, 4, 6, &[(5, "a")])), (Offered::Outdated, vec![]));
    offer(&mut coverage, 0, section(0, 4, 6, 7, &[]));
    let mut steps = Vec::new();
    coverage.expire(Millis(GRACE), &mut steps);
    assert_eq!(steps, [gap(0, 4, 6), apply(0, 6, 7, &[])]);
}

#[test]
fn coverage_starts_anew_with_another_life_of_the_stream_and_ignores_former_ones() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 90, &[]));
    let mut steps = Vec::new();
    coverage.offer(Millis(0), Incarnation(8), section(0, 1, 0, 2, &[(1, "new")]), &mut steps);
    let adopt = Step::Adopt { partition: Partition(0), at: Seq(0) };
    let reset = Step::Reset { former: Some(LIFE), incarnation: Incarnation(8) };
    assert_eq!(steps, [reset, adopt, apply(0, 0, 2, &[(1, "new")])]);
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 90, 91, &[])), (Offered::Foreign, vec![]));
}

#[test]
fn a_confirmation_waits_for_every_partition_but_not_for_ever() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250);
    confirmations.ask(Millis(0), Revision(2), "subscription");
    offer(&mut coverage, 0, section(0, 2, 0, 1, &[]));
    assert!(confirmations.take(Millis(1_000), &mut coverage).is_empty(), "a partition was never heard of");
    offer(&mut coverage, 0, section(1, 1, 0, 1, &[]));
    assert!(confirmations.take(Millis(249), &mut coverage).is_empty());
    assert_eq!(confirmations.take(Millis(250), &mut coverage), ["subscription"]);
    assert_eq!(offer(&mut coverage, 0, section(1, 1, 1, 2, &[])).0, Offered::Outdated);
}

fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}

#[test]
fn a_claim_has_one_revision_and_shows_what_cannot_be_read() {
    let (gateway, partition) = (node("gw"), Partition(0));
    let mut claims = Claims::default();
    claims.own(partition, Seq(10));
    claims.revise(&gateway, Revision(1));
    assert_eq!(
        claims.take(&gateway, false),
        [section(0, 1, 10, 10, &[])],
        "a new gateway hears where its claims start"
    );
    claims.push(&gateway, partition, Seq(12), "a");
    claims.advance(partition, Seq(12));
    claims.cut(&gateway);
    claims.revise(&gateway, Revision(2));
    claims.push(&gateway, partition, Seq(14), "b");
    claims.advance(partition, Seq(14));
    claims.skip(partition, Seq(20));
    claims.advance(partition, Seq(21));
    let taken = claims.take(&gateway, true);
    assert_eq!(
        taken,
        [section(0, 1, 10, 12, &[(12, "a")]), section(0, 2, 12, 14, &[(14, "b")]), section(0, 2, 20, 21, &[])]
    );
    assert!(claims.take(&gateway, true).is_empty());
}

#[test]
fn a_reading_is_contiguous_in_the_consumers_own_count() {
    let mut reading = Reading::after(Seq(10));
    assert_eq!(reading.accept(Seq(15), 1), Delivered::Next);
    assert_eq!(reading.accept(Seq(15), 1), Delivered::Known);
    assert_eq!(reading.accept(Seq(40), 3), Delivered::Hole);
    assert_eq!(reading.last, Seq(15));
    // A consumer that starts again from the beginning of the stream is harmless.
    let mut reading = Reading::after(Seq(10));
    assert_eq!(reading.accept(Seq(1), 1), Delivered::Known);
    assert_eq!(reading.accept(Seq(11), 2), Delivered::Next);
}

#[test]
fn interest_grows_with_the_next_revision_and_shrinks_late() {
    let mut log = InterestLog::new(node("gw"), View::default(), 1_000);
    let narrow = Filter {
        symbols: Some([Symbol::new("AAPL").unwrap()].into()),
        min_confidence: Confidence::new(0.8),
        ..Filter::default()
    };
    let wide = Filter { min_confidence: None, ..narrow.clone() };
    assert_eq!(log.add(&wide), Revision(1));
    assert_eq!(log.cut(Millis(0)).unwrap().set.len(), 1);
    assert_eq!(log.add(&narrow), Revision(1), "what is asked for already is part of every revision since");
    assert_eq!(log.cut(Millis(0)), None);
    log.remove(Millis(0), wide.clone());
    assert_eq!(log.cut(Millis(999)), None);
    let shrunk = log.cut(Millis(1_000)).unwrap();
    assert_eq!((shrunk.revision, shrunk.set[0].1.min_confidence), (Revision(2), Confidence::new(0.8)));
    assert_eq!(log.add(&wide), Revision(3), "what grew again is part of the next revision only");
    log.remove(Millis(2_000), wide);
    log.remove(Millis(2_000), narrow);
    assert_eq!(log.cut(Millis(3_000)).unwrap().unset.len(), 1);
}

#[test]
fn who_wants_a_room_is_not_sent_what_is_not_in_it() {
    let room = |name: &str| Room::new(name).unwrap();
    let of_rooms =
        |names: &[&str]| Filter { rooms: Some(names.iter().map(|name| room(name)).collect()), ..Filter::default() };
    let in_rooms = |names: &[&str]| Event {
        kind: Kind::Pattern,
        key: "AAPL".into(),
        audience: Audience::Public,
        id: "e".into(),
        ts: Timestamp(0),
        stored: Timestamp(0),
        session: None,
        symbol: None,
        pattern: None,
        tier: None,
        confidence: None,
        priority: Priority::Low,
        regime: None,
        tags: Vec::new(),
        data: serde_json::Map::new(),
        rooms: names.iter().map(|name| room(name)).collect(),
    };
    let mut log = InterestLog::new(node("gw"), View::default(), 0);
    let admits = |log: &mut InterestLog, names: &[&str]| {
        log.cut(Millis(0));
        log.sent().wants.values().any(|want| want.admits(&in_rooms(names)))
    };
    log.add(&of_rooms(&["vip"]));
    log.add(&of_rooms(&["desk"]));
    assert!(admits(&mut log, &["vip"]) && admits(&mut log, &["desk", "lobby"]));
    assert!(!admits(&mut log, &["lobby"]) && !admits(&mut log, &[]));
    log.remove(Millis(0), of_rooms(&["vip"]));
    assert!(!admits(&mut log, &["vip"]));
    log.add(&Filter::default());
    assert!(admits(&mut log, &[]), "another wants all of the kind");
}

#[test]
fn only_users_away_from_home_are_named() {
    let view = |names: &[&str]| {
        let member = |name: &&str| Member { node: node(name), role: Role::Gateway, weight: 1, draining: false };
        View { version: 1, members: names.iter().map(member).collect() }
    };
    let both = view(&["gw-1", "gw-2"]);
    let user = |at: &str| {
        let mut names = (0..).map(|number| UserId::new(&format!("u{number}")).unwrap());
        names.find(|user| both.home(user) == Some(&node(at))).unwrap()
    };
    let (at_home, stray) = (user("gw-1"), user("gw-2"));
    let mut log = InterestLog::new(node("gw-1"), both.clone(), 0);
    log.cut(Millis(0)).unwrap();
    assert_eq!(log.add_user(&at_home), Revision(1), "the routers know by the ring");
    assert_eq!(log.cut(Millis(0)), None);
    assert_eq!(log.add_user(&stray), Revision(2));
    assert_eq!(log.cut(Millis(0)).unwrap().strays, std::slice::from_ref(&stray));
    log.set_view(view(&["gw-1"]));
    let alone = log.cut(Millis(0)).unwrap();
    assert_eq!((alone.view, alone.settled), (log.view().id(), vec![stray]), "the view and its strays change together");
}
