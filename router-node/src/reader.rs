//! Reads the stream, live and for replays: every message, whatever bytes it has.
//!
//! ```text
//! pull       a consumer, over our own connection: many messages, cheap
//! delivery   the metadata of a message that a consumer delivered
//! on_leader  a consumer on the server that leads the stream
//! leader     one message at a time, from the server that leads the stream, in a form that holds any bytes
//! span       what a replay reads, and what proves that no message of it is missing
//! answer     checks that the messages of one answer to a direct get follow one another
//! direct     many messages by one request
//! by_subject the messages of one subject by one request
//! range      a span of the stream by consumer or directly, whichever costs less
//! pace       the rate of replays, so that live reading goes first
//! headers    the headers of a message, or why they are refused
//! ```
//!
//! A consumer and a direct get read the copy of any server. Each server removes old messages by itself, and its disk
//! may be damaged, so a server may lack messages that the leader still has. Where that can matter, the leader's copy is
//! read or compared with.

pub(crate) mod answer;
pub(crate) mod by_subject;
pub(crate) mod delivery;
pub(crate) mod direct;
pub(crate) mod headers;
pub(crate) mod leader;
pub(crate) mod on_leader;
pub(crate) mod pace;
pub(crate) mod pull;
pub(crate) mod range;
pub(crate) mod span;

use bytes::Bytes;
use headers::HeaderBlock;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;

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
    /// Its payload.
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

impl MessageHeaders {
    /// The form for a parser, alike on every way of reading a message.
    pub(crate) fn block(&self) -> HeaderBlock<'_> {
        match self {
            Self::None => HeaderBlock::default(),
            Self::Whole(block) => HeaderBlock::whole(block),
            Self::Cut(block) => HeaderBlock::cut(block),
        }
    }
}
