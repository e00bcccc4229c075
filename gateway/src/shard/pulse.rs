//! Whether a client lives. Pure: it is told what happened, and when.
//!
//! What a client sends is a sign of life, and so is what it reads: bytes that waited for the kernel and went. While bytes
//! wait no ping is sent, so none can be missed; a client that takes nothing in is slow then, not silent. A ping that was
//! sent stands behind what the kernel had taken before, and its answer has the time that this needs at the pace that
//! was seen.
//!
//! A process that stood still, or had too much to do, finds clients silent whose answers wait to be read. So none is given
//! up at the first look: what came meanwhile is read before the second.

use tickwire_core::ids::Millis;

/// After so many heartbeats without an answer to a ping a client is given up.
const SILENT_HEARTBEATS: u64 = 3;

/// How much the kernel holds of a connection's bytes that it has not sent. Without a bound it takes megabytes, and a ping
/// behind them reaches a client on a slow link minutes later.
pub(crate) const KERNEL_BYTES: u32 = 64 * 1024;

/// What may stand before a ping: what the kernels on both sides hold, and what is on its way.
const BEFORE_PING: u64 = 4 * KERNEL_BYTES as u64;

/// The kernel tells that it takes bytes again when it has room for half of what it holds.
const STEP: u64 = KERNEL_BYTES as u64 / 2;

/// The most that a slow pace adds to the time for an answer, in milliseconds.
const MOST_SLACK: u64 = 300_000;

/// What a look at a client shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PulseVerdict {
    /// It lives.
    Alive,
    /// It is to be looked at once more, as soon as what it may have said is read.
    Doubtful,
    /// Bytes wait for it, and it has taken none for too long.
    Stalled,
    /// It did not answer a ping.
    Silent,
}

/// The signs of life of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// When it last sent something, or took bytes that had waited.
    alive: Millis,
    /// When it last took bytes that had waited, or none were waiting.
    moved: Millis,
    /// When the oldest ping that it has not answered was sent.
    pinged: Option<Millis>,
    /// What its pace adds to the time for an answer, in milliseconds.
    slack: u64,
    /// Whether it showed no sign of life when it was last looked at.
    doubted: bool,
}

impl Pulse {
    pub(crate) fn new(now: Millis) -> Self {
        Self { alive: now, moved: now, pinged: None, slack: 0, doubted: false }
    }

    /// The client sent something.
    pub(crate) fn heard(&mut self, now: Millis) {
        (self.alive, self.pinged, self.slack, self.doubted) = (now, None, 0, false);
    }

    /// The kernel took so many of the bytes that waited for it.
    pub(crate) fn took(&mut self, now: Millis, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.slack = (now.since(self.alive) * BEFORE_PING / (bytes as u64).max(STEP)).min(MOST_SLACK);
        (self.alive, self.moved, self.doubted) = (now, now, false);
    }

    /// A ping was sent, and nothing waits before it.
    pub(crate) fn pinged(&mut self, now: Millis) {
        self.pinged.get_or_insert(now);
    }

    /// Looks at the client once in a heartbeat, or once more. `waits` is whether bytes wait for the kernel; `patience` how
    /// long a client may take nothing in at least.
    pub(crate) fn look(&mut self, now: Millis, heartbeat: u64, patience: u64, waits: bool) -> PulseVerdict {
        let silence = heartbeat * SILENT_HEARTBEATS;
        let verdict = if waits {
            if now.since(self.moved) >= silence.max(patience) { PulseVerdict::Stalled } else { PulseVerdict::Alive }
        } else {
            self.moved = now;
            match self.pinged {
                Some(pinged) if now.since(pinged.max(self.alive)) >= silence + self.slack => PulseVerdict::Silent,
                _ => PulseVerdict::Alive,
            }
        };
        let was_doubted = std::mem::replace(&mut self.doubted, verdict != PulseVerdict::Alive);
        if verdict == PulseVerdict::Alive || was_doubted { verdict } else { PulseVerdict::Doubtful }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: u64 = 15_000;
    const PATIENCE: u64 = 10_000;

    /// What a look shows, and where that is in doubt, another one.
    fn look(pulse: &mut Pulse, at: u64, waits: bool) -> PulseVerdict {
        match pulse.look(Millis(at), HEARTBEAT, PATIENCE, waits) {
            PulseVerdict::Doubtful => pulse.look(Millis(at + 1), HEARTBEAT, PATIENCE, waits),
            verdict => verdict,
        }
    }

    #[test]
    fn a_client_is_silent_three_heartbeats_after_a_ping_that_it_does_not_answer() {
        let mut pulse = Pulse::new(Millis(0));
        // Without a ping silence says nothing.
        assert_eq!(look(&mut pulse, 10 * HEARTBEAT, false), PulseVerdict::Alive);
        for beat in 10..13 {
            pulse.pinged(Millis(beat * HEARTBEAT));
            assert_eq!(look(&mut pulse, (beat + 1) * HEARTBEAT - 1, false), PulseVerdict::Alive);
        }
        assert_eq!(look(&mut pulse, 13 * HEARTBEAT, false), PulseVerdict::Silent);
        pulse.heard(Millis(13 * HEARTBEAT));
        assert_eq!(look(&mut pulse, 20 * HEARTBEAT, false), PulseVerdict::Alive);
    }

    #[test]
    fn a_client_that_reads_steadily_lives_however_long_it_takes() {
        let mut pulse = Pulse::new(Millis(0));
        pulse.pinged(Millis(0));
        for second in 1..600 {
            pulse.took(Millis(second * 1_000), 8_192);
            assert_eq!(look(&mut pulse, second * 1_000, true), PulseVerdict::Alive, "after {second} s");
        }
        // All has left, and the ping stands behind what the kernels hold: 256 KiB at 8 KiB a second take 32 seconds.
        let end = 599_000;
        assert_eq!(look(&mut pulse, end + 3 * HEARTBEAT + 7_000, false), PulseVerdict::Alive);
        assert_eq!(look(&mut pulse, end + 3 * HEARTBEAT + 8_000, false), PulseVerdict::Silent);
    }

    #[test]
    fn a_client_that_takes_nothing_in_is_stalled_even_if_it_talks() {
        let mut pulse = Pulse::new(Millis(0));
        assert_eq!(look(&mut pulse, 1_000, false), PulseVerdict::Alive);
        for second in 2..46 {
            pulse.heard(Millis(second * 1_000));
            assert_eq!(look(&mut pulse, second * 1_000, true), PulseVerdict::Alive, "after {second} s");
        }
        assert_eq!(look(&mut pulse, 46_000, true), PulseVerdict::Stalled);
        // Heartbeats that come fast make nobody impatient.
        let mut pulse = Pulse::new(Millis(0));
        assert_eq!(pulse.look(Millis(9_999), 100, PATIENCE, true), PulseVerdict::Alive);
        assert_eq!(pulse.look(Millis(10_000), 100, PATIENCE, true), PulseVerdict::Doubtful);
        assert_eq!(pulse.look(Millis(10_100), 100, PATIENCE, true), PulseVerdict::Stalled);
    }

    #[test]
    fn a_client_whose_answer_was_not_read_in_time_is_not_given_up() {
        for waits in [false, true] {
            let mut pulse = Pulse::new(Millis(0));
            pulse.pinged(Millis(0));
            // The process stood still for an hour.
            let late = 3_600_000;
            assert_eq!(pulse.look(Millis(late), HEARTBEAT, PATIENCE, waits), PulseVerdict::Doubtful);
            if waits {
                pulse.took(Millis(late + 1), 100)
            } else {
                pulse.heard(Millis(late + 1))
            }
            assert_eq!(pulse.look(Millis(late + 1_000), HEARTBEAT, PATIENCE, waits), PulseVerdict::Alive);
            // Its next silence is in doubt anew.
            pulse.pinged(Millis(late + 2_000));
            let later = Millis(2 * late);
            assert_eq!(pulse.look(later, HEARTBEAT, PATIENCE, waits), PulseVerdict::Doubtful);
        }
    }

    #[test]
    fn a_slow_pace_is_forgotten_with_the_next_answer() {
        let mut pulse = Pulse::new(Millis(0));
        pulse.took(Millis(10_000), 10);
        pulse.heard(Millis(11_000));
        pulse.pinged(Millis(12_000));
        assert_eq!(look(&mut pulse, 12_000 + 3 * HEARTBEAT, false), PulseVerdict::Silent);
        // It never gives more than five minutes.
        let mut pulse = Pulse::new(Millis(0));
        pulse.took(Millis(10_000_000), 10);
        pulse.pinged(Millis(10_000_000));
        assert_eq!(look(&mut pulse, 10_000_000 + 3 * HEARTBEAT + MOST_SLACK, false), PulseVerdict::Silent);
    }
}
