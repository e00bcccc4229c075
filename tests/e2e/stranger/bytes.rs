//! The input of a stranger: random bytes, and valid messages with faults.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use serde_json::{Value, json};

/// The largest length of random bytes.
const MOST: usize = 4_096;

/// Random bytes.
pub(super) fn any(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..MOST)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// The bytes with something changed, removed, duplicated or inserted.
pub(super) fn spoiled(rng: &mut StdRng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return any(rng);
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] = rng.random(),
            1 => bytes.truncate(at),
            2 => drop(bytes.remove(at)),
            3 => bytes.extend_from_within(at..),
            _ => drop(bytes.splice(at..at, b"\0\r\n\"{}[]:,\xff\xc3".iter().copied().take(rng.random_range(1..12)))),
        }
        bytes.truncate(MOST * 8);
    }
    bytes
}

/// A frame of a client, valid or not.
pub(super) fn action(rng: &mut StdRng) -> Value {
    let text = |rng: &mut StdRng, most: usize| "x".repeat(rng.random_range(0..most));
    let names: Vec<String> = (0..rng.random_range(0..200)).map(|number| format!("S{number}")).collect();
    let filters = [
        json!({}),
        json!({ "symbols": names, "patterns": names, "kinds": ["pattern", "market", "alert"] }),
        json!({ "rooms": names, "tags": names, "min_confidence": rng.random::<f64>() * 3.0 }),
        json!({ "data": { text(rng, 300): { "min": 1e308, "max": -1 }, "a.b.c.d.e.f": { "in": names } } }),
        json!({ "symbols": "AAPL", "unknown": [[[[[[[[]]]]]]]] }),
        json!({ "market_hours_only": 1, "min_priority": text(rng, 70_000) }),
    ];
    let filter = filters.choose(rng).cloned().unwrap();
    let id = [json!(1), json!(-1), json!("id"), json!(text(rng, 2_000)), json!(null), json!([1])].choose(rng).cloned();
    let position =
        ["", "x", "1.AAEC", "ARhj8jeTtx4ABNRRAAwDAA", "AQAAAAAAAAABIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"];
    let position = position.choose(rng).unwrap();
    let since = [json!("5m"), json!("-5m"), json!("99999999999d"), json!("2026-01-01T00:00:00Z"), json!(position)];
    let since = since.choose(rng).cloned().unwrap();
    let actions = [
        json!({ "action": "subscribe", "id": id, "name": text(rng, 100), "filter": filter }),
        json!({ "action": "subscribe", "id": id, "name": "a", "filter": filter, "since": since }),
        json!({ "action": "subscribe", "name": "a", "filter": {}, "window_ms": rng.random_range(-10..5_000) }),
        json!({ "action": "unsubscribe", "id": id, "name": "*" }),
        json!({ "action": "list", "id": id }),
        json!({ "action": "ping", "id": id }),
        json!({ "action": "auth", "token": text(rng, 5_000) }),
        json!({ "action": "resume", "id": id, "position": position, "subscriptions": { "a": { "filter": filter } } }),
        json!({ "action": "resume", "position": position, "seen": { "0": 1e300, "99999": 1 }, "subscriptions": {} }),
        json!({ "action": text(rng, 60_000) }),
        json!({ text(rng, 60_000): 1 }),
        json!([{ "action": "ping" }]),
    ];
    actions.choose(rng).cloned().unwrap()
}

/// A header block of a producer, readable or not.
pub(super) fn headers(rng: &mut StdRng) -> Vec<u8> {
    let known: [&[u8]; 20] = [
        b"NATS/1.0\r\nX: a\rb\r\n\r\n",
        b"NATS/1.0\r\nTrace Id: 1\r\n\r\n",
        b"NATS/1.0\r\nX: caf\xe9\r\n\r\n",
        b"NATS/1.0\r\nnothing\r\n\r\n",
        b"NATS/1.0 100\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\n\r\n",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 abc def\r\n\r\n",
        b"NATS/1.0 99999999999999999999\r\n\r\n",
        b"NATS/9.9\r\nX: 1\r\n\r\n",
        b"NATS/1.0\r\n: empty\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Subject: ev.1.tick\r\nNats-Num-Pending: 0\r\n\r\n",
        b"NATS/1.0\r\nX: 1\r\n  folded\r\n\r\n",
        b"NATS/1.0\nX: 1\n\n",
        b"\r\n",
        b"",
        b"NATS/1.0\r\n\x00\x00: \x00\r\n\r\n",
        b"NATS/1.0\r\nContent-Type: application/msgpack\r\nContent-Type: text/plain\r\n\r\n",
    ];
    let block = known.choose(rng).unwrap().to_vec();
    if rng.random_bool(0.3) { spoiled(rng, block) } else { block }
}
