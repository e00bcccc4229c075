//! Broadcasts: they need no matching filter, and never leave their audience.

use super::*;

/// An index with a session of each of three users, and one without subscriptions. Their filters match no event here.
fn index() -> Index {
    let mut index = Index::default();
    let of = |value: Value| Arc::new(Filter::parse(&value, &Kinds::default()).unwrap());
    let news = of(json!({ "kinds": ["health"], "min_confidence": 0.9 }));
    let desk = of(json!({ "kinds": ["health"], "symbols": ["AAPL"], "rooms": ["desk", "vip"] }));
    for session in 0..4 {
        index.register(&user(session), session);
    }
    index.add(Subscriber { session: 0, subscription: 1, window_ms: 100, alert: false }, &news);
    index.add(Subscriber { session: 0, subscription: 2, window_ms: 20, alert: false }, &desk);
    index.add(Subscriber { session: 1, subscription: 1, window_ms: 50, alert: false }, &desk);
    index.add(Subscriber { session: 2, subscription: 1, window_ms: 0, alert: false }, &news);
    index
}

/// The sessions and subscriptions that a broadcast finds.
fn found(index: &mut Index, audience: Audience, rooms: &[&str]) -> Vec<(u64, u32)> {
    let rooms = rooms.iter().map(|room| Room::new(room).unwrap()).collect();
    let handling = Handling { strategy: SpreadStrategy::Broadcast, rooms, ttl_ms: None };
    let event = Event { audience, handling: Some(Box::new(handling)), ..blank_event() };
    let mut found = Vec::new();
    index.matching(&event, |subscriber| found.push((subscriber.session, subscriber.subscription)));
    found.sort_unstable();
    found
}

#[test]
fn broadcast_is_for_every_subscription_of_its_audience_whatever_the_filters() {
    let mut index = index();
    assert_eq!(found(&mut index, Audience::Public, &[]), [(0, 1), (0, 2), (1, 1), (2, 1)]);
    assert_eq!(found(&mut index, Audience::User(user(0)), &[]), [(0, 1), (0, 2)]);
    assert!(found(&mut index, Audience::User(UserId::new("nobody").unwrap()), &[]).is_empty());
}

#[test]
fn broadcast_to_rooms_is_for_the_subscriptions_that_name_one() {
    let mut index = index();
    assert_eq!(found(&mut index, Audience::Public, &["desk", "vip"]), [(0, 2), (1, 1)], "each once");
    assert_eq!(found(&mut index, Audience::User(user(1)), &["vip", "lobby"]), [(1, 1)]);
    assert!(found(&mut index, Audience::User(user(2)), &["vip"]).is_empty());
    assert!(found(&mut index, Audience::Public, &["lobby"]).is_empty());
    index.unregister(&user(1), 1);
    assert_eq!(found(&mut index, Audience::Public, &["vip"]), [(0, 2)]);
}

#[test]
fn other_strategies_need_a_filter_that_matches() {
    let mut index = index();
    for strategy in SpreadStrategy::ALL.into_iter().filter(|strategy| *strategy != SpreadStrategy::Broadcast) {
        let handling = Handling { strategy, rooms: vec![Room::new("vip").unwrap()], ttl_ms: Some(1) };
        let event = Event { handling: Some(Box::new(handling)), ..blank_event() };
        index.matching(&event, |subscriber| panic!("{strategy} finds {subscriber:?}"));
    }
}
