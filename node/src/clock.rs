//! The clock that nodes pass into pure code.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tickwire_core::ids::Millis;
use tokio::time::Instant;

/// Milliseconds since the clock was started. Copies agree; clocks of different processes have nothing in common.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time on it.
    pub fn now(self) -> Millis {
        Millis(millis(self.0.elapsed()))
    }

    /// When it shows that time, for waiting.
    pub fn at(self, moment: Millis) -> Instant {
        self.0 + Duration::from_millis(moment.0)
    }
}

/// A duration in the unit of pure code, rounded down.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time of day, as the duration since 1970: for comparing with what others have stored, never for waiting.
pub fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A time that only ever grows, for measuring how long work takes.
pub fn monotonic() -> Duration {
    static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// Gives inputs their turn in a loop that waits for them and for the clock, whatever is due.
///
/// A turn of the clock is followed by one of the inputs, and the next comes a millisecond later at the earliest. So a
/// deadline that stays in the past, which is a bug, makes the loop neither deaf nor busy.
#[derive(Debug, Default)]
pub struct Turns {
    /// When the last turn of the clock began.
    last: Option<Millis>,
    /// Whether it has just been taken.
    is_new: bool,
    is_inputs: bool,
}

impl Turns {
    /// When the clock's next turn is, if something is due at `due`.
    pub fn next(&self, due: Millis) -> Millis {
        self.last.map_or(due, |last| due.max(last.plus(1)))
    }

    /// Whether this turn belongs to the inputs alone.
    pub fn is_inputs(&mut self) -> bool {
        std::mem::take(&mut self.is_inputs)
    }

    /// This was a turn of the clock, which began then.
    pub fn took(&mut self, begun: Millis) {
        *self = Self { last: Some(begun), is_new: true, is_inputs: true };
    }

    /// When the turn began that was just taken, once. What was due then is not due any more, or the turn was vain.
    pub fn just_taken(&mut self) -> Option<Millis> {
        self.last.filter(|_| std::mem::take(&mut self.is_new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_have_their_turn_and_the_clock_a_pause_though_something_stays_due() {
        let mut turns = Turns::default();
        assert_eq!((turns.next(Millis(3)), turns.is_inputs(), turns.just_taken()), (Millis(3), false, None));
        turns.took(Millis(5));
        assert_eq!((turns.just_taken(), turns.just_taken()), (Some(Millis(5)), None));
        assert_eq!((turns.next(Millis(3)), turns.next(Millis(9))), (Millis(6), Millis(9)));
        assert_eq!((turns.is_inputs(), turns.is_inputs()), (true, false));
    }
}
