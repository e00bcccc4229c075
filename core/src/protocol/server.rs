//! The frames of the server: objects with a type `T`, always in an array. An event's object is encoded once for each
//! encoding, as an event and as an alert, and shared by all sessions, so nothing in it may depend on the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::{Encoding, Id, SubscriptionName};
use crate::filter::Filter;
use crate::hint::bounded;
use crate::ids::{NodeId, Partition, Seq, UserId};
use crate::protocol::codes::{ErrorCode, NoticeCode};

/// Every frame of the server except events.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "T", rename_all = "lowercase")]
pub enum ServerFrame {
    /// The session is ready.
    Welcome(Welcome),
    /// The session continues with a new token: the answer to `auth`.
    Authenticated(Authenticated),
    /// A change of subscriptions is confirmed; carries the full new list.
    Subscribed(Subscriptions),
    /// The answer to `list`.
    Subscriptions(Subscriptions),
    /// The connection works; carries the position.
    Heartbeat(Heartbeat),
    /// The backfill of a `resume`, or of a subscription with `since`, is complete.
    #[serde(rename = "caught_up")]
    CaughtUp(CaughtUp),
    /// First in its message: the events of this message are sent ahead of others that still wait.
    Early,
    /// A notice about delivery.
    Notice(Notice),
    /// Events that may be missing.
    Gap(Gap),
    /// The client should connect to another gateway.
    Goaway(Goaway),
    /// A frame of the client was refused.
    Error(ServerError),
    /// The answer to `ping`.
    Pong(Pong),
    /// The answer to `ack`.
    Acked(Acked),
}

/// The first frame of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The session's id.
    pub session: CompactString,
    /// The authenticated user.
    pub user: UserId,
    /// The gateway that it is connected to.
    pub gateway: NodeId,
    /// The longest time between two heartbeats, in milliseconds.
    pub heartbeat_ms: u32,
    /// The largest frame that the gateway accepts, in bytes. Older gateways do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_frame_bytes: Option<u64>,
    /// The names of the saved subscriptions that the session will get, sorted; absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<SubscriptionName>,
}

/// The answer to an `auth` on a session, which continues with the new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authenticated {
    /// The id of the frame that this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// The authenticated user, the same as before.
    pub user: UserId,
    /// How long the new token is valid, in milliseconds.
    pub expires_ms: u64,
}

/// The full list of a session's subscriptions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscriptions {
    /// The id of the frame that this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// The subscriptions by name.
    pub subscriptions: BTreeMap<SubscriptionName, Subscription>,
    /// The scope of the quotas: `gateway`, since each gateway counts alone. Absent without a quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas_per: Option<CompactString>,
    /// The position for a resume. Opaque.
    pub position: CompactString,
}

impl Subscriptions {
    /// The list as of `position`.
    #[must_use]
    pub fn new(
        id: Option<Id>,
        subscriptions: BTreeMap<SubscriptionName, Subscription>,
        position: CompactString,
    ) -> Self {
        let has_quota = subscriptions.values().any(|one| one.max_events_per_hour.is_some());
        let quotas_per = has_quota.then(|| CompactString::const_new("gateway"));
        Self { id, subscriptions, quotas_per, position }
    }
}

/// One subscription as it is in effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// The filter.
    pub filter: Arc<Filter>,
    /// How long its events may wait to be sent together, in milliseconds.
    pub window_ms: u16,
    /// The most of its events that are sent in any hour, to all sessions of the user on one gateway together. Absent:
    /// no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_events_per_hour: Option<u32>,
    /// Whether its events are sent as alerts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub alert: bool,
}

/// The end of a backfill: later events are new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUp {
    /// The id of the frame that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// Whether all of it was given. If not, `gap` frames have listed what is missing, and why.
    pub resumed: bool,
    /// Up to here the client was given everything, or notified of what is missing. Opaque.
    pub position: CompactString,
}

/// The client's position while no events come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Up to here the client was given everything, or notified of what is missing. Opaque. Absent until the first
    /// `subscribe` or `resume` of the connection is answered, and while a `resume` waits for its answer: what the client
    /// has to resume from is its own, and a gateway's position would make it skip events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<CompactString>,
}

/// A notice about delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The name of a [`NoticeCode`](crate::protocol::codes::NoticeCode).
    pub code: CompactString,
    /// A text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg: Option<String>,
    /// The subscription of the events, unless it has ended since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<SubscriptionName>,
    /// Events dropped since the last notice of this code and subscription.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Events that were replaced by newer ones since then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub conflated: u64,
    /// Events that were or will be sent late.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delayed: u64,
    /// The sequences of all these events, one range per partition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<SeqRange>,
    /// How long the token is still valid, in milliseconds, in a notice about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

impl Notice {
    /// A notice without counts.
    #[must_use]
    pub fn new(code: NoticeCode) -> Self {
        Self {
            code: CompactString::const_new(code.as_str()),
            msg: None,
            subscription: None,
            dropped: 0,
            conflated: 0,
            delayed: 0,
            ranges: Vec::new(),
            expires_ms: None,
        }
    }
}

/// The range from the first to the last of some events of a partition. Other events may be in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqRange {
    /// The partition.
    pub p: Partition,
    /// The lowest sequence.
    pub first: Seq,
    /// The highest sequence.
    pub last: Seq,
}

/// Events of one partition that may be missing: those with `from < seq <= to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// A stable name for the cause, such as `lost`.
    pub reason: CompactString,
    /// The partition.
    pub p: Partition,
    /// The last sequence before the gap.
    pub from: Seq,
    /// The last sequence in the gap.
    pub to: Seq,
}

/// A request to connect to another gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goaway {
    /// A stable name for the cause, such as `drain`.
    pub reason: CompactString,
    /// How long to wait before connecting, in milliseconds; it differs so that clients do not all connect at once.
    pub reconnect_ms: u32,
}

/// Why a frame of the client was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerError {
    /// The id of that frame, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// The number of an [`ErrorCode`].
    pub code: u16,
    /// What was wrong, where, and what would be right.
    pub msg: String,
}

impl ServerError {
    /// The error for the frame with `id`. A long text is cut.
    pub fn new(id: Option<Id>, code: ErrorCode, msg: impl Into<String>) -> Self {
        Self { id, code: code.code(), msg: bounded(msg.into()) }
    }
}

impl From<super::FrameError> for ServerError {
    fn from(error: super::FrameError) -> Self {
        Self::new(error.id, error.code, error.message)
    }
}

/// The answer to `ping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The id of the ping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
}

/// The answer to `ack`: the alert is recorded as acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// The id of the frame that this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// The partition of the alert.
    pub p: Partition,
    /// Its sequence.
    pub seq: Seq,
}

/// Encodes one object for an array of [`write_array`](super::write_array).
#[must_use]
pub fn encode(frame: &ServerFrame, encoding: Encoding) -> Vec<u8> {
    encoding.write(frame)
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}
