//! Random filters and events that often match.

use super::*;

fn any_of<T: Clone + std::fmt::Debug + Ord + 'static>(
    values: Vec<T>,
    chance: f64,
) -> impl Strategy<Value = Option<BTreeSet<T>>> {
    prop::option::weighted(chance, prop::collection::btree_set(select(values), 1..3))
}

fn kinds() -> Vec<Kind> {
    vec![Kind::Pattern, Kind::Market, Kind::Alert, Kind::Other("news".into())]
}

fn symbols() -> Vec<Symbol> {
    ["AAPL", "MSFT", "TSLA"].map(|name| Symbol::new(name).unwrap()).into()
}

fn patterns() -> Vec<Pattern> {
    ["Doji", "Hammer", "BullFlag"].map(|name| Pattern::new(name).unwrap()).into()
}

fn rooms() -> Vec<Room> {
    ["vip", "desk", "lobby"].map(|name| Room::new(name).unwrap()).into()
}

fn confidence() -> impl Strategy<Value = Confidence> {
    (0..=4u8).prop_map(|quarters| Confidence::new(f64::from(quarters) / 4.0).unwrap())
}

/// Every operator, on values that events have or lack.
fn conditions() -> impl Strategy<Value = Conditions> {
    let asked = vec![
        json!({}),
        json!({ "price": { "min": 1 } }),
        json!({ "price": { "max": 1.0 }, "source": { "ne": "x" } }),
        json!({ "source": { "eq": "x" } }),
        json!({ "source": { "in": ["x", 1] } }),
        json!({ "source": { "prefix": "y" }, "levels.support": { "ne": 0 } }),
        json!({ "note": { "contains": "gap" } }),
    ];
    let parsed = |data: Value| Filter::parse(&json!({ "data": data }), &Kinds::default()).unwrap().data;
    prop_oneof![3 => Just(Conditions::new()), 1 => select(asked).prop_map(parsed)]
}

pub(super) fn filter() -> impl Strategy<Value = Filter> {
    let named = (
        prop::collection::btree_set(select(kinds()), 1..3),
        any_of(symbols(), 0.3),
        any_of(rooms(), 0.3),
        any_of(patterns(), 0.3),
        any_of(vec!["a".into(), "b".into(), "c".into()], 0.3),
    );
    let small = (
        any_of(Regime::ALL.to_vec(), 0.2),
        any_of(Tier::ALL.to_vec(), 0.2),
        prop::option::weighted(0.4, confidence()),
        prop::option::weighted(0.3, select(Priority::ALL)),
        prop::bool::weighted(0.2),
        conditions(),
    );
    (named, small).prop_map(
        |(
            (kinds, symbols, rooms, patterns, tags),
            (regimes, tiers, min_confidence, min_priority, market_hours_only, data),
        )| {
            Filter {
                kinds,
                symbols,
                rooms,
                patterns,
                tags,
                regimes,
                tiers,
                min_confidence,
                min_priority,
                market_hours_only,
                data,
            }
        },
    )
}

/// Every strategy, and rooms that filters name or not. Most events have none of it.
fn handling() -> impl Strategy<Value = Option<Box<Handling>>> {
    let rooms = prop::collection::btree_set(select(rooms()), 0..3);
    let handling = (select(SpreadStrategy::ALL.to_vec()), rooms).prop_map(|(strategy, rooms)| {
        Box::new(Handling { strategy, rooms: rooms.into_iter().collect(), ttl_ms: None })
    });
    prop::option::weighted(0.3, handling)
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    let named = (
        select(kinds()),
        prop::option::weighted(0.7, select(symbols())),
        prop::collection::btree_set(select(rooms()), 0..3),
        prop::option::weighted(0.7, select(patterns())),
        prop::collection::btree_set(select(vec!["a", "b", "c"]), 0..3),
        prop::option::weighted(0.2, 0..SESSIONS),
    );
    let small = (
        prop::option::of(select(Regime::ALL)),
        prop::option::weighted(0.8, select(Tier::ALL)),
        prop::option::weighted(0.8, confidence()),
        select(Priority::ALL),
        prop::option::weighted(0.8, select(TradingSession::ALL)),
        select(vec![
            json!({}),
            json!({ "price": 1, "source": "x" }),
            json!({ "price": 0.5, "source": "yes", "levels": { "support": 2 } }),
            json!({ "note": ["gap"], "source": 1 }),
        ]),
    );
    (named, small, handling()).prop_map(
        |(
            (kind, symbol, rooms, pattern, tags, addressee),
            (regime, tier, confidence, priority, session, data),
            handling,
        )| {
            Event {
                kind,
                key: "k".into(),
                audience: addressee.map_or(Audience::Public, |session| Audience::User(user(session))),
                session,
                symbol,
                pattern,
                tier,
                confidence,
                priority,
                regime,
                tags: tags.into_iter().map(Into::into).collect(),
                data: data.as_object().cloned().unwrap(),
                rooms: rooms.into_iter().collect(),
                handling,
                ..blank_event()
            }
        },
    )
}
