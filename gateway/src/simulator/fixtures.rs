//! The events, filters, users and handlings that plans name by number.

use serde_json::{Value, json};
use tickwire_core::event::{Audience, Event, Handling, Kind, Strategy};
use tickwire_core::ids::{Symbol, UserId};
use tickwire_testkit::blank_event;

pub(super) fn user(number: u32) -> UserId {
    UserId::new(&format!("u{number}")).unwrap()
}

pub(super) fn symbol(number: u8) -> Symbol {
    Symbol::new(&format!("S{number}")).unwrap()
}

/// How many filters name few symbols, and how many filters there are with those that name many.
pub(super) const FILTERS: u8 = 8;
pub(super) const ALL_FILTERS: u8 = 10;

/// How many symbols a filter of the second sort names: more than a request for a replay carries.
const MANY_SYMBOLS: u32 = 70;

/// Whether a filter names many symbols.
pub(super) fn names_many_symbols(number: u32) -> bool {
    (u32::from(FILTERS)..u32::from(ALL_FILTERS)).contains(&number)
}

/// The filter of a number, as a client writes it. The first eight overlap, contain one another, or have nothing in
/// common. The next two name many symbols. Each higher number has a symbol of its own, for which there are no events.
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
        8 | 9 => {
            let rare = (0..MANY_SYMBOLS).map(|symbol| format!("M{number}.{symbol}"));
            let symbols: Vec<String> = rare.chain([format!("S{}", number - 8)]).collect();
            json!({ "symbols": symbols })
        }
        other => json!({ "symbols": [format!("N{other}")] }),
    }
}

/// How many handlings there are.
pub(super) const HANDLINGS: u8 = 4;

/// The handling of a number. A short time to live is less than a window, a long one more.
pub(super) fn handling(number: u8) -> Handling {
    let (strategy, ttl_ms) = match number {
        0 => (Strategy::PriorityFirst, None),
        1 => (Strategy::PriorityFirst, Some(60)),
        2 => (Strategy::Content, Some(60)),
        _ => (Strategy::Content, Some(2_000)),
    };
    Handling { strategy, rooms: Vec::new(), ttl_ms }
}

/// An event of a kind and an audience, with default values for all else.
pub(super) fn blank(kind: Kind, audience: Audience) -> Event {
    Event { kind, key: "k".into(), audience, ..blank_event() }
}
