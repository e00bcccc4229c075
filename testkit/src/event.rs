//! A minimal event for tests and benches.

use tickwire_core::event::{Audience, Event, Kind, Priority, Timestamp};

/// A public pattern event without optional fields. Tests set the others by struct update.
pub fn blank_event() -> Event {
    Event {
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
        rooms: Vec::new(),
        handling: None,
        context: None,
    }
}
