//! What messages are read as, live and again.

use super::*;
use crate::reader::MessageHeaders;
use serde_json::{Value, json};
use std::sync::Arc;
use tickwire_core::event::{Handling, Priority, Strategy, Timestamp};
use tickwire_core::ids::EpochId;
use tickwire_core::rules::{RuleRevision, RuleSet};

/// A decoder with these rules.
fn decoder_with(rules: &Value) -> Decoder {
    let (set, skipped) = RuleSet::compile(RuleRevision(7), rules.as_array().unwrap(), &Kinds::default());
    assert_eq!(skipped, []);
    Decoder {
        stream: "EVENTS".to_owned(),
        kinds: Kinds::default(),
        rules: ActiveRules::fixed(Arc::new(set)),
        surroundings: SharedSurroundings::default(),
        last_events: LastEvents::default(),
        traces: Traces::default(),
    }
}

/// The rules of an owner that has read nothing yet.
fn live_rules() -> LiveRules {
    LiveRules::new(100_000)
}

/// Reads a message as the owner of its partition does that knows nothing yet.
fn live(decoder: &Decoder, message: &StreamMessage) -> Result<Decoded<LiveForm>, Undecodable> {
    decoder.read_live(message, &mut PartitionContext::new(EpochId(1)), &mut live_rules())
}

fn held(subject: &[u8], headers: &[u8]) -> StreamMessage {
    StreamMessage {
        seq: Seq(7),
        stored: Timestamp(0),
        subject: Bytes::copy_from_slice(subject),
        headers: MessageHeaders::Whole(Bytes::copy_from_slice(headers)),
        payload: Bytes::from_static(br#"{"pattern":"Doji"}"#),
    }
}

#[test]
fn live_and_repeated_reading_refuse_the_same_messages() {
    let decoder = decoder_with(&json!([]));
    let subject = b"ev.3.pattern.AAPL";
    let cases: [(&[u8], &[u8], Option<Reason>); 7] = [
        (subject, b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n", None),
        (subject, b"NATS/1.0 408\r\n\r\n", Some(Reason::BadHeaders)),
        (subject, b"NATS/1.0\r\nX: a\rb\r\n\r\n", Some(Reason::BadHeaders)),
        (b"ev.3.pattern.\xff", b"NATS/1.0\r\n\r\n", Some(Reason::BadSubject)),
        (b"events.a\rb", b"", Some(Reason::BadSubject)),
        ("ev.3.pattern.A\u{a0}B".as_bytes(), b"NATS/1.0\r\n\r\n", Some(Reason::BadKey)),
        (b"ev.3.tick", b"", Some(Reason::BadSubject)),
    ];
    for (subject, headers, expected) in cases {
        let message = held(subject, headers);
        let reason = |refusal: Undecodable| refusal.reason;
        assert_eq!(live(&decoder, &message).err().map(reason), expected, "{}", headers.escape_ascii());
        assert_eq!(decoder.read(&message).err().map(reason), expected);
    }
}

#[test]
fn live_event_holds_its_data_only_in_its_wire_form() {
    let decoder = decoder_with(&json!([]));
    let message = StreamMessage {
        payload: Bytes::from_static(br#"{"pattern":"Doji","lists":[[],[],[]]}"#),
        ..held(b"ev.3.pattern.A", b"")
    };
    let Ok(Decoded::Event(event, LiveForm { wire, .. })) = live(&decoder, &message) else { panic!("it is an event") };
    assert!(event.data.is_empty());
    let whole: Event = rmp_serde::from_slice(&wire).unwrap();
    assert_eq!(whole.data["lists"], serde_json::json!([[], [], []]));
    assert_eq!(*event, Event { data: Map::new(), ..whole });
}

#[test]
fn only_an_empty_message_is_a_heartbeat() {
    let decoder = decoder_with(&json!([]));
    let heartbeat = StreamMessage { headers: MessageHeaders::None, payload: Bytes::new(), ..held(b"ev.3.tick", b"") };
    assert!(matches!(live(&decoder, &heartbeat), Ok(Decoded::Heartbeat)));
    let named = StreamMessage {
        headers: MessageHeaders::Whole(Bytes::from_static(b"NATS/1.0\r\nA: b\r\n\r\n")),
        ..heartbeat.clone()
    };
    let filled = StreamMessage { payload: Bytes::from_static(b"{}"), ..heartbeat };
    for mistake in [named, filled] {
        assert_eq!(live(&decoder, &mistake).err().map(|refusal| refusal.reason), Some(Reason::BadSubject));
    }
}

#[test]
fn refusal_text_is_short_for_any_message() {
    let decoder = decoder_with(&json!([]));
    let long = |byte: u8| [b"events.a.b.", &vec![byte; 60_000][..]].concat();
    let header = [b"NATS/1.0\r\n", &vec![b'\xff'; 60_000][..], b": 1\r\n\r\n"].concat();
    let status = [b"NATS/1.0 ", &vec![b'\xff'; 60_000][..], b"\r\n\r\n"].concat();
    let cases = [(long(b'x'), &b""[..]), (long(b'\xff'), b""), (b"ev.3.pattern.A".to_vec(), &header[..])];
    for (subject, headers) in cases.into_iter().chain([(b"ev.3.pattern.A".to_vec(), &status[..])]) {
        let detail = live(&decoder, &held(&subject, headers)).unwrap_err().detail;
        assert!(detail.len() < 1_000, "{} bytes: {}", detail.len(), &detail[..80]);
    }
}

#[test]
fn live_and_replayed_events_have_the_same_bytes_under_one_revision() {
    let decoder = decoder_with(&json!([
        { "id": "a", "when": { "kind": "pattern" }, "set_priority": "critical", "add_tags": ["hot"], "ttl_ms": 500 },
        { "id": "b", "order": 1, "strategy": "load_balanced", "rooms": ["x", "y", "z"] },
        { "id": "c", "order": 2, "transform": { "rename": { "data.px": "data.price" }, "set": { "data.desk": "one" } } },
    ]));
    let message = StreamMessage {
        payload: Bytes::from_static(br#"{"pattern":"Doji","px":1.5,"rooms":["own"]}"#),
        ..held(b"ev.3.pattern.A", b"")
    };
    let Ok(Decoded::Event(live, LiveForm { wire, .. })) = live(&decoder, &message) else { panic!("it is an event") };
    let Ok(Decoded::Event(again, ())) = decoder.read(&message) else { panic!("it is an event") };
    assert_eq!(to_wire(&again).unwrap(), wire);
    assert_eq!((live.priority, again.priority), (Priority::Critical, Priority::Critical));
    assert_eq!((&live.rooms, live.rooms.len()), (&again.rooms, 2));
    assert!(again.tags.iter().any(|tag| tag == "hot"));
    assert_eq!((&again.data["price"], &again.data["desk"], again.data.len()), (&json!(1.5), &json!("one"), 2));
    let handling = Handling { strategy: Strategy::LoadBalanced, rooms: vec![], ttl_ms: Some(500) };
    assert_eq!((live.handling.as_deref(), again.handling.as_deref()), (Some(&handling), Some(&handling)));
    // Only the first reading is counted.
    let counted = [("a", 1_u64), ("b", 1), ("c", 1)].map(|(id, count)| (id.to_owned(), count));
    assert_eq!(decoder.rules.matched(), counted);
}

#[test]
fn context_is_that_of_the_event_as_it_was_published() {
    let decoder = decoder_with(&json!([{ "id": "a", "transform": { "drop": ["data.volume"] } }]));
    let (mut partition, mut rules) = (PartitionContext::new(EpochId(1)), live_rules());
    let message = |seq, volume: u32| {
        let payload = json!({ "pattern": "Doji", "volume": volume }).to_string();
        StreamMessage { seq: Seq(seq), payload: payload.into(), ..held(b"ev.3.pattern.A", b"") }
    };
    let mut read = |message: &StreamMessage| {
        let Ok(Decoded::Event(_, LiveForm { wire, .. })) = decoder.read_live(message, &mut partition, &mut rules)
        else {
            panic!()
        };
        let event: Event = rmp_serde::from_slice(&wire).unwrap();
        assert!(event.data.is_empty());
        event.context.and_then(|context| context.relative_volume)
    };
    assert_eq!([read(&message(7, 100)), read(&message(8, 250))], [None, Some(2.5)]);
    let Ok(Decoded::Event(again, ())) = decoder.read(&message(8, 250)) else { panic!() };
    let context = again.context.as_deref().unwrap();
    assert_eq!((context.relative_volume, context.session), (None, again.session));
    let published = decoder.published(&message(8, 250)).unwrap().unwrap();
    assert_eq!((&published.data["volume"], published.context), (&json!(250), None));
}

#[test]
fn dropped_and_sampled_out_events_are_no_dead_letters() {
    let decoder = decoder_with(&json!([
        { "id": "drop", "when": { "type": "Doji" }, "drop": true },
        { "id": "sample", "when": { "type": "Hammer" }, "sample": 0.000001 },
    ]));
    for (pattern, is_kept) in [("Doji", false), ("Hammer", false), ("Breakout", true)] {
        let payload = json!({ "pattern": pattern }).to_string();
        let message = StreamMessage { payload: payload.into(), ..held(b"ev.3.pattern.A", b"") };
        let (live, again) = (live(&decoder, &message), decoder.read(&message));
        assert_eq!(matches!(live, Ok(Decoded::Event(..))), is_kept, "{pattern}");
        assert_eq!(matches!(live, Ok(Decoded::Dropped)), !is_kept, "{pattern}");
        assert_eq!(matches!(again, Ok(Decoded::Dropped)), !is_kept, "{pattern}");
    }
}

#[test]
fn event_that_a_transform_makes_too_large_goes_without_it() {
    let constant = "x".repeat(250);
    let rule = |number: usize| {
        let set: Map<String, Value> = (0..32).map(|i| (format!("data.f{number}-{i}"), json!(constant))).collect();
        json!({ "id": format!("r{number}"), "set_priority": "high", "transform": { "set": set } })
    };
    let decoder = decoder_with(&(0..28).map(rule).collect());
    // A number of three bytes in JSON takes nine in MessagePack.
    let floats = vec![0.5; 50_000];
    let message = |floats: &[f64]| {
        let payload = json!({ "pattern": "Doji", "floats": floats }).to_string();
        StreamMessage { payload: payload.into(), ..held(b"ev.3.pattern.A", b"") }
    };
    for (count, fields) in [(10, 1 + 28 * 32), (50_000, 1)] {
        let message = message(&floats[..count]);
        let Ok(Decoded::Event(live, LiveForm { wire, .. })) = live(&decoder, &message) else {
            panic!("it is an event")
        };
        let Ok(Decoded::Event(again, ())) = decoder.read(&message) else { panic!("it is an event") };
        assert_eq!((again.data.len(), live.priority), (fields, Priority::High));
        assert_eq!(to_wire(&again).unwrap(), wire);
    }
}

#[test]
fn panic_of_the_decoder_makes_a_dead_letter() {
    let refusal = catch_panic::<()>(|| panic!("on purpose")).unwrap_err();
    assert_eq!((refusal.reason, refusal.detail.as_str()), (Reason::Unreadable, "reading it failed: on purpose"));
}
