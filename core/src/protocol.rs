//! The client protocol: the frames of clients and of the server, in both encodings.
//!
//! A client sends one object with an `action`. The server sends an array of objects, each with a type `T`; a batch is a
//! longer array. An object is encoded once, and arrays are built from encoded objects.
//!
//! `client` and `server` are the frames of each side, `event` is the object of an event with its `context`, and `array`
//! writes arrays. `received` is the server's frames as a client reads them. `codes`, `position` and `since` are values
//! in frames.

mod array;
mod client;
pub mod codes;
mod context;
mod event;
pub mod position;
mod received;
mod server;
pub mod since;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::protocol::codes::ErrorCode;

pub use array::{ArrayWriter, write_array};
pub use client::{
    ClientFrame, FilterRequest, MAX_EVENTS_PER_HOUR, MAX_WINDOW_MS, SubscriptionRequest, SubscriptionSelector, Token,
};
pub use event::{ReceivedEvent, encode_alert, encode_event};
pub use received::{ServerMessage, UnreadableMessage};
pub use server::encode;
pub use server::{
    Acked, Authenticated, CaughtUp, Gap, Goaway, Heartbeat, Notice, Pong, SeqRange, ServerError, ServerFrame,
    Subscription, Subscriptions, Welcome,
};

/// The encoding of frames. A client chooses it by the WebSocket sub-protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// JSON, in text messages.
    Json,
    /// MessagePack with named fields, in binary messages.
    MsgPack,
}

impl Encoding {
    /// Both encodings.
    pub const ALL: [Self; 2] = [Self::Json, Self::MsgPack];

    /// The name of the WebSocket sub-protocol.
    #[must_use]
    pub fn sub_protocol(self) -> &'static str {
        match self {
            Self::Json => "tickwire.v1.json",
            Self::MsgPack => "tickwire.v1.msgpack",
        }
    }

    /// The type of WebSocket message that carries it.
    #[must_use]
    pub fn message_type(self) -> &'static str {
        match self {
            Self::Json => "text",
            Self::MsgPack => "binary",
        }
    }

    /// The encoding of a sub-protocol.
    #[must_use]
    pub fn from_sub_protocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.sub_protocol() == name)
    }

    /// Writes a value whose maps have text for keys.
    fn write(self, value: &impl Serialize) -> Vec<u8> {
        match self {
            Self::Json => serde_json::to_vec(value).expect("frames have text keys and write to memory"),
            Self::MsgPack => rmp_serde::to_vec_named(value).expect("frames have text keys and write to memory"),
        }
    }
}

/// A client's mark of a frame: any number or a short text. The answer carries it unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A number.
    Number(serde_json::Number),
    /// A text of at most [`Id::MAX_TEXT`] bytes.
    Text(CompactString),
}

impl Id {
    /// The longest text that is accepted, in bytes.
    pub const MAX_TEXT: usize = 64;
}

/// A text that cannot be the name of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subscription's name must have 1 to 64 characters, no control characters, and must not be \"*\"")]
pub struct BadSubscriptionName;

/// The name of a subscription: 1 to 64 characters, none of them a control character; `*` is not a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "CompactString")]
pub struct SubscriptionName(CompactString);

impl SubscriptionName {
    /// The most characters.
    pub const MAX: usize = 64;

    /// Takes a name.
    ///
    /// # Errors
    /// [`BadSubscriptionName`] if the text is not a valid name.
    pub fn new(text: &str) -> Result<Self, BadSubscriptionName> {
        let fits = (1..=Self::MAX).contains(&text.chars().count());
        if fits && text != "*" && !text.contains(char::is_control) {
            Ok(Self(CompactString::from(text)))
        } else {
            Err(BadSubscriptionName)
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SubscriptionName {
    /// The name of a subscription without a name.
    fn default() -> Self {
        Self(CompactString::const_new("default"))
    }
}

impl TryFrom<CompactString> for SubscriptionName {
    type Error = BadSubscriptionName;

    fn try_from(text: CompactString) -> Result<Self, BadSubscriptionName> {
        Self::new(&text)
    }
}

/// Why a client's frame was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.code())]
pub struct FrameError {
    /// The error code.
    pub code: ErrorCode,
    /// What was wrong, where, and what would be right.
    pub message: String,
    /// The frame's id, if it could be read.
    pub id: Option<Id>,
}
