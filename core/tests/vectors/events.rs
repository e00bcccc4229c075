//! Vectors of messages, with the events or dead letters that they give.

use serde::Deserialize;
use serde_json::{Value, json};
use tickwire_core::event::decode::{RawMessage, decode};
use tickwire_core::event::key;
use tickwire_core::event::{Audience, Event, Timestamp};
use tickwire_core::ids::Seq;

use crate::read::{from_hex, kinds, vectors};

#[derive(Deserialize)]
struct Events {
    stream: String,
    seq: Seq,
    stored: String,
    cases: Vec<EventCase>,
}

#[derive(Deserialize)]
pub(crate) struct EventCase {
    pub(crate) name: String,
    kind: String,
    key: Option<String>,
    key_token: Option<String>,
    content_type: Option<String>,
    msg_id: Option<String>,
    payload: Option<Value>,
    payload_text: Option<String>,
    payload_hex: Option<String>,
    payload_size: Option<usize>,
    event: Option<Value>,
    reason: Option<String>,
    /// A text that the error's detail contains.
    detail: Option<String>,
}

impl EventCase {
    fn payload(&self) -> Vec<u8> {
        match (&self.payload, &self.payload_text, &self.payload_hex, self.payload_size) {
            (Some(value), None, None, None) => serde_json::to_vec(value).unwrap(),
            (None, Some(text), None, None) => text.clone().into_bytes(),
            (None, None, Some(hex), None) => from_hex(hex),
            (None, None, None, Some(size)) => {
                let frame = r#"{"pad":""}"#;
                frame.replace("\"\"", &format!("\"{}\"", "x".repeat(size - frame.len()))).into_bytes()
            }
            _ => panic!("{}: exactly one payload is needed", self.name),
        }
    }
}

/// An event in the form of the vectors.
fn shown(event: &Event) -> Value {
    let mut shown = json!({
        "kind": event.kind, "key": event.key, "id": event.id, "ts": event.ts.to_string(), "priority": event.priority,
        "tags": event.tags, "data": event.data,
        "audience": match &event.audience {
            Audience::Public => json!("public"),
            Audience::User(user) => json!({ "user": user }),
        },
    });
    let mut optional = |name: &str, value: Value| {
        if !value.is_null() {
            shown[name] = value;
        }
    };
    optional("session", json!(event.session));
    optional("symbol", json!(event.symbol));
    optional("pattern", json!(event.pattern));
    optional("tier", json!(event.tier));
    optional("confidence", json!(event.confidence));
    optional("regime", json!(event.regime));
    optional("rooms", if event.rooms.is_empty() { Value::Null } else { json!(event.rooms) });
    shown
}

#[test]
fn messages_become_events_or_dead_letters_as_documented() {
    let events: Events = vectors("events.json");
    let stored: Timestamp = events.stored.parse().unwrap();
    for case in events.cases {
        let payload = case.payload();
        let key_token = case.key_token.clone().unwrap_or_else(|| key::encode(case.key.as_ref().unwrap()).to_string());
        let raw = RawMessage {
            kind_token: &case.kind,
            key_token: &key_token,
            content_type: case.content_type.as_deref(),
            msg_id: case.msg_id.as_deref(),
            payload: &payload,
            stream: &events.stream,
            seq: events.seq,
            stored,
        };
        match (decode(&raw, &kinds()), &case.event, &case.reason) {
            (Ok(event), Some(expected), None) => {
                assert_eq!(shown(&event), *expected, "{}", case.name);
                assert_eq!(event.stored, stored, "{}", case.name);
            }
            (Err(refusal), None, Some(reason)) => {
                assert_eq!(refusal.reason.as_str(), reason, "{}: {refusal}", case.name);
                let expected = case.detail.as_deref().unwrap_or_default();
                assert!(refusal.detail.contains(expected), "{}: {refusal}", case.name);
            }
            (Ok(_), None, None) => assert!(case.payload_size.is_some(), "{}", case.name),
            (found, ..) => panic!("{}: {found:?}", case.name),
        }
    }
}

/// The event of a case that is expected to decode.
pub(crate) fn decoded(case: &EventCase) -> Event {
    let raw = RawMessage {
        kind_token: &case.kind,
        key_token: &key::encode(case.key.as_ref().unwrap()),
        content_type: None,
        msg_id: case.msg_id.as_deref(),
        payload: &case.payload(),
        stream: "EVENTS",
        seq: Seq(10452),
        stored: "2025-09-10T14:30:01Z".parse().unwrap(),
    };
    decode(&raw, &kinds()).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}
