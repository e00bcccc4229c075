//! How the stream is read, live and again: messages with any bytes, and all of them.
//!
//! ```text
//! pull      a consumer, over our own connection: many messages, cheap
//! delivery  the metadata of a message that a consumer delivered
//! placed    a consumer on the server that leads the stream
//! leader    one message at a time, from the server that leads the stream, in a form that holds any bytes
//! ```
//!
//! A consumer and a direct get read the copy of any server. Each server removes old messages by itself, and its disk
//! may be damaged, so a server may lack messages that the leader still has. Where that can matter, the leader's copy is
//! read, or compared.

pub(crate) mod batch;
pub(crate) mod delivery;
pub(crate) mod leader;
pub(crate) mod on_leader;
pub(crate) mod pace;
pub(crate) mod pull;
pub(crate) mod range;

use bytes::Bytes;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;

use crate::decode::UndecodedMessage;
use crate::decode::headers::HeaderBlock;

/// A message as it is stored in the stream.
#[derive(Debug, Clone)]
pub struct StreamMessage {
    /// Its sequence.
    pub seq: Seq,
    /// When it was stored.
    pub stored: Timestamp,
    /// The subject that it is stored under.
    pub subject: Bytes,
    /// Its headers.
    pub headers: MessageHeaders,
    /// All else.
    pub payload: Bytes,
}

/// The header block of a message.
#[derive(Debug, Clone)]
pub enum MessageHeaders {
    /// It has none.
    None,
    /// As the producer wrote it.
    Whole(Bytes),
    /// Without the last two bytes.
    Cut(Bytes),
}

impl StreamMessage {
    /// The form for the decoder.
    pub(crate) fn as_stored(&self) -> UndecodedMessage<'_> {
        let Self { seq, stored, subject, headers, payload } = self;
        let headers = match headers {
            MessageHeaders::None => HeaderBlock::default(),
            MessageHeaders::Whole(block) => HeaderBlock::whole(block),
            MessageHeaders::Cut(block) => HeaderBlock::cut(block),
        };
        UndecodedMessage { subject, headers, payload, seq: *seq, stored: *stored }
    }
}
