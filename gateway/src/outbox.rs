//! What waits to be sent to one session, and when it is due. Pure: the clock is passed in.
//!
//! Windows have a leading edge: a session that was sent nothing for its window gets an event at once, a busy one gets
//! its events together at the end of the window. A critical event takes all that wait before it along, so order holds
//! and nothing overtakes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tickwire_core::frames::Encoding;
use tickwire_core::ids::Seq;
use tickwire_core::position::Position;

use crate::delivery::Delivery;

/// The most events in one frame.
const FRAME_EVENTS: usize = 50;

/// How large a frame may grow with a further event, in bytes.
const FRAME_BYTES: usize = 64 * 1024;

/// The outbox has no room left: the session reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Events in order, with the moment at which the first of them is due.
#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: VecDeque<Arc<Delivery>>,
    bytes: usize,
    limit: usize,
    last_sent: Option<Instant>,
    due: Option<Instant>,
}

impl Outbox {
    /// An empty outbox that takes `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, limit, last_sent: None, due: None }
    }

    /// Adds an event that may wait for `window`. One that was just added, for another subscription, is not added
    /// again: the smaller window holds.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        delivery: &Arc<Delivery>,
        window: Duration,
        encoding: Encoding,
    ) -> Result<(), Full> {
        let again = self.waiting.back().is_some_and(|last| Arc::ptr_eq(last, delivery));
        if !again {
            let size = delivery.object(encoding).len();
            if self.bytes + size > self.limit && !self.waiting.is_empty() {
                return Err(Full);
            }
            self.bytes += size;
            self.waiting.push_back(Arc::clone(delivery));
        }
        let due = match self.last_sent {
            Some(last) if !delivery.is_critical() => now.max(last + window),
            _ => now,
        };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        Ok(())
    }

    /// When what waits is to be sent; `None` if nothing waits.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How many events wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many events the next frame carries; none when nothing waits.
    pub(crate) fn next_frame(&self, encoding: Encoding) -> usize {
        let mut size = 0;
        let fits = |delivery: &&Arc<Delivery>| {
            let first = size == 0;
            size += delivery.object(encoding).len();
            first || size <= FRAME_BYTES
        };
        self.waiting.iter().take(FRAME_EVENTS).take_while(fits).count()
    }

    /// The first `count` events that wait.
    pub(crate) fn first(&self, count: usize) -> impl ExactSizeIterator<Item = &Arc<Delivery>> {
        self.waiting.iter().take(count)
    }

    /// The first `count` events were sent at `now`.
    pub(crate) fn sent(&mut self, now: Instant, count: usize, encoding: Encoding) {
        self.bytes -= self.first(count).map(|delivery| delivery.object(encoding).len()).sum::<usize>();
        self.waiting.drain(..count);
        self.last_sent = Some(now);
        if self.waiting.is_empty() {
            self.due = None;
        }
    }

    /// The session's position: that of its shard, held back to before the first event that still waits.
    pub(crate) fn hold_back(&self, applied: &Position) -> Position {
        let mut position = applied.clone();
        for delivery in &self.waiting {
            if let Some(seq) = position.seqs.get_mut(usize::from(delivery.partition.0)) {
                *seq = (*seq).min(Seq(delivery.seq.0 - 1));
            }
        }
        position
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
