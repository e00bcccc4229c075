//! An event on its way to sessions: decoded once per gateway, encoded once per encoding, and shared by all sessions. As
//! an alert it has other bytes and another priority; these bytes are made when the first session needs them, and shared
//! as well.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use tickwire_core::coverage::Weight;
use tickwire_core::event::{Event, Priority, Timestamp};
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::{Encoding, encode_alert, encode_event};

use crate::handling;
use crate::traced::DeliveryTrace;

/// One event with its place in the stream and its wire forms.
#[derive(Debug)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// Its partition.
    pub partition: Partition,
    /// Its sequence.
    pub seq: Seq,
    /// Whether it leaves before all events that wait.
    pub(crate) goes_first: bool,
    /// The last moment at which it is of use; `None` if it always is.
    expiry: Option<Timestamp>,
    /// When the batch arrived that had it, as a monotonic time; `None` for an event of a replay.
    pub(crate) arrived: Option<Duration>,
    /// Its size in the messages between nodes, in bytes.
    wire_bytes: usize,
    /// Its priority as an alert.
    alert_priority: Priority,
    forms: WireForms,
    /// Its forms as an alert. Most events are no alerts, so they have no room for them.
    alert_forms: OnceLock<Box<WireForms>>,
    /// Its trace, if it is traced.
    trace: Option<Box<DeliveryTrace>>,
}

/// The object of an event in both encodings, each encoded when it is first needed.
#[derive(Debug, Default)]
struct WireForms {
    json: OnceLock<Bytes>,
    msgpack: OnceLock<Bytes>,
}

impl Delivery {
    /// An event that is encoded when it is first needed.
    #[must_use]
    pub fn new(event: Event, partition: Partition, seq: Seq) -> Self {
        Self {
            goes_first: handling::goes_first(&event),
            expiry: handling::expiry(&event),
            alert_priority: event.alert_priority(),
            event,
            partition,
            seq,
            arrived: None,
            wire_bytes: 0,
            forms: WireForms::default(),
            alert_forms: OnceLock::new(),
            trace: None,
        }
    }

    /// The same with its size in the messages between nodes.
    #[must_use]
    pub fn of_bytes(self, wire_bytes: usize) -> Self {
        Self { wire_bytes, ..self }
    }

    /// The same with the time at which its batch arrived, if that is known.
    #[must_use]
    pub(crate) fn arrived_at(self, arrived: Option<Duration>) -> Self {
        Self { arrived, ..self }
    }

    /// The same with its trace, if it has one.
    #[must_use]
    pub(crate) fn traced(self, trace: Option<Box<DeliveryTrace>>) -> Self {
        Self { trace, ..self }
    }

    /// Its trace, if it is traced.
    pub(crate) fn trace(&self) -> Option<&DeliveryTrace> {
        self.trace.as_deref()
    }

    /// Approximate memory in bytes, without the encodings for clients.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + 2 * self.wire_bytes
    }

    /// Its priority, as an alert or not.
    pub(crate) fn priority(&self, as_alert: bool) -> Priority {
        if as_alert { self.alert_priority } else { self.event.priority }
    }

    /// Whether it is urgent, as an alert or not: while the budget lasts it waits neither for a window nor for the rate,
    /// and it is never dropped to make room.
    pub(crate) fn is_urgent(&self, as_alert: bool) -> bool {
        self.priority(as_alert) == Priority::Critical || self.goes_first
    }

    /// Whether its time to live is over. The clock is read only if it has one.
    pub(crate) fn is_expired(&self, time_of_day: impl Fn() -> Timestamp) -> bool {
        self.expiry.is_some_and(|expiry| time_of_day() > expiry)
    }

    /// Its size in the messages between nodes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.wire_bytes
    }

    /// The encoded event. It is encoded when the first session with this encoding gets it, and does not depend on the
    /// session.
    pub fn object(&self, encoding: Encoding) -> &Bytes {
        let form = self.forms.of(encoding);
        form.get_or_init(|| encode_event(&self.event, self.partition, self.seq, encoding).into())
    }

    /// The encoded alert, without the names of subscriptions. It does not depend on the session either.
    pub fn alert_object(&self, encoding: Encoding) -> &Bytes {
        let form = self.alert_forms.get_or_init(Box::default).of(encoding);
        form.get_or_init(|| encode_alert(&self.event, self.partition, self.seq, encoding).into())
    }
}

impl WireForms {
    fn of(&self, encoding: Encoding) -> &OnceLock<Bytes> {
        match encoding {
            Encoding::Json => &self.json,
            Encoding::MsgPack => &self.msgpack,
        }
    }
}

impl Weight for Delivery {
    fn weight(&self) -> usize {
        size_of::<Self>() - size_of::<Event>() + self.event.weight()
    }
}
