//! An event on its way to sessions: decoded once per gateway, encoded once per encoding, shared by all who get it.

use std::sync::OnceLock;

use bytes::Bytes;
use tickwire_core::coverage::Weight;
use tickwire_core::event::Event;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::{Encoding, encode_event};

/// One event with its place in the stream and its wire forms.
#[derive(Debug)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// Its partition.
    pub partition: Partition,
    /// Its sequence.
    pub seq: Seq,
    /// How long its form between nodes is, in bytes.
    wire_bytes: usize,
    json: OnceLock<Bytes>,
    msgpack: OnceLock<Bytes>,
}

impl Delivery {
    /// An event that is encoded when it is first asked for.
    #[must_use]
    pub fn new(event: Event, partition: Partition, seq: Seq) -> Self {
        Self { event, partition, seq, wire_bytes: 0, json: OnceLock::new(), msgpack: OnceLock::new() }
    }

    /// The same, which came in so many bytes.
    #[must_use]
    pub fn of_bytes(self, wire_bytes: usize) -> Self {
        Self { wire_bytes, ..self }
    }

    /// About how many bytes of memory it holds, its forms for clients apart.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + 2 * self.wire_bytes
    }

    /// How large it came from the routers, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.wire_bytes
    }

    /// The event's object, made when the first session of this encoding gets it. Nothing in it depends on a session.
    pub fn object(&self, encoding: Encoding) -> &Bytes {
        let form = match encoding {
            Encoding::Json => &self.json,
            Encoding::MsgPack => &self.msgpack,
        };
        form.get_or_init(|| encode_event(&self.event, self.partition, self.seq, encoding).into())
    }
}

impl Weight for Delivery {
    fn weight(&self) -> usize {
        size_of::<Self>() - size_of::<Event>() + self.event.weight()
    }
}
