//! The events, filters, users, handlings and rules that plans name by number.

use std::sync::LazyLock;

use serde_json::{Value, json};
use tickwire_core::event::{Audience, Event, Handling, Kind, Kinds, Strategy};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Room, Symbol, UserId};
use tickwire_testkit::blank_event;

pub(super) fn user(number: u32) -> UserId {
    UserId::new(&format!("u{number}")).unwrap()
}

pub(super) fn symbol(number: u8) -> Symbol {
    Symbol::new(&format!("S{number}")).unwrap()
}

/// How many filters name few symbols, and how many filters there are with those that name many.
pub(super) const FILTERS: u8 = 11;
pub(super) const ALL_FILTERS: u8 = 13;

/// How many symbols a filter of the second sort names: more than a request for a replay carries.
const MANY_SYMBOLS: u32 = 70;

/// Whether a filter names many symbols.
pub(super) fn names_many_symbols(number: u32) -> bool {
    (u32::from(FILTERS)..u32::from(ALL_FILTERS)).contains(&number)
}

/// The filter of a number, as a client writes it. The first eight overlap, contain one another, or have nothing in
/// common. The next three name what rules give events. The two behind them name many symbols. Each higher number has a
/// symbol of its own, for which there are no events.
pub(super) fn filter(number: u32) -> Value {
    match number {
        0 => json!({}),
        1 => json!({ "symbols": ["S0"] }),
        2 => json!({ "symbols": ["S0", "S1"], "min_confidence": 0.5 }),
        3 => json!({ "symbols": ["S1"], "min_confidence": 0.8 }),
        4 => json!({ "symbols": ["S2", "S3"], "tiers": ["daily"] }),
        5 => json!({ "min_priority": "high" }),
        6 => json!({ "kinds": ["alert"] }),
        7 => json!({ "kinds": ["alert", "pattern"], "symbols": ["S3"] }),
        8 => json!({ "rooms": ["r0"] }),
        9 => json!({ "rooms": ["r1", "r2"], "symbols": ["S0", "S1"] }),
        10 => json!({ "tags": ["ranked"] }),
        11 | 12 => {
            let rare = (0..MANY_SYMBOLS).map(|symbol| format!("M{number}.{symbol}"));
            let symbols: Vec<String> = rare.chain([format!("S{}", number - u32::from(FILTERS))]).collect();
            json!({ "symbols": symbols })
        }
        other => json!({ "symbols": [format!("N{other}")] }),
    }
}

/// The number of a filter, as a frame has it.
pub(super) fn filter_number(wanted: &Filter) -> Option<u32> {
    static FILTERS_BY_NUMBER: LazyLock<Vec<Filter>> = LazyLock::new(|| {
        let parse = |number: u8| Filter::parse(&filter(number.into()), &Kinds::default()).unwrap();
        (0..ALL_FILTERS).map(parse).collect()
    });
    (0..).zip(&*FILTERS_BY_NUMBER).find(|(_, known)| *known == wanted).map(|(number, _)| number)
}

/// The name of a client's own subscription.
pub(super) const NAME: &str = "mine";

/// The names under which subscriptions are saved. One of them is that of clients' own subscriptions.
pub(super) const SAVED_NAMES: [&str; 3] = [NAME, "a", "z"];

/// How many handlings there are.
pub(super) const HANDLINGS: u8 = 6;

/// The handling of a number. A short time to live is less than a window, a long one more.
pub(super) fn handling(number: u8) -> Handling {
    let (strategy, ttl_ms) = match number {
        0 => (Strategy::PriorityFirst, None),
        1 => (Strategy::PriorityFirst, Some(60)),
        2 => (Strategy::Content, Some(60)),
        3 => (Strategy::Content, Some(2_000)),
        _ => (Strategy::Broadcast, None),
    };
    let rooms = if number == 5 { vec![Room::new("r0").unwrap(), Room::new("r2").unwrap()] } else { Vec::new() };
    Handling { strategy, rooms, ttl_ms }
}

/// The tag of an event that was published with a handling. No rule matches it: a rule would give it another handling.
pub(super) const HANDLED: &str = "handled";

/// How many sets of rules there are.
pub(super) const RULE_SETS: u8 = 7;

/// The rules of a number. Only rules that send events first give them the tag `first`: clients see by it which events
/// may overtake others.
pub(super) fn rules(number: u8) -> Value {
    let when = |symbols: &[&str]| {
        let is_published_without = json!({ "not": { "field": "tags", "contains": HANDLED } });
        json!({ "kind": "pattern", "conditions": [is_published_without, { "field": "symbol", "in": symbols }] })
    };
    let all = || when(&["S0", "S1", "S2", "S3"]);
    match number {
        0 => json!([]),
        1 => json!([
            { "id": "first", "when": when(&["S0"]), "strategy": "priority_first", "add_tags": ["first"] },
            { "id": "rank", "when": when(&["S1", "S2"]), "set_priority": "high", "add_tags": ["ranked"] },
        ]),
        2 => json!([
            { "id": "drop", "when": when(&["S0"]), "drop": true },
            { "id": "rank", "when": when(&["S1", "S3"]), "set_priority": "low", "rooms": ["r0"] },
        ]),
        3 => json!([{ "id": "spread", "when": all(), "strategy": "load_balanced", "rooms": CHOSEN }]),
        4 => json!([{ "id": "turns", "when": all(), "strategy": "round_robin", "rooms": CHOSEN }]),
        5 => json!([
            { "id": "all", "when": when(&["S2"]), "strategy": "broadcast" },
            { "id": "rooms", "when": when(&["S0", "S3"]), "strategy": "broadcast", "rooms": ["r0", "r2"] },
        ]),
        _ => json!([
            { "id": "sample", "when": when(&["S0", "S1"]), "sample": 0.5, "add_tags": ["ranked"] },
            { "id": "rooms", "when": when(&["S2"]), "rooms": ["r1"] },
        ]),
    }
}

/// The rooms of which rules choose one.
const CHOSEN: [&str; 3] = ["r0", "r1", "r2"];

/// The rooms of which the rules of a number choose one for each event that was published without a handling.
pub(super) fn chosen_rooms(number: u8) -> &'static [&'static str] {
    if matches!(number, 3 | 4) { &CHOSEN } else { &[] }
}

/// An event of a kind and an audience, with default values for all else.
pub(super) fn blank(kind: Kind, audience: Audience) -> Event {
    Event { kind, key: "k".into(), audience, ..blank_event() }
}
