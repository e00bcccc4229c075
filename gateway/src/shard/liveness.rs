//! Decides whether a client is alive. Pure: events and their times are passed in.
//!
//! Data from the client is a sign of life. So is progress of its reading: bytes that waited for the kernel and were
//! accepted. While bytes wait no ping is sent, so none can be missed; a client that reads nothing then is slow, not
//! silent. A ping is behind the bytes that the kernel accepted before, so its answer gets the time that these need at
//! the pace seen so far.
//!
//! After a process was suspended or overloaded, clients seem silent although their answers wait to be read. So no
//! client is given up at the first check: what has arrived is read before the second one.

use crate::socket::KERNEL_BYTES;
use tickwire_core::ids::Millis;

/// A client that does not answer a ping for this many heartbeats is given up.
const SILENT_HEARTBEATS: u64 = 3;

/// How many bytes may be before a ping: in the kernels on both sides, and on the network.
const BEFORE_PING: u64 = 4 * KERNEL_BYTES as u64;

/// The kernel reports a socket as writable when it has room for half of what it may hold.
const STEP: u64 = KERNEL_BYTES as u64 / 2;

/// The most that a slow pace adds to the time for an answer, in milliseconds.
const MOST_SLACK: u64 = 300_000;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LivenessVerdict {
    /// The client is alive.
    Alive,
    /// It must be checked once more, after what it may have sent is read.
    CheckAgain,
    /// Bytes wait for it, and it has read none for too long.
    Stalled,
    /// It did not answer a ping.
    Silent,
}

/// The signs of life of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    /// When it last sent something, or read bytes that had waited.
    alive: Millis,
    /// When it last read bytes that had waited, or none were waiting.
    moved: Millis,
    /// When the oldest unanswered ping was sent.
    pinged: Option<Millis>,
    /// The extra time for an answer because of its pace, in milliseconds.
    slack: u64,
    /// Whether the last check found no sign of life.
    was_silent: bool,
}

impl Liveness {
    pub(crate) fn new(now: Millis) -> Self {
        Self { alive: now, moved: now, pinged: None, slack: 0, was_silent: false }
    }

    /// The client sent something.
    pub(crate) fn received(&mut self, now: Millis) {
        (self.alive, self.pinged, self.slack, self.was_silent) = (now, None, 0, false);
    }

    /// The kernel accepted `bytes` of those that waited for it.
    pub(crate) fn accepted(&mut self, now: Millis, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.slack = (now.since(self.alive) * BEFORE_PING / (bytes as u64).max(STEP)).min(MOST_SLACK);
        (self.alive, self.moved, self.was_silent) = (now, now, false);
    }

    /// A ping was passed to the kernel.
    pub(crate) fn pinged(&mut self, now: Millis) {
        self.pinged.get_or_insert(now);
    }

    /// Checks the client. Must be called once in a heartbeat, and again after [`LivenessVerdict::CheckAgain`]. `waits`:
    /// bytes wait for the kernel. `patience` is how long a client may read nothing at least, in milliseconds.
    pub(crate) fn check(&mut self, now: Millis, heartbeat: u64, patience: u64, waits: bool) -> LivenessVerdict {
        let silence = heartbeat * SILENT_HEARTBEATS;
        let verdict = if waits {
            if now.since(self.moved) >= silence.max(patience) {
                LivenessVerdict::Stalled
            } else {
                LivenessVerdict::Alive
            }
        } else {
            self.moved = now;
            match self.pinged {
                Some(pinged) if now.since(pinged.max(self.alive)) >= silence + self.slack => LivenessVerdict::Silent,
                _ => LivenessVerdict::Alive,
            }
        };
        let was_silent_before = std::mem::replace(&mut self.was_silent, verdict != LivenessVerdict::Alive);
        if verdict == LivenessVerdict::Alive || was_silent_before { verdict } else { LivenessVerdict::CheckAgain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: u64 = 15_000;
    const PATIENCE: u64 = 10_000;

    /// The result of a check, or of a second one if the first is doubtful.
    fn check(liveness: &mut Liveness, at: u64, waits: bool) -> LivenessVerdict {
        match liveness.check(Millis(at), HEARTBEAT, PATIENCE, waits) {
            LivenessVerdict::CheckAgain => liveness.check(Millis(at + 1), HEARTBEAT, PATIENCE, waits),
            verdict => verdict,
        }
    }

    #[test]
    fn client_is_silent_three_heartbeats_after_an_unanswered_ping() {
        let mut liveness = Liveness::new(Millis(0));
        // Without a ping silence means nothing.
        assert_eq!(check(&mut liveness, 10 * HEARTBEAT, false), LivenessVerdict::Alive);
        for beat in 10..13 {
            liveness.pinged(Millis(beat * HEARTBEAT));
            assert_eq!(check(&mut liveness, (beat + 1) * HEARTBEAT - 1, false), LivenessVerdict::Alive);
        }
        assert_eq!(check(&mut liveness, 13 * HEARTBEAT, false), LivenessVerdict::Silent);
        liveness.received(Millis(13 * HEARTBEAT));
        assert_eq!(check(&mut liveness, 20 * HEARTBEAT, false), LivenessVerdict::Alive);
    }

    #[test]
    fn client_that_reads_steadily_is_alive_for_any_time() {
        let mut liveness = Liveness::new(Millis(0));
        liveness.pinged(Millis(0));
        for second in 1..600 {
            liveness.accepted(Millis(second * 1_000), 8_192);
            assert_eq!(check(&mut liveness, second * 1_000, true), LivenessVerdict::Alive, "after {second} s");
        }
        // Everything is sent, and the ping is behind what the kernels hold: 256 KiB at 8 KiB a second take 32 seconds.
        let end = 599_000;
        assert_eq!(check(&mut liveness, end + 3 * HEARTBEAT + 7_000, false), LivenessVerdict::Alive);
        assert_eq!(check(&mut liveness, end + 3 * HEARTBEAT + 8_000, false), LivenessVerdict::Silent);
    }

    #[test]
    fn client_that_reads_nothing_is_stalled_even_if_it_sends() {
        let mut liveness = Liveness::new(Millis(0));
        assert_eq!(check(&mut liveness, 1_000, false), LivenessVerdict::Alive);
        for second in 2..46 {
            liveness.received(Millis(second * 1_000));
            assert_eq!(check(&mut liveness, second * 1_000, true), LivenessVerdict::Alive, "after {second} s");
        }
        assert_eq!(check(&mut liveness, 46_000, true), LivenessVerdict::Stalled);
        // With a short heartbeat interval `patience` still holds.
        let mut liveness = Liveness::new(Millis(0));
        assert_eq!(liveness.check(Millis(9_999), 100, PATIENCE, true), LivenessVerdict::Alive);
        assert_eq!(liveness.check(Millis(10_000), 100, PATIENCE, true), LivenessVerdict::CheckAgain);
        assert_eq!(liveness.check(Millis(10_100), 100, PATIENCE, true), LivenessVerdict::Stalled);
    }

    #[test]
    fn client_whose_answer_is_unread_is_not_given_up() {
        for waits in [false, true] {
            let mut liveness = Liveness::new(Millis(0));
            liveness.pinged(Millis(0));
            // The process was suspended for an hour.
            let late = 3_600_000;
            assert_eq!(liveness.check(Millis(late), HEARTBEAT, PATIENCE, waits), LivenessVerdict::CheckAgain);
            if waits {
                liveness.accepted(Millis(late + 1), 100)
            } else {
                liveness.received(Millis(late + 1))
            }
            assert_eq!(liveness.check(Millis(late + 1_000), HEARTBEAT, PATIENCE, waits), LivenessVerdict::Alive);
            // The next silence is doubtful again.
            liveness.pinged(Millis(late + 2_000));
            let later = Millis(2 * late);
            assert_eq!(liveness.check(later, HEARTBEAT, PATIENCE, waits), LivenessVerdict::CheckAgain);
        }
    }

    #[test]
    fn extra_time_for_a_slow_pace_ends_with_the_next_answer() {
        let mut liveness = Liveness::new(Millis(0));
        liveness.accepted(Millis(10_000), 10);
        liveness.received(Millis(11_000));
        liveness.pinged(Millis(12_000));
        assert_eq!(check(&mut liveness, 12_000 + 3 * HEARTBEAT, false), LivenessVerdict::Silent);
        // The extra time is five minutes at most.
        let mut liveness = Liveness::new(Millis(0));
        liveness.accepted(Millis(10_000_000), 10);
        liveness.pinged(Millis(10_000_000));
        assert_eq!(check(&mut liveness, 10_000_000 + 3 * HEARTBEAT + MOST_SLACK, false), LivenessVerdict::Silent);
    }
}
