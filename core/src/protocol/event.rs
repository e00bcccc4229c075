//! The object of an event, in both directions: the server writes it from a borrowed [`Event`], a client reads it into a
//! [`ReceivedEvent`]. Its fields are listed here once. An alert has the same fields, another type, and a priority that
//! the confidence raises.

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::context::write_known;
use super::{Encoding, SubscriptionName};
use crate::event::object;
use crate::event::{Event, EventContext, Kind, Priority, Regime, Tier, Timestamp, TradingSession};
use crate::ids::{Confidence, Partition, Pattern, Room, Seq, Symbol};

/// Declares both types from one list of fields: `name: type of a client | type of the server`.
macro_rules! event_object {
    ($($(#[$attribute:meta])* $field:ident: $owned:ty | $borrowed:ty,)*) => {
        /// An event as a client gets it. Its fields are those of [`Event`].
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct ReceivedEvent {
            $($(#[$attribute])* pub $field: $owned,)*
            /// How many older events of the same kind, key, pattern and tier this one has replaced.
            #[serde(default, skip_serializing_if = "is_zero")]
            pub conflated: u32,
            /// The names of the subscriptions that an alert matches; empty for other events.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub subs: Vec<SubscriptionName>,
            /// Whether it is an alert from before, which comes again since its user has not acknowledged it. It does not
            /// move the position.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            pub again: bool,
        }

        /// The same as the server writes it. `conflated`, `subs` and `again` differ between sessions, so they are added
        /// when a frame is written.
        #[derive(Serialize)]
        struct EventObject<'a> {
            #[serde(rename = "T")]
            object_type: &'static str,
            $($(#[$attribute])* $field: $borrowed,)*
        }
    };
}

event_object! {
    /// What it is about.
    kind: Kind | &'a Kind,
    /// The decoded key of its subject, if it has no symbol.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<CompactString> | Option<&'a CompactString>,
    /// The symbol.
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol: Option<Symbol> | Option<&'a Symbol>,
    /// The pattern that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<Pattern> | Option<&'a Pattern>,
    /// The length of the bars.
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<Tier> | Option<Tier>,
    /// The producer's confidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<Confidence> | Option<Confidence>,
    /// How urgent it is.
    priority: Priority | Priority,
    /// The market's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    regime: Option<Regime> | Option<Regime>,
    /// When it happened.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    ts: Timestamp | Timestamp,
    /// The event's id.
    id: CompactString | &'a CompactString,
    /// The partition that holds it.
    p: Partition | Partition,
    /// Its sequence; with the partition it identifies the event.
    seq: Seq | Seq,
    /// Labels.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    tags: Vec<CompactString> | &'a [CompactString],
    /// The rooms that it was sent to.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    rooms: Vec<Room> | &'a [Room],
    /// The part of the trading day of `ts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<TradingSession> | Option<TradingSession>,
    /// Everything else that the producer sent.
    #[serde(default, deserialize_with = "object::deserialize", skip_serializing_if = "serde_json::Map::is_empty")]
    data: serde_json::Map<String, serde_json::Value> | &'a serde_json::Map<String, serde_json::Value>,
    /// What the router knew about its surroundings.
    #[serde(default, serialize_with = "write_known", skip_serializing_if = "Option::is_none")]
    context: Option<Box<EventContext>> | Option<&'a EventContext>,
}

/// Encodes the object of one event for an array of [`write_array`](super::write_array). Absent fields are left out, and
/// the key is only present if there is no symbol.
#[must_use]
pub fn encode_event(event: &Event, partition: Partition, seq: Seq, encoding: Encoding) -> Vec<u8> {
    encoding.write(&object_of(event, partition, seq))
}

/// Encodes the same as an alert, with its [raised priority](Event::alert_priority).
#[must_use]
pub fn encode_alert(event: &Event, partition: Partition, seq: Seq, encoding: Encoding) -> Vec<u8> {
    let event_object = object_of(event, partition, seq);
    encoding.write(&EventObject { object_type: "alert", priority: event.alert_priority(), ..event_object })
}

fn object_of(event: &Event, partition: Partition, seq: Seq) -> EventObject<'_> {
    EventObject {
        object_type: "event",
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
        context: event.context.as_deref().filter(|context| !context.is_empty()),
    }
}

fn to_text<S: Serializer>(ts: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ts)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = CompactString::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
