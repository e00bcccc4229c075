//! The server's frames as a client reads them. Unknown types and fields are ignored, so that an old client works with a
//! new server.

use serde::Deserialize;

use super::Encoding;
use super::event::ReceivedEvent;
use super::server::{
    Acked, Authenticated, CaughtUp, Gap, Goaway, Heartbeat, Notice, Pong, ServerError, Subscriptions, Welcome,
};

/// One object of the server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "T", rename_all = "lowercase")]
pub enum ServerMessage {
    /// The session is ready.
    Welcome(Welcome),
    /// The session continues with a new token.
    Authenticated(Authenticated),
    /// A change of subscriptions is confirmed.
    Subscribed(Subscriptions),
    /// The answer to `list`.
    Subscriptions(Subscriptions),
    /// An event that a subscription matches.
    Event(Box<ReceivedEvent>),
    /// An event that a subscription with `alert` matches.
    Alert(Box<ReceivedEvent>),
    /// The connection works; carries the position.
    Heartbeat(Heartbeat),
    /// The backfill is complete.
    #[serde(rename = "caught_up")]
    CaughtUp(CaughtUp),
    /// The events of this message are ahead of others, and may be sent again after a resume.
    Early,
    /// A notice about delivery.
    Notice(Notice),
    /// Events that may be missing.
    Gap(Gap),
    /// The client should connect to another gateway.
    Goaway(Goaway),
    /// A frame was refused.
    Error(ServerError),
    /// The answer to `ping`.
    Pong(Pong),
    /// The answer to `ack`.
    Acked(Acked),
    /// A type that this client does not know.
    #[serde(other)]
    Unknown,
}

/// A message that is not a valid array of server objects.
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
    /// Parses a whole message.
    ///
    /// # Errors
    /// [`UnreadableMessage`] if it is not an array of objects, or an object of a known type lacks a field.
    pub fn parse(bytes: &[u8], encoding: Encoding) -> Result<Vec<Self>, UnreadableMessage> {
        Ok(match encoding {
            Encoding::Json => serde_json::from_slice(bytes)?,
            Encoding::MsgPack => rmp_serde::from_slice(bytes)?,
        })
    }
}
