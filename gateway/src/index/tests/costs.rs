//! What hostile events cost, where clients have many filters for them, and what hostile filters leave behind.

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

#[test]
fn memory_for_the_names_of_many_filters_is_given_back_when_they_are_gone() {
    let mut index = Index::default();
    let filters: Vec<Arc<Filter>> = (0..4_000u32)
        .map(|number| {
            let names: Vec<String> = (0..5).map(|name| format!("{number}.{name}")).collect();
            let mut filter = json!({ "min_confidence": f64::from(number) / 4_000.0 });
            if let Some(field) = ["symbols", "rooms", "patterns", "tags"].get(number as usize % 5) {
                filter[*field] = json!(names);
            }
            Arc::new(Filter::parse(&filter, &Kinds::default()).unwrap())
        })
        .collect();
    let capacity = |index: &Index| {
        let Index { filters, slots, lists, rooms, .. } = index;
        [filters.capacity(), slots.capacity(), lists.capacity(), rooms.capacity()]
    };
    for (number, filter) in (0..).zip(&filters) {
        index.register(&user(number), number);
        index.add(subscriber(number, 1), filter);
    }
    let full = capacity(&index);
    assert!(full[2] >= 4 * 800 * 5 + 800 && full[3] >= 800 * 5, "{full:?}");
    for number in 0..4_000 {
        index.unregister(&user(number), number);
        if number == 3_999 - 50 {
            let few = capacity(&index);
            assert!(few[1..].iter().zip(&full[1..]).all(|(few, full)| few * 2 < *full), "{few:?} of {full:?}");
        }
    }
    let none = capacity(&index);
    assert!(none[0] == 0 && none[1..].iter().sum::<usize>() <= 7 * KEPT_CAPACITY, "{none:?}");
}
