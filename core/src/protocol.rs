//! The client protocol: what clients say, what the server answers, and how both look in either encoding.
//!
//! A client sends one object with an `action`; the server sends an array of objects, each with a type `T`, so that a
//! batch is a longer array. An object is encoded once, and arrays are put together from encoded objects.

mod array;
mod client;
pub mod codes;
pub mod position;
mod received;
mod server;
pub mod since;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::protocol::codes::ErrorCode;

pub use array::{ArrayWriter, write_array};
pub use client::{ClientFrame, MAX_EVENTS_PER_HOUR, MAX_WINDOW_MS, SubscriptionRequest, SubscriptionSelector, Token};
pub use received::{ReceivedEvent, ServerMessage, UnreadableMessage};
pub use server::{
    Authenticated, CaughtUp, Gap, Goaway, Heartbeat, Notice, Pong, Range, ServerError, ServerFrame, Subscription,
    Subscriptions, Welcome,
};
pub use server::{encode, encode_event};

/// How frames are written. A client chooses by the WebSocket sub-protocol.
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

    /// The encoding that a sub-protocol names.
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

/// What a client marks a frame with, to know the answer by: any number or a short text, echoed as it came.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A number.
    Number(serde_json::Number),
    /// A text of at most [`Id::MAX_TEXT`] bytes.
    Text(CompactString),
}

impl Id {
    /// The longest text taken, in bytes.
    pub const MAX_TEXT: usize = 64;
}

/// A text that cannot name a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subscription's name has 1 to 64 characters, no control characters among them, and is not \"*\"")]
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
    /// [`BadSubscriptionName`] if it is not one.
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
    /// The name of a subscription that was given none.
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

/// A client's frame that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.code())]
pub struct FrameError {
    /// What kind of fault it is.
    pub code: ErrorCode,
    /// What was wrong, where, and what would be right.
    pub message: String,
    /// The frame's id, where it could be read.
    pub id: Option<Id>,
}
