//! The content of one frame, and how large it may be.

use tickwire_core::protocol::Notice;
use tickwire_core::protocol::codes::NoticeCode;

use crate::outbox::lanes::QueuedEvent;
use crate::outbox::notices::EventOutcome;

/// The most events in one frame.
pub const FRAME_EVENTS: usize = 50;

/// How large a frame may grow with a further event, in bytes.
pub const FRAME_BYTES: usize = 64 * 1024;

/// Used as the number of the subscription in a notice for the whole session.
pub const OF_SESSION: u32 = u32::MAX;

/// The content of one frame. It is reused for each.
#[derive(Debug, Default)]
pub struct Frame {
    /// Whether its events overtake others that still wait.
    pub early: bool,
    /// The notices, which are sent before the events, each with the number of its subscription.
    pub notices: Vec<(u32, Notice)>,
    /// The events.
    pub events: Vec<QueuedEvent>,
    /// How many of them are sent before their lane's turn, because they have waited too long.
    pub promoted: u64,
    /// The events that were dropped, conflated or delayed while the frame was composed: one entry per event.
    pub dropped: Vec<(NoticeCode, EventOutcome)>,
}

impl Frame {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.notices.is_empty()
    }

    pub(super) fn clear(&mut self) {
        (self.early, self.promoted) = (false, 0);
        self.notices.clear();
        self.events.clear();
        self.dropped.clear();
    }
}
