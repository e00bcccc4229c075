//! From a message of the stream to what the engine routes: an event with its form for the wire, a tick, or a refusal.
//!
//! The event's wire form is made here too, once for all gateways: of what is live in the intake's task, so that the work
//! spreads over the cores; of what is read again only when somebody wants it.

use async_nats::HeaderMap;
use bytes::Bytes;
use tickwire_core::decode::{Raw, Reason, Refusal, decode};
use tickwire_core::event::{Event, Kinds, Timestamp};
use tickwire_core::ids::Seq;
use tickwire_node::names::{Stored, parse_stored};

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

/// What a message is.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// An event.
    Event(Box<Event>),
    /// A tick: it only shows how far the partition was read.
    Tick,
    /// A dead letter.
    Dead(Refusal),
}

/// A message as the stream holds it, however it was read.
#[derive(Debug)]
pub(crate) struct StoredMessage<'m> {
    /// The subject that it is stored under.
    pub(crate) subject: &'m str,
    /// Its headers, those that the server adds in delivering it among them.
    pub(crate) headers: Option<&'m HeaderMap>,
    /// All else.
    pub(crate) payload: &'m Bytes,
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
    /// Reads one message.
    pub(crate) fn read(&self, message: &StoredMessage<'_>) -> Decoded {
        let StoredMessage { subject, headers, payload, seq, stored } = *message;
        let (kind_token, key_token) = match parse_stored(subject) {
            Stored::Tick { .. } => return Decoded::Tick,
            Stored::Event { kind, key, .. } => (kind, key),
            Stored::Unrecognised => return Decoded::Dead(bad_subject(subject)),
        };
        let raw = Raw {
            kind_token,
            key_token,
            content_type: header(headers, "Content-Type"),
            msg_id: header(headers, async_nats::header::NATS_MESSAGE_ID.as_ref()),
            payload,
            stream: &self.stream,
            seq,
            stored,
        };
        match decode(&raw, &self.kinds) {
            Ok(event) => Decoded::Event(Box::new(event)),
            Err(refusal) => Decoded::Dead(refusal),
        }
    }
}

/// An event in MessagePack, as it travels to gateways.
///
/// # Errors
/// [`Reason::BadMsgPack`] when it has no such form.
pub(crate) fn to_wire(event: &Event) -> Result<Bytes, Refusal> {
    let wire = rmp_serde::to_vec(event).map_err(|error| Refusal {
        reason: Reason::BadMsgPack,
        detail: format!("it has no form in MessagePack: {error}"),
    })?;
    Ok(wire.into())
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

/// A header by name, whatever case the producer writes it in.
fn header<'m>(headers: Option<&'m HeaderMap>, name: &str) -> Option<&'m str> {
    let mut all = headers?.iter();
    let (_, values) = all.find(|(found, _)| AsRef::<str>::as_ref(found).eq_ignore_ascii_case(name))?;
    values.first().map(|value| value.as_str())
}
