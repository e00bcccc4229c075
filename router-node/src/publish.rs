//! Publishing over HTTP: an event that routers can read is stored through JetStream, as that of any producer. One that
//! would become a dead letter is refused with the reason.
//!
//! A failure here is no sign that NATS stores nothing: the node may lack the permission to publish events. So it is not
//! noted among the writes of the node.

use crate::decode::Decoder;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::event::decode::{MAX_PAYLOAD, RawMessage, decode};
use tickwire_core::event::{Kind, key};
use tickwire_core::ids::Seq;
use tickwire_core::trace::TraceContext;
use tickwire_node::api::shared::TOO_LARGE;
use tickwire_node::api::{
    Access, ApiRefusal, ApiRoutes, Caller, Endpoint, Input, JSON, Listener, Parameter, Place, field,
};
use tickwire_node::clock::timestamp_now;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;
use tracing::debug;

/// How long JetStream may take to store an event.
const DEADLINE: Duration = Duration::from_secs(5);

/// The header with the message id, in a request and in a message.
const MSG_ID: &str = "Nats-Msg-Id";

/// The headers with the trace context, in a request and in a message.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The longest state of a trace that is passed on, in bytes: the standard demands so much.
const MAX_TRACESTATE: usize = 512;

/// The longest message id, in bytes.
const MAX_MSG_ID: usize = 128;

/// Publishes an event.
pub(crate) static PUBLISH: Endpoint = Endpoint {
    method: "POST",
    path: "/v1/events",
    listener: Listener::Admin,
    access: Access::Reader,
    summary: "Publishes an event; the body is its payload, as docs/producers.md describes it",
    input: Input {
        parameters: &[
            Parameter { place: Place::Query, name: "kind", is_required: true, meaning: "The kind" },
            Parameter { place: Place::Query, name: "key", is_required: true, meaning: "The key, not encoded" },
            Parameter {
                place: Place::Header,
                name: MSG_ID,
                is_required: false,
                meaning: "Repeating it within two minutes is a duplicate; without it, one is drawn",
            },
            Parameter {
                place: Place::Header,
                name: TRACEPARENT,
                is_required: false,
                meaning: "The trace context of the event (W3C), which goes on with it; an invalid one is ignored",
            },
        ],
        media: &[JSON, "application/msgpack"],
    },
    status: 200,
    media: JSON,
    fields: &[
        field("stream", "string", "The stream that has stored it"),
        field("seq", "integer", "Its sequence, or that of the message that it repeats"),
        field("duplicate", "boolean", "Whether a message with this id was stored before"),
        field("msg_id", "string", "Its message id"),
    ],
    others: &[
        (400, "The query or the message id is not valid"),
        TOO_LARGE,
        (422, "It would become a dead letter; the code of the answer is the reason"),
        (503, "NATS has not acknowledged it; it may be stored or not"),
    ],
};

/// What the handler works with.
#[derive(Debug)]
pub(crate) struct PublishApi {
    pub(crate) nats: Nats,
    /// It has the name of the stream, and the kinds of this cluster.
    pub(crate) decoder: Arc<Decoder>,
}

/// What an event is about.
#[derive(Debug, Deserialize)]
struct EventAddress {
    kind: String,
    key: String,
}

/// Adds the endpoint to the admin server.
pub(crate) fn add_routes(routes: ApiRoutes, api: &Arc<PublishApi>) -> ApiRoutes {
    routes.add(&PUBLISH, post(publish).layer(DefaultBodyLimit::max(MAX_PAYLOAD)).with_state(Arc::clone(api)))
}

async fn publish(
    State(api): State<Arc<PublishApi>>,
    address: Result<Query<EventAddress>, QueryRejection>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiRefusal> {
    // Bytes that are not UTF-8 were replaced: the event would be of a key that nobody has named.
    let is_text = |Query(address): &Query<EventAddress>| !address.key.contains(char::REPLACEMENT_CHARACTER);
    let Some(Query(EventAddress { kind, key })) = address.ok().filter(is_text) else {
        let message =
            "the query must have kind and key, each once, in UTF-8 and percent-encoded: send ?kind=pattern&key=AAPL";
        return Err(ApiRefusal::bad_request("bad_query", message));
    };
    let msg_id = read_msg_id(&headers)?;
    let payload = body.map_err(|rejection| ApiRefusal::unreadable_body(&rejection, MAX_PAYLOAD))?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let key = key::encode(&key);
    if key.len() > key::MAX_SENT {
        let message = format!("the key has {} bytes when encoded, the limit is {}", key.len(), key::MAX_SENT);
        return Err(ApiRefusal::bad_request("bad_query", message));
    }
    let raw = RawMessage {
        kind_token: &kind,
        key_token: &key,
        content_type,
        msg_id: Some(&msg_id),
        payload: &payload,
        stream: &api.decoder.stream,
        seq: Seq(0),
        stored: timestamp_now(),
    };
    // A kind that the cluster takes is one token of a subject, and so is an encoded key.
    decode(&raw, &api.decoder.kinds).map_err(|refusal| {
        let message = format!("routers would store it as a dead letter: {}", refusal.detail);
        ApiRefusal::new(StatusCode::UNPROCESSABLE_ENTITY, refusal.reason.as_str(), message)
    })?;
    let subject = names::source(&kind, &key);
    let mut message = PublishMessage::build().payload(payload).message_id(&msg_id).expected_stream(&api.decoder.stream);
    if let Some(content_type) = content_type {
        message = message.header("Content-Type", content_type);
    }
    for (name, value) in trace_headers(&headers) {
        message = message.header(name, value);
    }
    let PublishAck { stream, sequence, duplicate, .. } = store(&api.nats, subject.clone(), message)
        .await
        .map_err(|error| ApiRefusal::later("not_acknowledged", not_acknowledged(&error, &msg_id)))?;
    debug!(subject, seq = sequence, duplicate, by = %caller, "event published over HTTP");
    Ok(Json(json!({ "stream": stream, "seq": sequence, "duplicate": duplicate, "msg_id": msg_id })))
}

/// Publishes a message, and waits for the acknowledgement.
async fn store(nats: &Nats, subject: String, message: PublishMessage) -> Result<PublishAck, PublishError> {
    let stored = async { nats.jetstream.send_publish(subject, message).await?.await };
    let late = |_| Err(PublishError::new(PublishErrorKind::TimedOut));
    timeout(DEADLINE, stored).await.unwrap_or_else(late)
}

fn not_acknowledged(error: &PublishError, msg_id: &str) -> String {
    format!("NATS has not acknowledged it: {error}; it may be stored or not: send it again with {MSG_ID}: {msg_id}")
}

/// The headers of a valid trace context, for the message. Its state goes along if it is not too long.
fn trace_headers(headers: &HeaderMap) -> Vec<(&'static str, &str)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let Some(context) = text(TRACEPARENT).filter(|text| TraceContext::parse(text).is_some()) else { return Vec::new() };
    let state = text(TRACESTATE).filter(|state| (1..=MAX_TRACESTATE).contains(&state.len()));
    [(TRACEPARENT, context)].into_iter().chain(state.map(|state| (TRACESTATE, state))).collect()
}

/// The message id of a request, or a new one.
fn read_msg_id(headers: &HeaderMap) -> Result<String, ApiRefusal> {
    let Some(value) = headers.get(MSG_ID) else { return Ok(format!("http-{:016x}", rand::random::<u64>())) };
    let text = value.to_str().ok().map(str::trim).filter(|text| (1..=MAX_MSG_ID).contains(&text.len()));
    let Some(text) = text else {
        let message = format!("{MSG_ID} must be 1 to {MAX_MSG_ID} bytes of visible ASCII");
        return Err(ApiRefusal::bad_request("bad_msg_id", message));
    };
    // The stream would take the alert for a repetition of this event.
    let of_alerts = names::source(Kind::Alert.as_str(), "");
    if text.starts_with(&of_alerts) {
        let message =
            format!("{MSG_ID} must not begin with {of_alerts}, as those of POST /v1/alerts do: send another one");
        return Err(ApiRefusal::bad_request("bad_msg_id", message));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn read(msg_id: &str) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("nats-msg-id"), HeaderValue::from_bytes(msg_id.as_bytes()).unwrap());
        read_msg_id(&headers).map_err(|refusal| refusal.code())
    }

    #[test]
    fn only_a_valid_trace_context_goes_on() {
        let sent = |context: &str, state: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in [(TRACEPARENT, context), (TRACESTATE, state)] {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
            trace_headers(&headers).into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let expected = format!("traceparent: {context}");
        assert_eq!(sent(context, "vendor=1"), [expected.as_str(), "tracestate: vendor=1"]);
        assert_eq!(sent(context, &"x".repeat(MAX_TRACESTATE + 1)), [expected.as_str()]);
        assert!(sent("00-0-0-01", "vendor=1").is_empty());
        assert!(trace_headers(&HeaderMap::new()).is_empty());
    }

    #[test]
    fn message_id_is_that_of_the_request_or_a_new_one() {
        assert_eq!(read("scanner-1:AAPL:7"), Ok("scanner-1:AAPL:7".to_owned()));
        for wrong in ["", "ä", "events.alert.ann:margin-2", &"x".repeat(MAX_MSG_ID + 1)] {
            assert_eq!(read(wrong), Err("bad_msg_id"), "{wrong:?}");
        }
        let drawn = [(); 2].map(|()| read_msg_id(&HeaderMap::new()).unwrap());
        assert!(drawn[0] != drawn[1] && drawn.iter().all(|id| id.starts_with("http-")), "{drawn:?}");
    }
}
