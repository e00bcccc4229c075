//! What the server says: objects with a type `T`, always in an array. An event's object is encoded once per encoding
//! and shared by every session that gets it, so nothing in it may depend on the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::{Encoding, Id, SubscriptionName};
use crate::event::{Event, Kind, Priority, Regime, Tier, Timestamp, TradingSession};
use crate::filter::Filter;
use crate::hint::bounded;
use crate::ids::{Confidence, NodeId, Partition, Pattern, Room, Seq, Symbol, UserId};
use crate::protocol::codes::{ErrorCode, NoticeCode};

/// Everything but events that a server says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "T", rename_all = "lowercase")]
pub enum ServerFrame {
    /// The session is ready.
    Welcome(Welcome),
    /// The session goes on with a new token: the answer to `auth`.
    Authenticated(Authenticated),
    /// A change of subscriptions is confirmed; carries the full list as it is now.
    Subscribed(Subscriptions),
    /// The answer to `list`.
    Subscriptions(Subscriptions),
    /// The connection lives, and this is how far it is.
    Heartbeat(Heartbeat),
    /// What a `resume`, or a subscription with `since`, asked for of the past has been given.
    #[serde(rename = "caught_up")]
    CaughtUp(CaughtUp),
    /// First in its message: the events of this message overtake others that still wait.
    Early,
    /// Something about delivery that the client should know.
    Notice(Notice),
    /// Events that may be missing.
    Gap(Gap),
    /// The client should connect again, elsewhere.
    Goaway(Goaway),
    /// A frame of the client was refused.
    Error(ServerError),
    /// The answer to `ping`.
    Pong(Pong),
}

/// The first frame of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The session's id.
    pub session: CompactString,
    /// Who the client is taken for.
    pub user: UserId,
    /// The gateway that it is connected to.
    pub gateway: NodeId,
    /// A heartbeat comes at least this often, in milliseconds.
    pub heartbeat_ms: u32,
    /// The largest frame that the gateway takes, in bytes. Absent from a gateway that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_frame_bytes: Option<u64>,
}

/// The answer to an `auth` on a session: it goes on with the new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authenticated {
    /// The id of the frame that this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// Who the client is taken for, as before.
    pub user: UserId,
    /// How long the new token is good for, in milliseconds.
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
    /// What each quota among them is counted for: `gateway`, which is this gateway alone. Absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas_per: Option<CompactString>,
    /// Where a resume goes on from. Opaque.
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

/// One subscription as it is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// What it asks for.
    pub filter: Arc<Filter>,
    /// Its events wait at most so long to be sent together, in milliseconds.
    pub window_ms: u16,
    /// At most so many of its events are sent in any hour, to all sessions of the user on one gateway together. Absent: no
    /// limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_events_per_hour: Option<u32>,
}

/// The end of what was asked for of the past: what comes from here on is new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUp {
    /// The id of the frame that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// Whether all of it was given. If not, `gap` frames have told what is missing, and why.
    pub resumed: bool,
    /// Up to here the client has been given everything, or told otherwise. Opaque.
    pub position: CompactString,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Up to here the client has been given everything, or told otherwise. Opaque.
    pub position: CompactString,
}

/// Something about delivery that the client should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The name of a [`NoticeCode`](crate::protocol::codes::NoticeCode).
    pub code: CompactString,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg: Option<String>,
    /// The subscription that wanted the events, unless it has ended meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<SubscriptionName>,
    /// Events that were let go since the last notice of this code and subscription.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Events that were replaced by newer ones since then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub conflated: u64,
    /// Events that were sent, or will be, later than they should.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delayed: u64,
    /// Where all these events stand, one range per partition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
    /// How long the token is still good for, in milliseconds, where the notice is about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

impl Notice {
    /// A notice that counts nothing yet.
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

/// From the first to the last of some events of a partition. Others may lie between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The partition.
    pub p: Partition,
    /// The lowest sequence concerned.
    pub first: Seq,
    /// The highest sequence concerned.
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

/// A request to connect again, elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goaway {
    /// A stable name for the cause, such as `drain`.
    pub reason: CompactString,
    /// How long to wait before connecting, in milliseconds; spread so that clients do not all come at once.
    pub reconnect_ms: u32,
}

/// Why a frame of the client was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerError {
    /// The id of that frame, where it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// The number of an [`ErrorCode`].
    pub code: u16,
    /// What was wrong, where, and what would be right.
    pub msg: String,
}

impl ServerError {
    /// The refusal of the frame that carried `id`. Of a long text only the begin is sent.
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

/// Encodes one object, to be put into an array by [`write_array`](super::write_array).
#[must_use]
pub fn encode(frame: &ServerFrame, encoding: Encoding) -> Vec<u8> {
    encoding.write(frame)
}

/// Encodes the object of one event, to be put into an array by [`write_array`](super::write_array). Fields that the
/// event lacks are left out, and the key is named only where no symbol is.
#[must_use]
pub fn encode_event(event: &Event, partition: Partition, seq: Seq, encoding: Encoding) -> Vec<u8> {
    encoding.write(&EventFrame {
        frame_type: "event",
        kind: &event.kind,
        key: event.symbol.is_none().then_some(&event.key),
        symbol: event.symbol.as_ref(),
        pattern: event.pattern.as_ref(),
        tier: event.tier,
        confidence: event.confidence,
        priority: event.priority,
        regime: event.regime,
        ts: event.ts,
        id: &event.id,
        p: partition,
        seq,
        tags: &event.tags,
        rooms: &event.rooms,
        session: event.session,
        data: &event.data,
    })
}

#[derive(Serialize)]
struct EventFrame<'a> {
    #[serde(rename = "T")]
    frame_type: &'static str,
    kind: &'a Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a CompactString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol: Option<&'a Symbol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'a Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<Tier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<Confidence>,
    priority: Priority,
    #[serde(skip_serializing_if = "Option::is_none")]
    regime: Option<Regime>,
    #[serde(serialize_with = "as_text")]
    ts: Timestamp,
    id: &'a CompactString,
    p: Partition,
    seq: Seq,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [CompactString],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    rooms: &'a [Room],
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<TradingSession>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    data: &'a serde_json::Map<String, serde_json::Value>,
}

fn as_text<S: serde::Serializer>(ts: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ts)
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
