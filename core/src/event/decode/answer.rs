//! Recognises what NATS itself has published on the subject of an event. Whoever publishes or asks JetStream names the
//! subject of the answer, and the server checks no permission for that. So a producer could send an acknowledgement to
//! a user as an alert, without being allowed to send alerts.

use serde_json::Value;

use crate::event::object::Object;

/// All fields of an acknowledgement.
const FIELDS: [&str; 8] = ["stream", "seq", "domain", "duplicate", "error", "val", "batch", "count"];

/// What the names of the streams of buckets begin with.
const BUCKETS: &str = "KV_";

/// What the types of answers to requests begin with.
const TYPES: &str = "io.nats.jetstream.api.";

/// Whether the payload is an acknowledgement of this stream or of a bucket, or the answer to a request to JetStream.
pub(super) fn is_of_nats(payload: &Object, stream: &str) -> bool {
    let text = |name: &str| payload.get(name).and_then(Value::as_str);
    let is_acknowledgement = text("stream").is_some_and(|name| name == stream || name.starts_with(BUCKETS))
        && payload.get("seq").is_some_and(Value::is_u64)
        && payload.keys().all(|name| FIELDS.contains(&name.as_str()));
    is_acknowledgement || text("type").is_some_and(|name| name.starts_with(TYPES))
}
