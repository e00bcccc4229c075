//! The limits of what is read from a client: in a turn, before other clients have theirs, and in a second. Bytes beyond
//! them wait in the client's connection, where TCP slows the client down.
//!
//! Pure: the time is passed in. The driver of the socket begins a turn when there is something to read.

use std::time::Duration;

use tokio::time::Instant;

/// How many bytes are read in a turn at most.
const TURN_BYTES: u32 = 16 * 1024;

/// After how many frames no more bytes are read in a turn.
const TURN_FRAMES: u32 = 64;

/// The period of a rate.
const PERIOD: Duration = Duration::from_secs(1);

/// What a client may send in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadRate {
    pub(crate) frames: u32,
    pub(crate) bytes: u32,
}

/// The budget of a client.
#[derive(Clone, Debug)]
pub(crate) struct ReadBudget {
    rate: ReadRate,
    /// When the current second began.
    since: Instant,
    /// What may still be read in it.
    left: ReadRate,
    /// What may still be read in this turn.
    turn: ReadRate,
}

impl ReadBudget {
    /// The budget of a client that has sent nothing yet, outside of a turn.
    pub(crate) fn new(rate: ReadRate, now: Instant) -> Self {
        Self { rate, since: now, left: rate, turn: ReadRate { frames: 0, bytes: 0 } }
    }

    /// Begins a turn.
    ///
    /// # Errors
    /// When the client has used up its budget of a second. The error is the time from which on it may be read again.
    pub(crate) fn begin(&mut self, now: Instant) -> Result<(), Instant> {
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.since, self.left) = (now, self.rate);
        }
        if self.left.frames == 0 || self.left.bytes == 0 {
            return Err(self.since + PERIOD);
        }
        self.turn = ReadRate { frames: TURN_FRAMES.min(self.left.frames), bytes: TURN_BYTES.min(self.left.bytes) };
        Ok(())
    }

    /// How many bytes may be read now. 0 ends the turn.
    pub(super) fn allowance(&self) -> usize {
        if self.turn.frames == 0 { 0 } else { self.turn.bytes as usize }
    }

    /// Counts what was read.
    pub(super) fn spend(&mut self, bytes: usize, frames: u32) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        for budget in [&mut self.left, &mut self.turn] {
            budget.bytes = budget.bytes.saturating_sub(bytes);
            budget.frames = budget.frames.saturating_sub(frames);
        }
    }
}

#[cfg(test)]
impl ReadBudget {
    /// A turn that ends after `frames` or `bytes`.
    pub(super) fn of_a_turn(frames: u32, bytes: u32) -> Self {
        let turn = ReadRate { frames, bytes };
        Self { rate: turn, since: Instant::now(), left: turn, turn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_turn_and_of_a_second_both_hold_and_are_renewed() {
        let start = Instant::now();
        let rate = ReadRate { frames: 100, bytes: 40_000 };
        let mut pace = ReadBudget::new(rate, start);
        assert_eq!(pace.allowance(), 0, "it is not its turn");
        pace.begin(start).unwrap();
        assert_eq!(pace.allowance(), TURN_BYTES as usize);
        pace.spend(10, TURN_FRAMES);
        assert_eq!(pace.allowance(), 0, "too many frames for a turn");
        pace.begin(start).unwrap();
        pace.spend(10, 35);
        assert_eq!(pace.allowance(), TURN_BYTES as usize - 10);
        pace.spend(10, 1);
        assert_eq!(pace.begin(start + PERIOD / 2), Err(start + PERIOD), "too many frames for a second");
        pace.begin(start + PERIOD).unwrap();
        for _ in 0..2 {
            pace.spend(TURN_BYTES as usize, 1);
            assert_eq!(pace.allowance(), 0, "too many bytes for a turn");
            pace.begin(start + PERIOD).unwrap();
        }
        assert_eq!(pace.allowance(), 40_000 - 2 * TURN_BYTES as usize);
        pace.spend(TURN_BYTES as usize, 1);
        assert_eq!(pace.begin(start + PERIOD), Err(start + PERIOD * 2), "too many bytes for a second");
    }
}
