//! The cost of one filter for one event, by `Filter::matches`, the reference for the index.
//!
//! `cargo bench -p tickwire-core --bench filter`

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on should panic")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use tickwire_core::event::decode::{RawMessage, decode};
use tickwire_core::event::{Event, Kinds, Timestamp};
use tickwire_core::filter::Filter;
use tickwire_core::ids::Seq;

fn event() -> Event {
    let payload = json!({
        "pattern": "BreakoutBO", "symbol": "AAPL", "tier": "daily", "confidence": 0.87, "tags": ["earnings", "gap up"],
        "rooms": ["desk 1", "vip"], "source": "TickStockPL", "price": 101.25, "volume": 1_000_000,
        "levels": { "support": 99.5, "resistance": 104 }, "note": "broke out of a base of seven weeks",
    });
    let payload = payload.to_string();
    let raw = RawMessage {
        kind_token: "pattern",
        key_token: "AAPL",
        content_type: None,
        msg_id: None,
        payload: payload.as_bytes(),
        stream: "BENCH",
        seq: Seq(1),
        stored: Timestamp(1_757_514_600_120),
    };
    decode(&raw, &Kinds::default()).unwrap()
}

fn evaluation(criterion: &mut Criterion) {
    let event = event();
    let symbols: Vec<String> = (0..500).map(|number| format!("S{number:03}")).chain(["AAPL".to_owned()]).collect();
    let filters = [
        ("everything", json!({})),
        ("five symbols", json!({ "symbols": ["AAPL", "MSFT", "NVDA", "TSLA", "GOOG"], "min_confidence": 0.5 })),
        ("five hundred symbols", json!({ "symbols": symbols })),
        ("another symbol", json!({ "symbols": ["MSFT"] })),
        ("tags", json!({ "tags": ["gap up", "split"] })),
        ("rooms", json!({ "rooms": ["vip", "desk 9"] })),
        ("one condition", json!({ "data": { "price": { "min": 100, "max": 110 } } })),
        (
            "every operator",
            json!({ "data": {
                "levels.support": { "min": 90.5, "max": 100, "ne": 91 }, "source": { "eq": "TickStockPL" },
                "volume": { "in": [1, 1000, 1_000_000] }, "note": { "prefix": "broke", "contains": "seven" },
            } }),
        ),
    ];
    let mut group = criterion.benchmark_group("filter");
    for (name, filter) in filters {
        let filter = Filter::parse(&filter, &Kinds::default()).unwrap();
        assert_eq!(filter.matches(&event), name != "another symbol");
        group.bench_function(name, |bencher| bencher.iter(|| black_box(&filter).matches(black_box(&event))));
    }
    group.finish();
}

criterion_group!(benches, evaluation);
criterion_main!(benches);
