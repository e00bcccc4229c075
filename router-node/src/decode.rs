//! From a message of the stream to what the engine routes: an event with its form for the wire, a tick, or a refusal.
//!
//! The event's wire form is made here too, once for all gateways: of what is live in the intake's task, so that the work
//! spreads over the cores; of what is read again only when somebody wants it.

pub(crate) mod headers;

use crate::reader::Held;
use bytes::Bytes;
use headers::Block;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tickwire_core::decode::{Raw, Reason, Refusal, decode};
use tickwire_core::event::{Event, Kinds, Timestamp};
use tickwire_core::ids::Seq;
use tickwire_node::names::{Stored, parse_stored};
use tickwire_node::shutdown::panic_text;

/// An event that can be routed.
#[derive(Debug)]
pub(crate) struct Readable {
    /// Its sequence.
    pub(crate) seq: Seq,
    /// What is matched against interest.
    pub(crate) event: Event,
    /// The event in MessagePack, as it travels to gateways.
    pub(crate) wire: Bytes,
}

/// What a message is, that is no dead letter. `W` is the event's form for the wire, if it was made.
#[derive(Debug)]
pub(crate) enum Decoded<W> {
    /// An event.
    Event(Box<Event>, W),
    /// A tick: it only shows how far the partition was read.
    Tick,
}

/// A message as the stream holds it, however it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredMessage<'m> {
    /// The subject that it is stored under.
    pub(crate) subject: &'m [u8],
    /// Its headers.
    pub(crate) headers: Block<'m>,
    /// All else.
    pub(crate) payload: &'m [u8],
    /// Its sequence.
    pub(crate) seq: Seq,
    /// When the stream stored it.
    pub(crate) stored: Timestamp,
}

/// Reads messages of one stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The stream's name.
    pub(crate) stream: String,
    /// The kinds that this cluster takes.
    pub(crate) kinds: Kinds,
}

impl Decoder {
    /// Reads one message, and encodes its event. A fault of ours makes it a dead letter as well.
    pub(crate) fn read_live(&self, message: &Held) -> Result<Decoded<Bytes>, Refusal> {
        guarded(|| match self.look(&message.as_stored())? {
            Decoded::Tick => Ok(Decoded::Tick),
            Decoded::Event(event, ()) => {
                let wire = to_wire(&event)?;
                Ok(Decoded::Event(event, wire))
            }
        })
    }

    /// Reads one message. A fault of ours makes it a dead letter as well.
    pub(crate) fn read(&self, message: &Held) -> Result<Decoded<()>, Refusal> {
        guarded(|| self.look(&message.as_stored()))
    }

    fn look(&self, message: &StoredMessage<'_>) -> Result<Decoded<()>, Refusal> {
        let StoredMessage { subject, headers, payload, seq, stored } = *message;
        let subject = std::str::from_utf8(subject).map_err(|_| not_text(subject))?;
        let (kind_token, key_token) = match parse_stored(subject) {
            Stored::Tick { .. } => return Ok(Decoded::Tick),
            Stored::Event { kind, key, .. } => (kind, key),
            Stored::Unrecognised => return Err(bad_subject(subject)),
        };
        let found = headers.read()?;
        let raw = Raw {
            kind_token,
            key_token,
            content_type: found.content_type,
            msg_id: found.msg_id,
            payload,
            stream: &self.stream,
            seq,
            stored,
        };
        decode(&raw, &self.kinds).map(|event| Decoded::Event(Box::new(event), ()))
    }
}

/// Reads a message. A reader that panics would else meet the message again, at every try and in every router.
fn guarded<T>(read: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    // What a panic leaves half done is dropped with it.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        Err(Refusal { reason: Reason::Unreadable, detail: format!("reading it failed: {}", panic_text(&*panic)) })
    })
}

/// An event in MessagePack, as it travels to gateways.
///
/// # Errors
/// [`Reason::BadMsgPack`] when it has no such form.
pub(crate) fn to_wire(event: &Event) -> Result<Bytes, Refusal> {
    let refused =
        |error| Refusal { reason: Reason::BadMsgPack, detail: format!("it has no form in MessagePack: {error}") };
    guarded(|| rmp_serde::to_vec(event).map(Bytes::from).map_err(refused))
}

fn bad_subject(subject: &str) -> Refusal {
    Refusal {
        reason: Reason::BadSubject,
        detail: format!(
            "{subject:?} is not events.<kind>.<key> with one token each; what a token cannot hold is escaped in the key, \
             as in BRK=2EB for BRK.B"
        ),
    }
}

fn not_text(subject: &[u8]) -> Refusal {
    Refusal { reason: Reason::BadSubject, detail: format!("the subject \"{}\" is not UTF-8", subject.escape_ascii()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::Headers;

    fn held(subject: &[u8], headers: &[u8]) -> Held {
        Held {
            seq: Seq(7),
            stored: Timestamp(0),
            subject: Bytes::copy_from_slice(subject),
            headers: Headers::Whole(Bytes::copy_from_slice(headers)),
            payload: Bytes::from_static(br#"{"pattern":"Doji"}"#),
        }
    }

    #[test]
    fn what_is_refused_live_is_refused_when_it_is_read_again() {
        let decoder = Decoder { stream: "EVENTS".to_owned(), kinds: Kinds::default() };
        let subject = b"ev.3.pattern.AAPL";
        let cases: [(&[u8], &[u8], Option<Reason>); 7] = [
            (subject, b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n", None),
            (subject, b"NATS/1.0 408\r\n\r\n", Some(Reason::BadHeaders)),
            (subject, b"NATS/1.0\r\nX: a\rb\r\n\r\n", Some(Reason::BadHeaders)),
            (b"ev.3.pattern.\xff", b"NATS/1.0\r\n\r\n", Some(Reason::BadSubject)),
            (b"events.a\rb", b"", Some(Reason::BadSubject)),
            ("ev.3.pattern.A\u{a0}B".as_bytes(), b"NATS/1.0\r\n\r\n", Some(Reason::BadKey)),
            (b"ev.3.tick", b"NATS/1.0 503\r\n\r\n", None),
        ];
        for (subject, headers, expected) in cases {
            let message = held(subject, headers);
            let reason = |refusal: Refusal| refusal.reason;
            assert_eq!(decoder.read_live(&message).err().map(reason), expected, "{}", headers.escape_ascii());
            assert_eq!(decoder.read(&message).err().map(reason), expected);
        }
    }

    #[test]
    fn a_reader_that_panics_makes_a_dead_letter() {
        let refusal = guarded::<()>(|| panic!("on purpose")).unwrap_err();
        assert_eq!((refusal.reason, refusal.detail.as_str()), (Reason::Unreadable, "reading it failed: on purpose"));
    }
}
