//! What a client makes of what the server says. Types and fields that it does not know are passed over, so that an
//! old client goes on with a new server.

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, de};

use super::Encoding;
use super::server::{
    Authenticated, CaughtUp, Gap, Goaway, Heartbeat, Notice, Pong, ServerError, Subscriptions, Welcome,
};
use crate::event::object;
use crate::event::{Kind, Priority, Regime, Tier, Timestamp, TradingSession};
use crate::ids::{Confidence, Partition, Pattern, Room, Seq, Symbol};

/// One object of the server's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "T", rename_all = "lowercase")]
pub enum ServerMessage {
    /// The session is ready.
    Welcome(Welcome),
    /// The session goes on with a new token.
    Authenticated(Authenticated),
    /// A change of subscriptions is confirmed.
    Subscribed(Subscriptions),
    /// The answer to `list`.
    Subscriptions(Subscriptions),
    /// An event that a subscription matches.
    Event(Box<ReceivedEvent>),
    /// The connection lives.
    Heartbeat(Heartbeat),
    /// What was asked for of the past has been given.
    #[serde(rename = "caught_up")]
    CaughtUp(CaughtUp),
    /// The events of this message overtake others, and come again after a resume.
    Early,
    /// Something about delivery.
    Notice(Notice),
    /// Events that may be missing.
    Gap(Gap),
    /// The client should connect again, elsewhere.
    Goaway(Goaway),
    /// A frame was refused.
    Error(ServerError),
    /// The answer to `ping`.
    Pong(Pong),
    /// A type that this client does not know.
    #[serde(other)]
    Unknown,
}

/// An event as a client gets it. Its fields are those of [`Event`](crate::event::Event).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ReceivedEvent {
    /// What it is about.
    pub kind: Kind,
    /// The decoded key of its subject, where it has no symbol.
    pub key: Option<CompactString>,
    /// The symbol it concerns.
    pub symbol: Option<Symbol>,
    /// The pattern that was found.
    pub pattern: Option<Pattern>,
    /// In which bars.
    pub tier: Option<Tier>,
    /// How sure the producer is.
    pub confidence: Option<Confidence>,
    /// How urgent it is.
    pub priority: Priority,
    /// The market's state.
    pub regime: Option<Regime>,
    /// When it happened.
    #[serde(deserialize_with = "from_text")]
    pub ts: Timestamp,
    /// The producer's id for it.
    pub id: CompactString,
    /// The partition that holds it.
    pub p: Partition,
    /// Its sequence; with the partition it identifies the event.
    pub seq: Seq,
    /// Labels.
    #[serde(default)]
    pub tags: Vec<CompactString>,
    /// The rooms that it was sent to.
    #[serde(default)]
    pub rooms: Vec<Room>,
    /// The part of the trading day of `ts`.
    pub session: Option<TradingSession>,
    /// So many older events of the same kind, key, pattern and tier were replaced by this one.
    #[serde(default)]
    pub conflated: u32,
    /// Everything else that the producer sent.
    #[serde(default, deserialize_with = "object::deserialize")]
    pub data: serde_json::Map<String, serde_json::Value>,
}

/// A message that is not an array of the server's objects.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableMessage {
    /// As JSON.
    #[error("the server's message cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// As MessagePack.
    #[error("the server's message cannot be read: {0}")]
    MsgPack(#[from] rmp_serde::decode::Error),
}

impl ServerMessage {
    /// Reads a whole message.
    ///
    /// # Errors
    /// [`UnreadableMessage`] if it is not an array of objects, or an object of a known type lacks what that type has.
    pub fn parse(bytes: &[u8], encoding: Encoding) -> Result<Vec<Self>, UnreadableMessage> {
        Ok(match encoding {
            Encoding::Json => serde_json::from_slice(bytes)?,
            Encoding::MsgPack => rmp_serde::from_slice(bytes)?,
        })
    }
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = CompactString::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}
