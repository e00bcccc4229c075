//! The events, filters and users that plans name by number.

use serde_json::{Value, json};
use tickwire_core::event::{Audience, Event, Kind};
use tickwire_core::ids::{Symbol, UserId};
use tickwire_testkit::blank_event;

pub(super) fn user(number: u32) -> UserId {
    UserId::new(&format!("u{number}")).unwrap()
}

pub(super) fn symbol(number: u8) -> Symbol {
    Symbol::new(&format!("S{number}")).unwrap()
}

/// Eight filters that overlap, contain one another, or have nothing in common, as clients write them. From 8 on each wants
/// what nobody else does.
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
        other => json!({ "symbols": [format!("N{other}")] }),
    }
}

pub(super) fn blank(kind: Kind, audience: Audience) -> Event {
    Event { kind, key: "k".into(), audience, ..blank_event() }
}
