//! Decoders accept or refuse any input without a panic, and decode what was encoded to the same value.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use serde_json::{Value, json};
use tickwire_core::event::decode::{MAX_EVENT, MAX_PAYLOAD, RawMessage, Reason, decode};
use tickwire_core::event::key;
use tickwire_core::event::{
    Audience, Event, EventContext, Kind, Kinds, Priority, Regime, Tier, Timestamp, TradingSession, Volatility,
};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Confidence, Partition, Pattern, Room, Sector, Seq, Symbol};
use tickwire_core::protocol::{ClientFrame, Encoding, ReceivedEvent, ServerMessage, encode_event, write_array};
use tickwire_core::wire;

/// A valid position.
const POSITION: &str = "ARhj8jeTtx4ABNRRAAwDAA";

/// Any value of a few levels. Some of its fields have names that decoders know.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop::sample::select(vec!["daily", "bull", "low", "AAPL", "2025-09-10", "0.5"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![vec(inner.clone(), 0..4).prop_map(Value::from), object_of(inner).prop_map(Value::Object)]
    })
}

fn object_of(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = serde_json::Map<String, Value>> {
    let names = vec![
        "pattern",
        "symbol",
        "tier",
        "confidence",
        "timestamp",
        "priority",
        "id",
        "tags",
        "rooms",
        "regime",
        "event",
        "status",
        "risk_on_score",
        "etf_performance",
        "action",
        "name",
        "filter",
        "preset",
        "patterns",
        "window_ms",
        "token",
        "symbols",
        "kinds",
        "data",
        "eq",
        "in",
        "contains",
        "min",
        "x",
        // Names that a parser uses internally.
        "$serde_json::private::RawValue",
        "$serde_json::private::Number",
    ];
    vec((prop::sample::select(names).prop_map(str::to_owned), inner), 0..6)
        .prop_map(|fields| fields.into_iter().collect())
}

fn context() -> impl Strategy<Value = EventContext> {
    let number = || prop::option::of(-1e6..1e6);
    (
        prop::option::of(prop::sample::select(TradingSession::ALL)),
        prop::option::of(prop::sample::select(Regime::ALL)),
        prop::option::of(prop::sample::select(Volatility::ALL)),
        prop::option::of("\\PC{1,8}".prop_filter_map("not a sector", |text| Sector::new(&text).ok())),
        (number(), number()),
    )
        .prop_map(|(session, regime, volatility, sector, (relative_volume, sector_strength))| EventContext {
            session,
            regime,
            volatility,
            relative_volume,
            sector,
            sector_strength,
        })
}

fn event() -> impl Strategy<Value = Event> {
    let who = (
        prop::sample::select(vec!["pattern", "market", "health", "alert", "news"]),
        "\\PC{1,8}",
        prop::option::of("\\PC{1,8}".prop_filter_map("not a symbol", |text| Symbol::new(&text).ok())),
        prop::option::of("\\PC{1,16}".prop_filter_map("not a pattern", |text| Pattern::new(&text).ok())),
        "\\PC{1,16}",
        0..253_402_300_800_000_i64,
    );
    let what = (
        prop::option::of(prop::sample::select(Tier::ALL)),
        prop::option::of((0.0..=1.0).prop_filter_map("not a confidence", Confidence::new)),
        prop::sample::select(Priority::ALL),
        prop::option::of(prop::sample::select(Regime::ALL)),
        prop::option::of(prop::sample::select(TradingSession::ALL)),
        btree_set("\\PC{1,8}", 0..3),
        btree_set("\\PC{1,8}".prop_filter_map("not a room", |text| Room::new(&text).ok()), 0..3),
        object_of(value()),
        prop::option::of(context()),
    );
    (who, what).prop_map(
        |(
            (kind, key, symbol, pattern, id, ts),
            (tier, confidence, priority, regime, session, tags, rooms, data, context),
        )| {
            Event {
                kind: Kind::from(kind),
                key: key.into(),
                audience: Audience::Public,
                id: id.into(),
                ts: Timestamp(ts),
                stored: Timestamp(0),
                session,
                symbol,
                pattern,
                tier,
                confidence,
                priority,
                regime,
                tags: tags.into_iter().map(Into::into).collect(),
                data,
                rooms: rooms.into_iter().collect(),
                handling: None,
                context: context.map(Box::new),
            }
        },
    )
}

/// Malformed bytes with a plausible beginning: MessagePack headers with lengths but no data, deep nesting, extensions,
/// very long numbers.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let header = prop::sample::select(vec![
        &b"\xdf\xff\xff\xff\xff"[..],
        b"\x81\xa6action",
        b"\x82\xa1a\x01\xa1a",
        b"\xc9\xff\xff\xff\xff\xff",
        b"\xc7\x0c\xff",
        b"\xd6\xff",
        b"\xd7\xff",
        b"\xdb\x00\x01\x00\x00",
        b"{\"timestamp\":1e",
        b"{\"a\":{\"a\":",
        b"{\"action\":\"subscribe\",\"window_ms\":",
        b"{\"\\u0000\":\"\\ud800",
    ]);
    let repeated = prop_oneof![Just(0x91_u8), Just(0x81), Just(b'['), Just(b'9'), Just(b'"'), any::<u8>()];
    (header, repeated, 0..2_000_usize, vec(any::<u8>(), 0..40))
        .prop_map(|(header, byte, times, tail)| [header, &vec![byte; times], &tail].concat())
}

fn short(error: &str) -> Result<(), TestCaseError> {
    prop_assert!(error.len() < 1_000, "{} bytes: {error}", error.len());
    Ok(())
}

fn raw<'a>(kind: &'a str, key: &'a str, content_type: Option<&'a str>, payload: &'a [u8]) -> RawMessage<'a> {
    RawMessage {
        kind_token: kind,
        key_token: key,
        content_type,
        msg_id: None,
        payload,
        stream: "EVENTS",
        seq: Seq(1),
        stored: Timestamp(0),
    }
}

fn try_decode(kind: &str, key: &str, content_type: Option<&str>, payload: &[u8]) -> Option<Event> {
    decode(&raw(kind, key, content_type, payload), &Kinds::default()).ok()
}

/// A payload of the largest size: `before`, as many `item`s as fit, and `behind`.
fn filled(before: &[u8], item: &[u8], behind: &[u8]) -> Vec<u8> {
    let room = MAX_PAYLOAD - before.len() - behind.len();
    [before, &item.repeat(room / item.len()), behind].concat()
}

#[test]
fn event_too_large_for_messages_between_nodes_is_refused() {
    let names = format!("{{\"etf_performance\":{{\"{}\":1}}}}", "n".repeat(MAX_PAYLOAD - 100));
    let numbers = filled(b"{\"a\":[", b"1e9,", b"0]}");
    let mut times = filled(b"\x81\xa1a\xdd\0\0\0\0", b"\xd6\xff\x68\xc1\x8b\xa8", b"");
    let count = (times.len() - 8) as u32 / 6;
    times[4..8].copy_from_slice(&count.to_be_bytes());
    for (content_type, payload, is_accepted) in [
        (None, names.as_bytes(), true),
        (None, numbers.as_slice(), true),
        (Some("application/msgpack"), times.as_slice(), false),
    ] {
        match decode(&raw("market", "US", content_type, payload), &Kinds::default()) {
            Ok(event) => assert!(is_accepted && rmp_serde::to_vec(&event).unwrap().len() <= MAX_EVENT),
            Err(refusal) => {
                assert_eq!((refusal.reason, is_accepted), (Reason::TooLarge, false), "{refusal}");
                assert!(refusal.detail.contains("between nodes"), "{refusal}");
            }
        }
    }
}

proptest! {
    #[test]
    fn any_text_round_trips_as_one_token(key in any::<String>(), other in any::<String>()) {
        let token = key::encode(&key);
        prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=')));
        let back = key::decode(&token).ok();
        prop_assert_eq!(back.as_deref(), Some(key.as_str()).filter(|key| !key.is_empty()));
        prop_assert_eq!(token == key::encode(&other), key == other);
    }

    #[test]
    fn accepted_tokens_are_canonical(token in prop_oneof!["[A-C2=.E]{0,8}", any::<String>()]) {
        if let Ok(key) = key::decode(&token) {
            prop_assert_eq!(key::encode(&key), token);
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_without_a_panic(bytes in vec(any::<u8>(), 0..200), kind in 0..5usize) {
        let kind = &Kind::BUILT_IN[kind];
        for content_type in [None, Some("application/msgpack")] {
            try_decode(kind.as_str(), "AAPL", content_type, &bytes);
        }
        for encoding in Encoding::ALL {
            drop(ClientFrame::parse(&bytes, encoding));
            drop(ServerMessage::parse(&bytes, encoding));
        }
    }

    #[test]
    fn errors_are_short_for_any_input(
        bytes in hostile(),
        text in prop_oneof!["\\PC{0,4000}", any::<String>().prop_map(|text| text.repeat(100))],
        field in 0..10usize,
    ) {
        let object = match field {
            0 => json!({ "action": text }),
            1 => json!({ "action": "subscribe", text.as_str(): 1 }),
            2 => json!({ "action": "subscribe", "since": text, "name": text }),
            3 => json!({ "action": "resume", "position": text }),
            4 => json!({ "action": "resume", "position": POSITION, "seen": { text.as_str(): 1 } }),
            5 => json!({ "action": "resume", "position": POSITION, "subscriptions": { text.as_str(): [] } }),
            6 => json!({ "action": "ping", "id": text }),
            7 => json!({ "action": "subscribe", "preset": text }),
            8 => json!({ "action": "subscribe", "preset": "specific", "patterns": [text], "symbols": [text] }),
            _ => json!({ text.as_str(): text, "timestamp": text, "tier": text, "rooms": [text], "tags": text }),
        };
        let [json, msgpack] = [serde_json::to_vec(&object).unwrap(), rmp_serde::to_vec(&object).unwrap()];
        for (bytes, encoding) in [
            (&bytes, Encoding::Json),
            (&bytes, Encoding::MsgPack),
            (&json, Encoding::Json),
            (&msgpack, Encoding::MsgPack),
        ] {
            if let Err(error) = ClientFrame::parse(bytes, encoding) {
                short(&error.to_string())?;
            }
            let content_type = (encoding == Encoding::MsgPack).then_some("application/msgpack");
            for (kind, key) in [("pattern", "AAPL"), ("market", "US"), (text.as_str(), "AAPL"), ("pattern", &text)] {
                if let Err(refusal) = decode(&raw(kind, key, content_type, bytes), &Kinds::default()) {
                    short(&refusal.to_string())?;
                }
            }
        }
        let list = json!([text]);
        let conditions = json!({ "x": { text.as_str(): 1 }, text.as_str(): 1 });
        for filter in [
            json!({ text.as_str(): 1 }),
            json!({ "kinds": list }),
            json!({ "symbols": list }),
            json!({ "tiers": list }),
            json!({ "tags": list }),
            json!({ "min_priority": text }),
            json!({ "data": conditions }),
        ] {
            if let Err(error) = Filter::parse(&filter, &Kinds::default()) {
                short(&error.to_string())?;
            }
        }
    }

    #[test]
    fn both_encodings_of_an_object_decode_to_the_same(object in object_of(value()), kind in 0..5usize) {
        let kind = &Kind::BUILT_IN[kind];
        let (json, msgpack) = (serde_json::to_vec(&object).unwrap(), rmp_serde::to_vec(&object).unwrap());
        let event = try_decode(kind.as_str(), "AAPL", None, &json);
        prop_assert_eq!(&try_decode(kind.as_str(), "AAPL", Some("application/msgpack"), &msgpack), &event);
        if let Some(event) = event {
            prop_assert!(event.tags.is_sorted() && event.rooms.is_sorted());
            prop_assert!(!event.id.is_empty());
        }
        let frame = ClientFrame::parse(&json, Encoding::Json);
        prop_assert_eq!(ClientFrame::parse(&msgpack, Encoding::MsgPack).is_ok(), frame.is_ok());
        let object = Value::Object(object);
        if let Ok(filter) = Filter::parse(&object, &Kinds::default()) {
            prop_assert_eq!(Filter::parse(&json!(filter), &Kinds::default()), Ok(filter));
        }
    }

    #[test]
    fn event_between_nodes_is_unchanged(event in event()) {
        prop_assert_eq!(wire::decode::<Event>(&wire::encode(&event).unwrap()).unwrap(), event);
    }

    #[test]
    fn encoded_event_is_received_unchanged(event in event(), p in any::<u16>(), seq in any::<u64>()) {
        let expected = ServerMessage::Event(Box::new(ReceivedEvent {
            kind: event.kind.clone(),
            key: event.symbol.is_none().then(|| event.key.clone()),
            symbol: event.symbol.clone(),
            pattern: event.pattern.clone(),
            tier: event.tier,
            confidence: event.confidence,
            priority: event.priority,
            regime: event.regime,
            ts: event.ts,
            id: event.id.clone(),
            p: Partition(p),
            seq: Seq(seq),
            tags: event.tags.clone(),
            rooms: event.rooms.clone(),
            session: event.session,
            data: event.data.clone(),
            context: event.context.clone().filter(|context| !context.is_empty()),
            conflated: 0,
            subs: Vec::new(),
            again: false,
        }));
        for encoding in Encoding::ALL {
            let object = encode_event(&event, Partition(p), Seq(seq), encoding);
            let mut bytes = Vec::new();
            write_array(&mut bytes, [object.as_slice()].into_iter(), encoding);
            prop_assert_eq!(ServerMessage::parse(&bytes, encoding).unwrap(), [expected.clone()]);
        }
    }
}

/// Otherwise every gateway would refuse an event that a router accepted, together with its whole section.
#[test]
fn event_with_private_names_of_parsers_round_trips() {
    for text in [
        r#"{"pattern":"Doji","x":{"$serde_json::private::RawValue":"]]"}}"#,
        r#"{"pattern":"Doji","x":[{"a":1,"b":{"$serde_json::private::RawValue":1}}]}"#,
        r#"{"pattern":"Doji","$serde_json::private::RawValue":"]]"}"#,
        r#"{"pattern":"Doji","x":{"$serde_json::private::Number":"]]"}}"#,
    ] {
        let event = try_decode("pattern", "AAPL", None, text.as_bytes()).unwrap();
        assert!(text.ends_with(&serde_json::to_string(&event.data).unwrap()[1..]), "{text}: {:?}", event.data);
        let passed: Event = wire::decode(&wire::encode(&event).unwrap()).unwrap();
        assert_eq!(passed, event, "{text}");
        for encoding in Encoding::ALL {
            let object = encode_event(&event, Partition(1), Seq(2), encoding);
            let mut bytes = Vec::new();
            write_array(&mut bytes, [object.as_slice()].into_iter(), encoding);
            let received = ServerMessage::parse(&bytes, encoding).unwrap();
            let [ServerMessage::Event(received)] = &received[..] else { panic!("{received:?}") };
            assert_eq!(received.data, event.data, "{text}");
        }
    }
}
