//! The clock of a node, whose time is passed into pure code.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Millis;
use tokio::time::Instant;

/// Milliseconds since the clock was started. Copies agree; clocks of different processes are not related.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The current time.
    pub fn now(self) -> Millis {
        Millis(millis(self.0.elapsed()))
    }

    /// The time that this clock showed at that moment.
    pub fn shown(self, at: Instant) -> Millis {
        Millis(millis(at.saturating_duration_since(self.0)))
    }

    /// The `Instant` of a time of this clock, for waiting.
    pub fn at(self, moment: Millis) -> Instant {
        self.0 + Duration::from_millis(moment.0)
    }
}

/// A duration in milliseconds, the unit of pure code, rounded down.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time of day, as the duration since 1970: to compare with stored times, never to wait.
pub fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The time of day as a timestamp, to compare with stored times or to store.
pub fn timestamp_now() -> Timestamp {
    Timestamp(i64::try_from(millis(wall_clock())).unwrap_or(i64::MAX))
}

/// How many milliseconds this host's clock is ahead of another one that showed `other` between `before` and `after` of
/// this host's, below 0 if it is behind: the smallest difference that explains the three times.
pub fn ahead_of(other: Timestamp, before: Timestamp, after: Timestamp) -> i64 {
    other.0.clamp(before.0, after.0.max(before.0)).saturating_sub(other.0)
}

/// Where the monotonic time of this process begins.
static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// A monotonic time, to measure how long work takes.
pub fn monotonic() -> Duration {
    START.elapsed()
}

/// The same at that moment.
pub fn monotonic_at(at: Instant) -> Duration {
    at.into_std().saturating_duration_since(*START)
}

/// Shares a loop between its inputs and the clock, whatever is due.
///
/// After each turn of the clock the inputs have a turn, and the next turn of the clock begins a millisecond later at
/// the earliest. So a deadline that stays in the past (a bug) neither blocks the inputs nor makes the loop spin.
#[derive(Debug, Default)]
pub struct Turns {
    /// When the last turn of the clock began.
    last: Option<Millis>,
    /// Whether `just_taken` has not returned it yet.
    is_new: bool,
    is_inputs: bool,
}

impl Turns {
    /// When the clock's next turn is, if the next deadline is `due`.
    pub fn next(&self, due: Millis) -> Millis {
        self.last.map_or(due, |last| due.max(last.plus(1)))
    }

    /// Whether this turn is for the inputs only.
    pub fn is_inputs(&mut self) -> bool {
        std::mem::take(&mut self.is_inputs)
    }

    /// Notes that this was a turn of the clock, which began at `begun`.
    pub fn took(&mut self, begun: Millis) {
        *self = Self { last: Some(begun), is_new: true, is_inputs: true };
    }

    /// When the last turn of the clock began; returned once. What was due then must not be due any more.
    pub fn just_taken(&mut self) -> Option<Millis> {
        self.last.filter(|_| std::mem::take(&mut self.is_new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_of_clocks_is_the_smallest_that_explains_the_times() {
        let ahead = |other, before, after| ahead_of(Timestamp(other), Timestamp(before), Timestamp(after));
        assert_eq!([ahead(15, 10, 20), ahead(25, 10, 20), ahead(4, 10, 20)], [0, -5, 6]);
        // The clock was set back in between.
        assert_eq!(ahead(15, 20, 10), 5);
    }

    #[test]
    fn overdue_deadline_neither_blocks_inputs_nor_spins() {
        let mut turns = Turns::default();
        assert_eq!((turns.next(Millis(3)), turns.is_inputs(), turns.just_taken()), (Millis(3), false, None));
        turns.took(Millis(5));
        assert_eq!((turns.just_taken(), turns.just_taken()), (Some(Millis(5)), None));
        assert_eq!((turns.next(Millis(3)), turns.next(Millis(9))), (Millis(6), Millis(9)));
        assert_eq!((turns.is_inputs(), turns.is_inputs()), (true, false));
    }
}
