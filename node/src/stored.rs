//! Single messages of a stream, read from the server that leads it.
//!
//! They arrive as JSON, so headers of a producer cannot break the parser. They are read from the leader, so they are
//! current at the time of the request, unlike the answer of a replica to a direct get.

use crate::names;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tickwire_core::ids::Seq;

/// Selects a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum MessageSelector<'s> {
    /// The one with this sequence.
    #[serde(rename = "seq")]
    At(u64),
    /// The last one of this subject.
    #[serde(rename = "last_by_subj")]
    LastOf(&'s str),
    /// The first one from this sequence on.
    #[serde(untagged)]
    From {
        /// The sequence.
        seq: u64,
        /// The subjects, as a pattern.
        next_by_subj: &'s str,
    },
    /// The first one from this time on.
    #[serde(untagged)]
    Since {
        /// The time, as RFC 3339.
        start_time: &'s str,
        /// The subjects, as a pattern.
        next_by_subj: &'s str,
    },
}

impl<'s> MessageSelector<'s> {
    /// The first message from `seq` on.
    pub fn from(seq: Seq) -> Self {
        Self::next_of(seq, names::ALL)
    }

    /// The first message of these subjects from `seq` on.
    pub fn next_of(seq: Seq, subjects: &'s str) -> Self {
        Self::From { seq: seq.0, next_by_subj: subjects }
    }

    /// The first message that was stored at this time, as RFC 3339, or later. A server that does not know such requests
    /// answers with the oldest message.
    pub fn since(time: &'s str) -> Self {
        Self::Since { start_time: time, next_by_subj: names::ALL }
    }
}

/// A message without its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its sequence.
    pub seq: Seq,
    /// The subject that it is stored under.
    pub subject: String,
    /// When the server stored it, in milliseconds since 1970.
    pub stored: i64,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A message could not be read.
#[derive(Debug, Error)]
#[error("cannot read a message of the stream {stream}: {reason}")]
pub struct GetError {
    stream: String,
    reason: String,
}

#[derive(Deserialize)]
struct GetAnswer {
    message: GetResult,
}

#[derive(Deserialize)]
struct GetResult {
    seq: u64,
    subject: String,
    #[serde(default)]
    data: String,
    time: Timestamp,
}

/// Gets a message; `None` if there is none.
///
/// # Errors
/// When the server does not answer within the request timeout, or refuses.
pub async fn get(
    context: &Context,
    stream: &str,
    wanted: MessageSelector<'_>,
) -> Result<Option<StoredMessage>, GetError> {
    let failed = |reason: String| GetError { stream: stream.to_owned(), reason };
    let answer = context.request(format!("STREAM.MSG.GET.{stream}"), &wanted).await;
    match answer.map_err(|error| failed(error.to_string()))? {
        Response::Ok(GetAnswer { message: GetResult { seq, subject, data, time } }) => {
            let payload = STANDARD.decode(data).map_err(|error| failed(error.to_string()))?;
            Ok(Some(StoredMessage { seq: Seq(seq), subject, stored: time.as_millisecond(), payload }))
        }
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Response::Err { error } => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_format_of_nats() {
        let json = |wanted: MessageSelector| serde_json::to_string(&wanted).unwrap();
        assert_eq!(json(MessageSelector::At(7)), r#"{"seq":7}"#);
        assert_eq!(json(MessageSelector::LastOf("$KV.B.k")), r#"{"last_by_subj":"$KV.B.k"}"#);
        assert_eq!(json(MessageSelector::from(Seq(7))), r#"{"seq":7,"next_by_subj":">"}"#);
        let since = MessageSelector::since("2026-11-23T14:30:00Z");
        assert_eq!(json(since), r#"{"start_time":"2026-11-23T14:30:00Z","next_by_subj":">"}"#);
        let next = MessageSelector::next_of(Seq(7), "$KV.B.a.>");
        assert_eq!(json(next), r#"{"seq":7,"next_by_subj":"$KV.B.a.>"}"#);
    }

    #[test]
    fn answer_with_any_headers_is_read() {
        let answer = r#"{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","message":{"subject":"a","seq":3,
            "hdrs":"AP8N","data":"aGk=","time":"2026-11-27T12:00:00.001000001Z"}}"#;
        let Response::Ok(GetAnswer { message }) = serde_json::from_str(answer).unwrap() else { panic!() };
        assert_eq!((message.seq, message.data.as_str()), (3, "aGk="));
        assert_eq!(message.time.as_millisecond() % 1_000, 1);
    }
}
