//! Spans as the OpenTelemetry Protocol has them: the part of its messages that we send, with the numbers of their
//! fields, and the answer to them. Pure.

use super::span::{AttributeValue, Span, SpanKind};
use prost::Message;
use std::time::Duration;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::Role;

/// How much of a reason is kept, in characters.
const MAX_REASON: usize = 200;

/// The flags of a span: its parent is in the same trace and sampled.
const FLAGS: u32 = 1;

/// What all spans of a node share: the name of its service, of itself and of its version.
#[derive(Debug)]
pub(super) struct Resource(Vec<KeyValue>);

impl Resource {
    pub(super) fn of(role: Role, me: &NodeRef) -> Self {
        let text = |name: &str, text: String| KeyValue::new(name, &AttributeValue::Text(text));
        Self(vec![
            text("service.name", format!("tickwire-{}", role.as_str())),
            text("service.instance.id", me.id.as_str().to_owned()),
            text("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ])
    }
}

/// The body of a request with these spans.
pub(super) fn encode(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans {
        scope: Some(Scope { name: "tickwire".to_owned() }),
        spans: spans.iter().map(SpanMessage::of).collect(),
    }];
    let resource = Some(ResourceMessage { attributes: resource.0.clone() });
    Request { resource_spans: vec![ResourceSpans { resource, scope_spans }] }.encode_to_vec()
}

/// What the collector has refused of a request that it took.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// How many of the spans.
    pub(super) spans: u64,
    /// Why, in the words of the collector; empty if it does not say.
    pub(super) reason: String,
}

/// What the collector has refused, by its answer. An answer that cannot be read refuses nothing.
pub(super) fn refusal(answer: &[u8]) -> Refusal {
    let partial = Answer::decode(answer).ok().and_then(|answer| answer.partial_success).unwrap_or_default();
    let reason = String::from_utf8_lossy(&partial.error_message).chars().take(MAX_REASON).collect();
    Refusal { spans: u64::try_from(partial.rejected_spans).unwrap_or_default(), reason }
}

/// `ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceMessage {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

/// `Span`.
#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    /// A text. As bytes, so that one that is not UTF-8 does not hide the number.
    #[prost(bytes = "vec", tag = "2")]
    error_message: Vec<u8>,
}

impl KeyValue {
    fn new(key: &str, value: &AttributeValue) -> Self {
        let value = match value {
            AttributeValue::Text(text) => Value::Text(text.clone()),
            AttributeValue::Number(number) => Value::Number(*number),
        };
        Self { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
    }
}

impl SpanMessage {
    fn of(span: &Span) -> Self {
        let parent_span_id = match span.parent {
            0 => Vec::new(),
            parent => parent.to_be_bytes().to_vec(),
        };
        Self {
            trace_id: span.context.trace_id.to_be_bytes().to_vec(),
            span_id: span.context.span_id.to_be_bytes().to_vec(),
            parent_span_id,
            name: span.name.to_owned(),
            kind: match span.kind {
                SpanKind::Internal => 1,
                SpanKind::Producer => 4,
                SpanKind::Consumer => 5,
            },
            start_time_unix_nano: nanos(span.start),
            end_time_unix_nano: nanos(span.end),
            attributes: span.attributes.iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
            flags: FLAGS,
        }
    }
}

fn nanos(since_1970: Duration) -> u64 {
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::trace::TraceContext;

    #[test]
    fn request_has_these_bytes() {
        let me = NodeRef { id: NodeId::new("r1").unwrap(), nonce: Nonce(1) };
        let context = TraceContext { trace_id: 0x0102, span_id: 0x03, is_sampled: true };
        let times = (Duration::from_nanos(0x11), Duration::from_nanos(0x22));
        let span =
            Span::new("intake", SpanKind::Consumer, (context, context.at(0x04)), times).with("n", 5_u64).with("t", "x");
        let resource = Resource::of(Role::Router, &me);
        let bytes = encode(&resource, &[span]);
        assert!(bytes.starts_with(b"\x0a"), "{}", bytes.escape_ascii());
        // The fields of the span in their order: trace, span, parent, name, kind, times, attributes, flags.
        let mut span = Vec::new();
        span.extend(b"\x0a\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02");
        span.extend(b"\x12\x08\0\0\0\0\0\0\0\x03\x22\x08\0\0\0\0\0\0\0\x04\x2a\x06intake\x30\x05");
        span.extend(b"\x39\x11\0\0\0\0\0\0\0\x41\x22\0\0\0\0\0\0\0");
        span.extend(b"\x4a\x07\x0a\x01n\x12\x02\x18\x05\x4a\x08\x0a\x01t\x12\x03\x0a\x01x\x85\x01\x01\0\0\0");
        assert!(bytes.ends_with(&span), "{}", bytes.escape_ascii());
        let service = b"\x0a\x0cservice.name\x12\x11\x0a\x0ftickwire-router";
        assert!(bytes.windows(service.len()).any(|window| window == service), "{}", bytes.escape_ascii());
    }

    #[test]
    fn refused_spans_and_the_reason_are_read_from_the_answer() {
        let read = |answer: &[u8]| {
            let Refusal { spans, reason } = refusal(answer);
            (spans, reason)
        };
        assert_eq!(read(b""), (0, String::new()));
        assert_eq!(read(b"\x0a\x02\x08\x07"), (7, String::new()));
        assert_eq!(read(b"\x0a\x05\x08\x07\x12\x01x"), (7, "x".to_owned()));
        assert_eq!(read(b"\x0a\x05\x08\x07\x12\x01\xff"), (7, "\u{fffd}".to_owned()));
        assert_eq!(read(b"\xff not protobuf"), (0, String::new()));
        let message = PartialSuccess { rejected_spans: 1, error_message: "ä".repeat(10_000).into_bytes() };
        let long = Answer { partial_success: Some(message) }.encode_to_vec();
        assert_eq!(read(&long), (1, "ä".repeat(MAX_REASON)));
    }
}
