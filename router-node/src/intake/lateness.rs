//! Whether messages are late: whether they may have waited in the stream for so long that retention has removed others
//! before a reader got them. If not, the reader need not compare them with the stream. Pure.
//!
//! A reader is current when the stream holds nothing that it has not received. Every message that it receives later was
//! stored after that moment. So if the reader was current a short time ago, neither this message nor an unread one
//! before it is old enough for retention to remove.
//!
//! Only the clock of this process is used, because the clock of the server that stores messages may show any time.

use tickwire_core::ids::Millis;

/// What has waited for longer than this may have been removed, in milliseconds. A stream is taken to hold a second of
/// events.
const LATE: u64 = 1_000;

/// A message with more than this after it is late.
const BACKLOG: u64 = 1_000;

/// What is known of one reader.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lateness {
    /// The last time at which nothing was left to be read; `None` if no such time of this consumer is known.
    current_at: Option<Millis>,
    is_late: bool,
}

impl Lateness {
    /// The reader has another consumer, of which nothing is known yet.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Notes that nothing is left to be read: the server has sent a heartbeat, or a message that has none after it.
    pub(super) fn note_current(&mut self, now: Millis) {
        self.current_at = self.current_at.max(Some(now));
    }

    /// Notes that a message arrived, with `pending` messages after it.
    pub(super) fn take(&mut self, now: Millis, pending: u64) {
        let waited = self.current_at.is_none_or(|at| now.since(at) > LATE);
        self.is_late |= waited || pending > BACKLOG;
        if pending == 0 {
            self.note_current(now);
        }
    }

    /// Whether any message since the last call was late. If so, the intake looks where the stream begins before it
    /// claims anything.
    pub(super) fn take_late(&mut self) -> bool {
        std::mem::take(&mut self.is_late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_consumer_is_late_until_nothing_is_pending() {
        let mut lateness = Lateness::default();
        for (at, pending, is_late) in [(0, 2, true), (10, 1, true), (20, 0, true), (30, 0, false), (40, 1_000, false)] {
            lateness.take(Millis(at), pending);
            assert_eq!(lateness.take_late(), is_late, "at {at}");
        }
        lateness.restart();
        lateness.take(Millis(50), 0);
        assert!(lateness.take_late());
    }

    #[test]
    fn lateness_follows_the_local_clock_and_the_pending_count() {
        let mut lateness = Lateness::default();
        lateness.note_current(Millis(0));
        lateness.take(Millis(1_000), 0);
        assert!(!lateness.take_late());
        lateness.take(Millis(2_001), 0);
        assert!(lateness.take_late());
        // A quiet partition whose consumer says so is not late.
        lateness.note_current(Millis(9_000));
        lateness.take(Millis(9_500), 7);
        assert!(!lateness.take_late());
        lateness.take(Millis(9_600), 1_001);
        assert!(lateness.take_late());
        // What began to wait then is late when it has waited for long.
        lateness.take(Millis(10_100), 3);
        assert!(lateness.take_late());
        lateness.take(Millis(10_200), 0);
        assert!(lateness.take_late());
        assert!(!lateness.take_late());
    }
}
