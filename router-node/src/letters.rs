//! Dead letters: what cannot be read is stored with its reason, so that nothing vanishes.
//!
//! Each is acknowledged before the engine hears of anything after it, hence before a floor passes it: a crash in
//! between posts it again, and its message id makes that no second letter. When the stream of dead letters does not
//! take one before the deadline, it is logged with its sequence and counted, and reading goes on: one full stream must
//! not stop a partition, and the message itself stays in the stream of events.

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::Message;
use bytes::Bytes;
use futures_util::future::join_all;
use metrics::{counter, describe_counter};
use std::time::Duration;
use tickwire_core::decode::Refusal;
use tickwire_core::ids::{Incarnation, Seq};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::{Instant, sleep};
use tracing::{debug, error};

/// How long to go on trying to post one.
const DEADLINE: Duration = Duration::from_secs(5);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// How much of a server's largest message our own headers may take.
const HEADROOM: usize = 8 * 1024;

/// The longest detail told, in bytes.
const DETAIL: usize = 1024;

/// The most of the original headers that is kept, in bytes.
const ORIGINAL_HEADERS: usize = 4 * 1024;

/// A message that cannot be read.
#[derive(Debug)]
pub(crate) struct Letter {
    /// Why.
    pub(crate) refusal: Refusal,
    /// Its sequence in the stream of events.
    pub(crate) seq: Seq,
    /// All of it.
    pub(crate) message: Message,
}

/// Posts `letters` and waits until all are stored, or given up.
pub(crate) async fn post(nats: &Nats, incarnation: Incarnation, letters: Vec<Letter>) {
    join_all(letters.into_iter().map(|letter| post_one(nats, incarnation, letter))).await;
}

async fn post_one(nats: &Nats, incarnation: Incarnation, letter: Letter) {
    let reason = letter.refusal.reason.as_str();
    debug!(reason, seq = %letter.seq, detail = letter.refusal.detail, "dead letter");
    let (headers, payload) =
        compose(incarnation, letter.seq, &letter.refusal, &letter.message, nats.client.max_payload());
    let end = Instant::now() + DEADLINE;
    loop {
        let publish = async {
            let subject = names::dead_letter(reason);
            let sent = nats.jetstream.publish_with_headers(subject, headers.clone(), payload.clone()).await?;
            sent.await
        };
        let failure = match tokio::time::timeout_at(end, publish).await {
            Ok(Ok(_)) => {
                counter!("tickwire_dead_letters_total", "reason" => reason).increment(1);
                return;
            }
            Ok(Err(failure)) => failure.to_string(),
            Err(late) => late.to_string(),
        };
        if Instant::now() + PAUSE >= end {
            counter!("tickwire_dead_letters_lost_total", "reason" => reason).increment(1);
            let (seq, detail) = (letter.seq, &letter.refusal.detail);
            error!(reason, %seq, detail, failure, "a dead letter was not stored; the message stays in the stream");
            return;
        }
        sleep(PAUSE).await;
    }
}

/// The letter's headers and payload, within what the server takes.
fn compose(
    incarnation: Incarnation,
    seq: Seq,
    refusal: &Refusal,
    message: &async_nats::Message,
    most: usize,
) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut kept = 0;
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        // What begins so are orders to the server, and were meant for the first time that it was published.
        if name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("Nats-")) {
            continue;
        }
        for value in values {
            let size = name.len() + value.as_str().len() + 4;
            if kept + size <= ORIGINAL_HEADERS {
                kept += size;
                headers.append(name, value.as_str());
            }
        }
    }
    let detail = one_line(&refusal.detail);
    headers.insert(NATS_MESSAGE_ID, format!("{incarnation}:{seq}").as_str());
    headers.insert("Tickwire-Reason", refusal.reason.as_str());
    headers.insert("Tickwire-Detail", detail.as_str());
    headers.insert("Tickwire-Subject", message.subject.as_str());
    headers.insert("Tickwire-Sequence", seq.to_string());
    let payload = &message.payload;
    let room = most.saturating_sub(HEADROOM);
    if payload.len() <= room {
        return (headers, payload.clone());
    }
    headers.insert("Tickwire-Truncated-From", payload.len().to_string());
    (headers, payload.slice(..room))
}

/// A text that can stand in a header.
fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(DETAIL);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) fn describe() {
    describe_counter!("tickwire_dead_letters_total", "Messages stored as dead letters, by reason");
    describe_counter!(
        "tickwire_dead_letters_lost_total",
        "Dead letters that could not be stored, by reason; the messages stay in the stream of events"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::decode::Reason;

    #[test]
    fn a_letter_keeps_what_is_harmless_and_fits() {
        let mut headers = HeaderMap::new();
        headers.insert("Producer", "p1");
        headers.insert("nats-ttl", "1s");
        headers.insert("Nats-Expected-Stream", "EVENTS");
        headers.insert("Large", "x".repeat(ORIGINAL_HEADERS).as_str());
        let message = async_nats::Message {
            subject: "events.a.b.c".into(),
            reply: None,
            payload: vec![b'x'; 20_000].into(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        };
        let refusal = Refusal { reason: Reason::BadSubject, detail: format!("two\r\nlines {}", "ä".repeat(DETAIL)) };
        let (headers, payload) = compose(Incarnation(5), Seq(7), &refusal, &message, 1_000_000);
        let get = |name: &str| headers.get(name).map(|value| value.as_str());
        assert_eq!(payload, message.payload);
        assert_eq!((get("Producer"), get("nats-ttl"), get("Nats-Expected-Stream")), (Some("p1"), None, None));
        assert_eq!((get("Large"), get("Tickwire-Truncated-From")), (None, None));
        assert_eq!((get("Nats-Msg-Id"), get("Tickwire-Sequence")), (Some("5:7"), Some("7")));
        assert_eq!((get("Tickwire-Reason"), get("Tickwire-Subject")), (Some("bad_subject"), Some("events.a.b.c")));
        let detail = get("Tickwire-Detail").unwrap();
        assert!(detail.starts_with("two  lines ä") && detail.len() <= DETAIL);

        let (headers, payload) = compose(Incarnation(5), Seq(7), &refusal, &message, 16 * 1024);
        assert_eq!(payload.len(), 16 * 1024 - HEADROOM);
        assert_eq!(headers.get("Tickwire-Truncated-From").unwrap().as_str(), "20000");
    }
}
