//! The request to send an alert. What routers would not read is refused, with the reason that a dead letter would have.

use axum::http::StatusCode;
use serde_json::Value;
use tickwire_core::event::decode::{MAX_ID, RawMessage, Reason, decode, own_id};
use tickwire_core::event::object::{self, Object};
use tickwire_core::event::{Kind, Kinds, Priority, Timestamp, key};
use tickwire_core::ids::{Seq, UserId};
use tickwire_node::api::ApiRefusal;
use tickwire_node::names::{self, StoredSubject};
use tickwire_node::stored::StoredMessage;

/// An alert to publish.
#[derive(Debug, PartialEq)]
pub(crate) struct NewAlert {
    /// Whom it is for.
    pub(crate) user: UserId,
    /// The id that clients see.
    pub(crate) id: String,
    /// How urgent it is: as the sender says, else by its confidence.
    pub(crate) priority: Priority,
    /// Where it is published.
    pub(crate) subject: String,
    /// The id by which the stream recognises a repetition.
    pub(crate) msg_id: String,
    /// The event as JSON.
    pub(crate) payload: Vec<u8>,
}

impl NewAlert {
    /// Reads a request: an object with `user`, and the fields of an event of kind `alert`. An alert without an
    /// `alert_id` gets `drawn_id`.
    pub(crate) fn read(
        body: &[u8],
        kinds: &Kinds,
        stream: &str,
        now: Timestamp,
        drawn_id: &str,
    ) -> Result<Self, ApiRefusal> {
        let mut alert =
            object::from_json(body).map_err(|error| ApiRefusal::bad_request("bad_json", error.to_string()))?;
        let user = take_user(&mut alert)?;
        let alert_id = alert_id(&alert)?.unwrap_or(drawn_id).to_owned();
        alert.insert("alert_id".to_owned(), Value::from(alert_id.as_str()));
        if own_id(&alert).is_none() {
            alert.insert("id".to_owned(), Value::from(alert_id.as_str()));
        }
        let token = key::encode(user.as_str());
        let subject = names::source(Kind::Alert.as_str(), &token);
        let msg_id = format!("{subject}:{}", key::encode(&alert_id));
        let payload =
            serde_json::to_vec(&alert).map_err(|error| ApiRefusal::bad_request("bad_json", error.to_string()))?;
        let message = RawMessage {
            kind_token: Kind::Alert.as_str(),
            key_token: &token,
            content_type: None,
            msg_id: Some(&msg_id),
            payload: &payload,
            stream,
            seq: Seq(0),
            stored: now,
        };
        let event = decode(&message, kinds).map_err(|error| {
            let status = match error.reason {
                Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            ApiRefusal::new(status, error.reason.as_str(), error.detail)
        })?;
        Ok(Self { user, id: event.id.to_string(), priority: event.priority, subject, msg_id, payload })
    }

    /// The id and the priority of the alert in a message that has its message id; `None` if the message is none of its
    /// user, or one that routers cannot read.
    pub(crate) fn seen_in(&self, message: &StoredMessage, kinds: &Kinds, stream: &str) -> Option<(String, Priority)> {
        let StoredSubject::Event { kind, key, .. } = names::parse_stored(&message.subject) else { return None };
        if names::source(kind, key) != self.subject {
            return None;
        }
        let raw = RawMessage {
            kind_token: kind,
            key_token: key,
            content_type: None,
            msg_id: Some(&self.msg_id),
            payload: &message.payload,
            stream,
            seq: message.seq,
            stored: Timestamp(message.stored),
        };
        let event = decode(&raw, kinds).ok()?;
        Some((event.id.to_string(), event.priority))
    }
}

fn take_user(alert: &mut Object) -> Result<UserId, ApiRefusal> {
    let user = match alert.remove("user") {
        Some(Value::String(user)) => UserId::new(&user).map_err(|error| error.to_string()),
        Some(_) => Err("it must be text".to_owned()),
        None => Err("it is missing".to_owned()),
    };
    user.map_err(|reason| ApiRefusal::bad_request("bad_user", format!("`user` is not valid: {reason}")))
}

/// The id of the sender, if there is one.
fn alert_id(alert: &Object) -> Result<Option<&str>, ApiRefusal> {
    match alert.get("alert_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if (1..=MAX_ID).contains(&id.len()) => Ok(Some(id)),
        Some(_) => {
            let message = format!("`alert_id` must be text of 1 to {MAX_ID} bytes");
            Err(ApiRefusal::bad_request("bad_alert_id", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<NewAlert, &'static str> {
        let read = NewAlert::read(body.to_string().as_bytes(), &Kinds::default(), "EVENTS", Timestamp(1_000), "drawn");
        read.map_err(|refusal| refusal.code())
    }

    fn published(alert: &NewAlert) -> Value {
        serde_json::from_slice(&alert.payload).unwrap()
    }

    #[test]
    fn request_becomes_an_event_of_its_user() {
        let body = json!({ "user": "bob@x.com", "priority": "Critical", "alert_id": "a 1", "message": "Margin call" });
        let alert = read(&body).unwrap();
        assert_eq!((alert.user.as_str(), alert.id.as_str(), alert.priority), ("bob@x.com", "a 1", Priority::Critical));
        assert_eq!(alert.subject, "events.alert.bob=40x=2Ecom");
        assert_eq!(alert.msg_id, "events.alert.bob=40x=2Ecom:a=201");
        let expected = json!({ "id": "a 1", "alert_id": "a 1", "priority": "Critical", "message": "Margin call" });
        assert_eq!(published(&alert), expected);
    }

    #[test]
    fn alert_without_an_id_gets_a_drawn_one_and_keeps_its_event_id() {
        let alert = read(&json!({ "user": "ann" })).unwrap();
        assert_eq!((alert.id.as_str(), alert.priority), ("drawn", Priority::Low));
        assert_eq!(alert.msg_id, "events.alert.ann:drawn");
        let alert = read(&json!({ "user": "ann", "event_id": 7, "alert_id": null })).unwrap();
        assert_eq!((alert.id.as_str(), published(&alert)), ("7", json!({ "event_id": 7, "alert_id": "drawn" })));
    }

    #[test]
    fn repetition_is_only_what_its_user_can_get() {
        let alert = read(&json!({ "user": "ann", "alert_id": "margin-2", "priority": "critical" })).unwrap();
        let seen = |subject: &str, payload: &[u8]| {
            let subject = subject.to_owned();
            let message = StoredMessage { seq: Seq(33), subject, stored: 1_000, payload: payload.to_vec() };
            alert.seen_in(&message, &Kinds::default(), "EVENTS")
        };
        let own = Some(("margin-2".to_owned(), Priority::Critical));
        assert_eq!(seen("ev.20.alert.ann", &alert.payload), own);
        let other = Some(("margin-1".to_owned(), Priority::Low));
        assert_eq!(seen("ev.20.alert.ann", br#"{"id":"margin-1"}"#), other, "what is stored, not what was sent");
        for foreign in ["ev.20.pattern.ZZZ", "ev.20.pattern.ann", "ev.20.alert.bob", "dead.alert.ann", "x"] {
            assert_eq!(seen(foreign, &alert.payload), None, "{foreign}");
        }
        assert_eq!(seen("ev.20.alert.ann", b"[]"), None, "a dead letter");
    }

    #[test]
    fn confidence_decides_the_priority_unless_the_sender_does() {
        let event = json!({ "symbol": "AAPL", "pattern": "BreakoutBO", "confidence": 0.92 });
        assert_eq!(read(&json!({ "user": "ann", "event": event })).unwrap().priority, Priority::Critical);
        let low = json!({ "user": "ann", "event": event, "priority": "low" });
        assert_eq!(read(&low).unwrap().priority, Priority::Low);
    }

    #[test]
    fn wrong_requests_are_refused_with_the_reason() {
        for (body, code) in [
            (json!([]), "bad_json"),
            (json!({}), "bad_user"),
            (json!({ "user": 7 }), "bad_user"),
            (json!({ "user": "" }), "bad_user"),
            (json!({ "user": "x".repeat(129) }), "bad_user"),
            (json!({ "user": "ann", "alert_id": 7 }), "bad_alert_id"),
            (json!({ "user": "ann", "alert_id": "" }), "bad_alert_id"),
            (json!({ "user": "ann", "priority": "urgent" }), "bad_priority"),
            (json!({ "user": "ann", "confidence": 1.5 }), "bad_confidence"),
            (json!({ "user": "ann", "tags": "x" }), "bad_tags"),
            (json!({ "user": "ann", "message": "x".repeat(300_000) }), "too_large"),
        ] {
            assert_eq!(read(&body), Err(code), "{body:.80}");
            let refused =
                NewAlert::read(body.to_string().as_bytes(), &Kinds::default(), "EVENTS", Timestamp(1_000), "d");
            let status = if code == "too_large" { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
            assert_eq!(refused.unwrap_err().into_response().status(), status, "{body:.80}");
        }
    }
}
