//! What hostile events cost, where clients have many filters for them.

use std::time::{Duration, Instant};

use tickwire_core::event::decode::MAX_PAYLOAD;

use super::super::list::ASKED;
use super::*;

/// Far more than the searches below take together on any machine, and far less than a search that reads the whole value
/// for each filter would.
const DEADLINE: Duration = Duration::from_secs(20);

/// How many different filters there are. That is what 200 sessions may have.
const FILTERS: u64 = 20_000;

/// An index with filters that look for parts of the field `x` of the data, for events of these kinds.
fn index_of_parts(kind: &str) -> Index {
    let mut index = Index::default();
    for number in 0..FILTERS {
        let conditions = json!({ "x": { "contains": format!("{}{number}", "a".repeat(200)) } });
        let filter = Filter::parse(&json!({ "kinds": [kind], "data": conditions }), &Kinds::default()).unwrap();
        index.register(&user(number), number);
        index.add(subscriber(number, 1), &Arc::new(filter));
    }
    index
}

#[test]
fn filters_that_look_into_a_long_value_share_the_work() {
    let text = "a".repeat(250).chars().chain(['b']).cycle().take(MAX_PAYLOAD - 1_000).collect::<String>();
    let list = vec![0; (MAX_PAYLOAD - 1_000) / 2];
    let begun = Instant::now();
    for (kind, audience) in [("pattern", Audience::Public), ("alert", Audience::User(user(1)))] {
        let mut index = index_of_parts(kind);
        for x in [json!(text), json!(list)] {
            let data = serde_json::Map::from_iter([("x".to_owned(), x)]);
            let event = Event { kind: Kind::from(kind), audience: audience.clone(), data, ..blank_event() };
            for _ in 0..4 {
                index.matching(&event, |subscriber| panic!("found {subscriber:?}"));
            }
        }
    }
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
}

#[test]
fn filter_is_asked_once_about_an_event_with_many_of_its_tags_or_rooms() {
    let mut index = Index::default();
    let names: Vec<String> = (100..160).map(|number| format!("n{number}")).collect();
    for number in 0..50 {
        for (subscription, field) in [(1, "tags"), (2, "rooms")] {
            let mut filter = json!({ "data": { "x": { "eq": number } } });
            filter[field] = json!(names);
            let filter = Filter::parse(&filter, &Kinds::default()).unwrap();
            index.add(subscriber(number, subscription), &Arc::new(filter));
        }
    }
    let event = Event {
        tags: names.iter().map(|name| name.as_str().into()).collect(),
        rooms: names.iter().map(|name| Room::new(name).unwrap()).collect(),
        data: serde_json::Map::from_iter([("x".to_owned(), json!(7))]),
        ..blank_event()
    };
    for _ in 0..2 {
        ASKED.set(0);
        let mut found = Vec::new();
        index.matching(&event, |subscriber| found.push((subscriber.session, subscriber.subscription)));
        found.sort_unstable();
        assert_eq!((found, ASKED.get()), (vec![(7, 1), (7, 2)], 2 * 50));
    }
}
