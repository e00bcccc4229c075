//! An event that was read again.

use bytes::Bytes;
use tickwire_core::event::Event;
use tickwire_core::event::decode::Undecodable as DeadLetter;

use crate::decode::{Decoded, to_wire};
use crate::dispatch::RoutedEvent;

/// An event that was read again, and its form for the wire, made when the first wants it.
#[derive(Debug)]
pub struct ReplayedEvent {
    /// The decoded event.
    pub(super) event: Box<Event>,
    wire: Option<Bytes>,
}

impl ReplayedEvent {
    /// What was read, if it is an event.
    #[must_use]
    pub fn of(decoded: Result<Decoded<()>, DeadLetter>) -> Option<Self> {
        match decoded {
            Ok(Decoded::Event(event, ())) => Some(Self { event, wire: None }),
            Ok(Decoded::Heartbeat | Decoded::Dropped) | Err(_) => None,
        }
    }

    /// The event for a gateway that wants it; `None` if it cannot be encoded, which makes it a dead letter.
    pub(super) fn routed(&mut self) -> Option<RoutedEvent> {
        if self.wire.is_none() {
            self.wire = to_wire(&self.event).ok();
        }
        Some(RoutedEvent { wire: self.wire.clone()?, stored: self.event.stored, trace: None })
    }
}
