//! A typical event, for benches.

use serde_json::json;
use tickwire_core::event::decode::{RawMessage, decode};
use tickwire_core::event::{Event, Kinds, Timestamp};
use tickwire_core::ids::Seq;

/// An event that a router decodes from a producer's message of about 350 bytes of JSON.
///
/// # Panics
/// If the payload below is not valid.
pub(crate) fn event(seq: Seq) -> Event {
    let symbol = format!("S{:03}", seq.0 % 500);
    let payload = json!({
        "pattern": "BreakoutBO",
        "symbol": symbol,
        "tier": "daily",
        "confidence": 0.87,
        "timestamp": 1_757_514_600_120_u64 + seq.0,
        "id": seq.0.to_string(),
        "source": "bench",
        "price": 117.25,
        "target": 126.63,
        "stop": 113.73,
        "volume": 100_000 + seq.0,
    })
    .to_string();
    let raw = RawMessage {
        kind_token: "pattern",
        key_token: &symbol,
        content_type: None,
        msg_id: None,
        payload: payload.as_bytes(),
        stream: "BENCH",
        seq,
        stored: Timestamp(1_757_514_600_120),
    };
    decode(&raw, &Kinds::default()).expect("the payload is valid")
}
