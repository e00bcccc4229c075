//! The index against asking every subscription.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tickwire_core::event::{Priority, Tier, Timestamp};
use tickwire_core::ids::Confidence;

use super::*;

#[derive(Clone, Debug)]
enum Change {
    Add { session: u64, name: u8, filter: Filter },
    Remove { session: u64, name: u8 },
    Match(Event),
}

fn user(session: u64) -> UserId {
    UserId::new(&format!("u{}", session % 3)).unwrap()
}

fn symbol(number: u8) -> Symbol {
    Symbol::new(&format!("S{number}")).unwrap()
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Pattern, Kind::Market, Kind::Alert])
}

fn filter() -> impl Strategy<Value = Filter> {
    (
        prop::collection::btree_set(kind(), 1..3),
        prop::option::of(prop::collection::btree_set((0..4u8).prop_map(symbol), 1..4)),
        prop::option::of((0..10u8).prop_map(|tenth| Confidence::new(f64::from(tenth) / 10.0).unwrap())),
        prop::option::of(Just([Tier::Daily].into())),
    )
        .prop_map(|(kinds, symbols, min_confidence, tiers)| Filter {
            kinds,
            symbols,
            min_confidence,
            tiers,
            ..Filter::default()
        })
}

fn event() -> impl Strategy<Value = Event> {
    (kind(), prop::option::of((0..5u8).prop_map(symbol)), prop::option::of(0..10u8), prop::option::of(0..4u64))
        .prop_map(|(kind, symbol, tenths, addressee)| Event {
            kind,
            key: "k".into(),
            audience: addressee.map_or(Audience::Public, |session| Audience::User(user(session))),
            id: "e".into(),
            ts: Timestamp(0),
            stored: Timestamp(0),
            session: None,
            symbol,
            pattern: None,
            tier: tenths.map(|tenths| if tenths < 5 { Tier::Daily } else { Tier::Intraday }),
            confidence: tenths.and_then(|tenths| Confidence::new(f64::from(tenths) / 10.0)),
            priority: Priority::Low,
            regime: None,
            tags: Vec::new(),
            data: serde_json::Map::new(),
        })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0..5u64, 0..3u8, filter()).prop_map(|(session, name, filter)| Change::Add { session, name, filter }),
        1 => (0..5u64, 0..3u8).prop_map(|(session, name)| Change::Remove { session, name }),
        3 => event().prop_map(Change::Match),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_asking_everyone_finds(changes in prop::collection::vec(change(), 1..60)) {
        let mut index = Index::default();
        let mut naive: BTreeMap<(u64, u8), Arc<Filter>> = BTreeMap::new();
        for session in 0..5 {
            index.sit(&user(session), session);
        }
        for change in changes {
            match change {
                Change::Add { session, name: number, filter } => {
                    let filter = Arc::new(filter);
                    if let Some(former) = naive.insert((session, number), Arc::clone(&filter)) {
                        index.remove(session, number.into(), &former);
                    }
                    index.add(Subscriber { session, subscription: number.into(), window_ms: number.into() }, &filter);
                }
                Change::Remove { session, name: number } => {
                    if let Some(former) = naive.remove(&(session, number)) {
                        index.remove(session, number.into(), &former);
                    }
                }
                Change::Match(event) => {
                    let mut found = Vec::new();
                    index.matching(&event, |found_one| found.push((found_one.session, found_one.window_ms)));
                    found.sort_unstable();
                    let expected: Vec<(u64, u16)> = naive
                        .iter()
                        .filter(|((session, _), filter)| event.audience.admits(&user(*session)) && filter.matches(&event))
                        .map(|((session, number), _)| (*session, u16::from(*number)))
                        .collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
        for ((session, number), filter) in naive {
            index.remove(session, number.into(), &filter);
        }
        for session in 0..5 {
            index.rise(&user(session), session);
        }
        prop_assert!(index.filters.is_empty() && index.kinds.is_empty() && index.slots.is_empty() && index.users.is_empty());
    }
}
