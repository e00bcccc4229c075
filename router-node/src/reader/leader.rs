//! One message, from the server that leads the stream, as JSON with headers and payload in base64. This is expensive,
//! but no bytes of a message can break the parser, and no server that lags answers.

use super::{MessageHeaders, StreamMessage};
use async_nats::jetstream::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How long the leader may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// The code of the error that there is no such message.
const NOT_FOUND: usize = 404;

#[derive(Debug, Deserialize)]
struct LeaderReply {
    message: LeaderMessage,
}

#[derive(Debug, Deserialize)]
struct LeaderMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

/// The first message after `after` that matches the filter, if there is one.
pub(crate) async fn first_after(
    nats: &Nats,
    stream: &str,
    after: Seq,
    filter: &str,
) -> Result<Option<StreamMessage>, String> {
    let request = json!({ "seq": after.0.saturating_add(1), "next_by_subj": filter });
    let response = nats.jetstream.request(format!("STREAM.MSG.GET.{stream}"), &request);
    let answer =
        timeout(DEADLINE, response).await.map_err(|_| format!("the leader did not answer within {DEADLINE:?}"))?;
    let answer: Response<LeaderReply> = answer.map_err(|error| error.to_string())?;
    match answer {
        Response::Ok(LeaderReply { message }) => read(message).map(Some),
        Response::Err { error } if error.code() == NOT_FOUND => Ok(None),
        Response::Err { error } => Err(error.to_string()),
    }
}

fn read(message: LeaderMessage) -> Result<StreamMessage, String> {
    let LeaderMessage { subject, seq, hdrs, data, time } = message;
    let bytes = |text: String| STANDARD.decode(text).map(Bytes::from).map_err(|error| error.to_string());
    let headers = bytes(hdrs)?;
    Ok(StreamMessage {
        seq: Seq(seq),
        stored: read_time(&time)?,
        subject: subject.into(),
        headers: if headers.is_empty() { MessageHeaders::None } else { MessageHeaders::Whole(headers) },
        payload: bytes(data)?,
    })
}

/// The time of an RFC 3339 text, in milliseconds.
pub(crate) fn read_time(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Ok(Timestamp(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_with_any_bytes_are_complete() {
        let message = LeaderMessage {
            subject: "ev.3.pattern.\u{fffd}".to_owned(),
            seq: 7,
            hdrs: STANDARD.encode(b"NATS/1.0\r\nX: a\rb\r\n\r\n"),
            data: STANDARD.encode([0xff, 0, 13]),
            time: "2026-11-27T12:00:00.123999999Z".to_owned(),
        };
        let held = read(message).unwrap();
        assert_eq!((held.seq, held.stored), (Seq(7), Timestamp(1_795_780_800_123)));
        assert_eq!(held.payload, &[0xff, 0, 13][..]);
        assert!(matches!(held.headers, MessageHeaders::Whole(block) if block == b"NATS/1.0\r\nX: a\rb\r\n\r\n"[..]));
        let bare = LeaderMessage {
            subject: "x".to_owned(),
            seq: 1,
            hdrs: String::new(),
            data: "!".to_owned(),
            time: "x".to_owned(),
        };
        read(bare).unwrap_err();
    }
}
