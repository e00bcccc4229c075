//! Dead letters: a message that cannot be read is stored with its reason, so that no message vanishes.
//!
//! Each dead letter is acknowledged before the engine receives anything that follows it, and so before a checkpoint
//! passes it. After a crash in between it is stored again, and its message id prevents a duplicate. When the stream of
//! dead letters does not take one before the deadline, it is logged with its sequence and counted, and reading goes on:
//! one full stream must not stop a partition, and the message itself stays in the stream of events.
//!
//! A dead letter has the original payload. Its own headers tell the reason and identify the message. One of them holds
//! the message's header block in base64, because the block may hold any bytes; the headers that could be read are
//! copied as well. A block that is too large for a header is put before the payload.

use crate::metrics;
use crate::reader::{MessageHeaders, StreamMessage};
use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_MESSAGE_ID};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use std::time::Duration;
use tickwire_core::event::decode::Undecodable;
use tickwire_core::ids::EpochId;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::{Instant, sleep};
use tracing::{debug, error};

/// How long to try to store one.
const DEADLINE: Duration = Duration::from_secs(5);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// The part of a server's largest message that is reserved for our own headers.
const HEADROOM: usize = 16 * 1024;

/// The longest detail, in bytes.
const DETAIL: usize = 1024;

/// The most of the original headers that is copied, in bytes.
const ORIGINAL_HEADERS: usize = 4 * 1024;

/// The largest header block that goes into a header, in bytes: a stream takes 64 KiB of headers. A larger one is put
/// before the payload.
const LARGEST_BLOCK: usize = 30 * 1024;

/// The most of a subject that is copied, in bytes.
const SUBJECT: usize = 2 * 1024;

/// A message that cannot be read.
#[derive(Debug)]
pub struct DeadLetter {
    /// The reason.
    pub refusal: Undecodable,
    /// The original message.
    pub message: StreamMessage,
}

/// Stores `dead_letters`, and waits until each is stored or given up.
pub(crate) async fn post(nats: &Nats, epoch_id: EpochId, dead_letters: Vec<DeadLetter>) {
    join_all(dead_letters.into_iter().map(|dead_letter| post_one(nats, epoch_id, dead_letter))).await;
}

async fn post_one(nats: &Nats, epoch_id: EpochId, dead_letter: DeadLetter) {
    let reason = dead_letter.refusal.reason.as_str();
    debug!(reason, seq = %dead_letter.message.seq, detail = dead_letter.refusal.detail, "unreadable message");
    let (headers, payload) = compose(epoch_id, &dead_letter.refusal, &dead_letter.message, nats.client.max_payload());
    let end = Instant::now() + DEADLINE;
    loop {
        let (began, subject) = (nats.writes.now(), names::dead_letter(reason));
        let publish = async {
            let sent = nats.jetstream.publish_with_headers(subject.clone(), headers.clone(), payload.clone()).await?;
            sent.await
        };
        let published = tokio::time::timeout_at(end, publish).await;
        if let Ok(ended) = &published {
            nats.writes.note(names::DEAD_LETTERS, &subject, began, ended.as_ref().map(drop));
        }
        let failure = match published {
            Ok(Ok(_)) => {
                metrics::DEAD_LETTERS.with(reason).increment(1);
                return;
            }
            Ok(Err(failure)) => failure.to_string(),
            Err(late) => late.to_string(),
        };
        if Instant::now() + PAUSE >= end {
            metrics::DEAD_LETTERS_LOST.with(reason).increment(1);
            let (seq, detail) = (dead_letter.message.seq, &dead_letter.refusal.detail);
            error!(reason, %seq, detail, failure, "dead letter not stored");
            return;
        }
        sleep(PAUSE).await;
    }
}

/// The dead letter's headers and payload, within the server's limit.
fn compose(epoch_id: EpochId, refusal: &Undecodable, message: &StreamMessage, most: usize) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut kept = 0;
    // The headers of a block are copied up to the first that cannot be read.
    for (name, value) in message.headers.block().headers().map_while(Result::ok) {
        // Headers with this prefix are commands to the server, and were meant for the first publish only.
        if name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("Nats-")) {
            continue;
        }
        let size = name.len() + value.len() + 4;
        if kept + size <= ORIGINAL_HEADERS
            && let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        {
            kept += size;
            headers.append(name, value);
        }
    }
    let StreamMessage { seq, subject, payload, .. } = message;
    headers.insert(NATS_MESSAGE_ID, format!("{epoch_id}:{seq}").as_str());
    headers.insert("Tickwire-Reason", refusal.reason.as_str());
    headers.insert("Tickwire-Detail", one_line(&refusal.detail, DETAIL).as_str());
    headers.insert("Tickwire-Sequence", seq.to_string());
    let text = one_line(&String::from_utf8_lossy(subject), SUBJECT);
    if text.as_bytes() != &subject[..] {
        headers.insert("Tickwire-Subject-Base64", STANDARD.encode(&subject[..subject.len().min(SUBJECT)]));
    }
    headers.insert("Tickwire-Subject", text);
    let block = match &message.headers {
        MessageHeaders::None => &Bytes::new(),
        MessageHeaders::Whole(block) | MessageHeaders::Cut(block) => block,
    };
    let (mut room, mut payload) = (most.saturating_sub(HEADROOM), payload.clone());
    if block.len() > LARGEST_BLOCK {
        headers.insert("Tickwire-Headers-Bytes", block.len().to_string());
        payload = [&block[..], &payload[..]].concat().into();
    } else if !block.is_empty() {
        let encoded = STANDARD.encode(block);
        room = room.saturating_sub(encoded.len());
        headers.insert("Tickwire-Headers-Base64", encoded);
    }
    if payload.len() <= room {
        return (headers, payload);
    }
    headers.insert("Tickwire-Truncated-From", payload.len().to_string());
    (headers, payload.slice(..room))
}

/// A text that can stand in a header, of at most `most` bytes.
fn one_line(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::event::Timestamp;
    use tickwire_core::event::decode::Reason;
    use tickwire_core::ids::Seq;

    fn held(subject: &[u8], headers: &[u8], payload: usize) -> StreamMessage {
        StreamMessage {
            seq: Seq(7),
            stored: Timestamp(0),
            subject: Bytes::copy_from_slice(subject),
            headers: MessageHeaders::Whole(Bytes::copy_from_slice(headers)),
            payload: vec![b'x'; payload].into(),
        }
    }

    fn refusal(reason: Reason, detail: &str) -> Undecodable {
        Undecodable { reason, detail: detail.to_owned() }
    }

    #[test]
    fn dead_letter_keeps_harmless_headers_that_fit() {
        let large = "x".repeat(ORIGINAL_HEADERS);
        let block = format!(
            "NATS/1.0\r\nProducer: p1\r\nnats-ttl: 1s\r\nNats-Expected-Stream: EVENTS\r\nFold: a\r\n b\r\nLarge: {large}\r\n\r\n"
        );
        let message = held(b"events.a.b.c", block.as_bytes(), 20_000);
        let refused = refusal(Reason::BadSubject, &format!("two\r\nlines {}", "ä".repeat(DETAIL)));
        let (headers, payload) = compose(EpochId(5), &refused, &message, 1_000_000);
        let get = |name: &str| headers.get(name).map(|value| value.as_str());
        assert_eq!(payload, message.payload);
        assert_eq!((get("Producer"), get("nats-ttl"), get("Nats-Expected-Stream")), (Some("p1"), None, None));
        assert_eq!((get("Fold"), get("Large"), get("Tickwire-Truncated-From")), (None, None, None));
        assert_eq!((get("Nats-Msg-Id"), get("Tickwire-Sequence")), (Some("5:7"), Some("7")));
        assert_eq!((get("Tickwire-Reason"), get("Tickwire-Subject")), (Some("bad_subject"), Some("events.a.b.c")));
        assert_eq!((get("Tickwire-Subject-Base64"), get("Tickwire-Headers-Bytes")), (None, None));
        assert_eq!(STANDARD.decode(get("Tickwire-Headers-Base64").unwrap()).unwrap(), block.as_bytes());
        let detail = get("Tickwire-Detail").unwrap();
        assert!(detail.starts_with("two  lines ä") && detail.len() <= DETAIL);

        let (headers, payload) = compose(EpochId(5), &refused, &message, 32 * 1024);
        let encoded = headers.get("Tickwire-Headers-Base64").unwrap().as_str();
        assert_eq!(payload.len(), 32 * 1024 - HEADROOM - encoded.len());
        assert_eq!(headers.get("Tickwire-Truncated-From").unwrap().as_str(), "20000");
    }

    #[test]
    fn header_block_too_large_for_a_header_is_put_before_the_payload() {
        let block = vec![b'h'; LARGEST_BLOCK + 1];
        let message = held(b"ev.3.pattern.A", &block, 3);
        let (headers, payload) = compose(EpochId(5), &refusal(Reason::BadHeaders, "x"), &message, 1_000_000);
        assert_eq!(headers.get("Tickwire-Headers-Bytes").unwrap().as_str(), block.len().to_string());
        assert_eq!(payload, [&block[..], b"xxx"].concat());
        assert!(headers.get("Tickwire-Headers-Base64").is_none());
    }

    #[test]
    fn any_original_bytes_are_in_the_dead_letter() {
        let block = b"NATS/1.0\r\nGood: 1\r\nX: a\rb\xff\r\n\r\n";
        let message = held(b"ev.3.pattern.\xff\r", block, 3);
        let (headers, _) = compose(EpochId(5), &refusal(Reason::BadHeaders, "x"), &message, 1_000_000);
        let get = |name: &str| headers.get(name).map(|value| value.as_str());
        assert_eq!((get("Good"), get("X")), (Some("1"), None));
        assert_eq!(get("Tickwire-Subject"), Some("ev.3.pattern.\u{fffd} "));
        assert_eq!(STANDARD.decode(get("Tickwire-Subject-Base64").unwrap()).unwrap(), b"ev.3.pattern.\xff\r");
        assert_eq!(STANDARD.decode(get("Tickwire-Headers-Base64").unwrap()).unwrap(), block);
    }

    #[test]
    fn dead_letter_of_the_largest_message_fits_the_server() {
        let most = 1024 * 1024;
        for (block, payload) in
            [(0, most), (10, most - 10), (LARGEST_BLOCK, most - LARGEST_BLOCK), (65_535, most - 65_535)]
        {
            let message = held(&vec![b'\xff'; 4_000], &vec![b'h'; block], payload);
            let (headers, payload) = compose(EpochId(5), &refusal(Reason::BadHeaders, "x"), &message, most);
            let headers: usize = headers
                .iter()
                .map(|(name, values)| {
                    let name: &str = name.as_ref();
                    values.iter().map(|value| name.len() + value.as_str().len() + 4).sum::<usize>()
                })
                .sum();
            assert!(headers < 65_535, "a stream takes {headers} bytes of headers");
            assert!(headers + payload.len() + 12 <= most, "{headers} + {}", payload.len());
        }
    }
}
