//! The events, filters and users that plans name by number.

use tickwire_core::event::{Audience, Event, Kind, Priority, Tier};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Confidence, Symbol, UserId};
use tickwire_testkit::blank_event;

pub(crate) fn user(number: u8) -> UserId {
    UserId::new(&format!("u{number}")).unwrap()
}

pub(crate) fn symbol(number: u8) -> Symbol {
    Symbol::new(&format!("S{number}")).unwrap()
}

/// Eight filters that overlap, contain one another, or have nothing in common.
pub(crate) fn filter(number: u8) -> Filter {
    let some = |symbols: &[u8]| Some(symbols.iter().map(|number| symbol(*number)).collect());
    let least = |tenths: u8| Confidence::new(f64::from(tenths) / 10.0);
    let base = Filter::default();
    match number {
        0 => base,
        1 => Filter { symbols: some(&[0]), ..base },
        2 => Filter { symbols: some(&[0, 1]), min_confidence: least(5), ..base },
        3 => Filter { symbols: some(&[1]), min_confidence: least(8), ..base },
        4 => Filter { symbols: some(&[2, 3]), tiers: Some([Tier::Daily].into()), ..base },
        5 => Filter { min_priority: Some(Priority::High), ..base },
        6 => Filter { kinds: [Kind::Alert].into(), ..base },
        _ => Filter { kinds: [Kind::Alert, Kind::Pattern].into(), symbols: some(&[3]), ..base },
    }
}

pub(crate) fn blank(kind: Kind, audience: Audience) -> Event {
    Event { kind, key: "k".into(), audience, ..blank_event() }
}
