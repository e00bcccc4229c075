//! The content of one frame, and how large it may be.

use std::collections::VecDeque;

use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::{Encoding, Notice};

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
    /// Whether its events come again.
    pub again: bool,
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

    /// Makes it a frame of events that come again: as many of those that wait as fit.
    pub(crate) fn fill_again(&mut self, waiting: &mut VecDeque<QueuedEvent>, encoding: Encoding) {
        self.clear();
        self.again = true;
        let mut size = 0;
        while self.events.len() < FRAME_EVENTS
            && let Some(first) = waiting.front()
        {
            size += first.object(encoding).len();
            if size > FRAME_BYTES && !self.events.is_empty() {
                break;
            }
            self.events.extend(waiting.pop_front());
        }
    }

    pub(super) fn clear(&mut self) {
        (self.early, self.again, self.promoted) = (false, false, 0);
        self.notices.clear();
        self.events.clear();
        self.dropped.clear();
    }
}
