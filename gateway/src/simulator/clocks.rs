//! The clocks that shards read. Each thread has its own, since each thread runs a simulation of its own.

use std::cell::Cell;
use std::time::Duration;

use tickwire_core::event::Timestamp;
use tickwire_core::ids::Millis;

thread_local! {
    /// The simulated time.
    static NOW: Cell<Millis> = const { Cell::new(Millis(0)) };
    /// How long the work of this thread has taken, in microseconds.
    static WORK: Cell<u64> = const { Cell::new(0) };
    /// How far the clock of the current node's host is ahead of the true time of day, in milliseconds.
    static AHEAD: Cell<i64> = const { Cell::new(0) };
}

/// The time of day at simulated time 0.
const BEGIN: Duration = Duration::from_secs(1_700_000_000);

/// The time of day on the host of the node that has its turn.
pub(super) fn wall() -> Duration {
    BEGIN + Duration::from_millis(NOW.get().0.saturating_add_signed(AHEAD.get()))
}

/// Sets how far the clock of the current host is ahead of the true time of day, in milliseconds.
pub(super) fn set_host_ahead(ahead: i64) {
    AHEAD.set(ahead);
}

/// The true time of day after `time` has passed.
pub(super) fn time_of_day_in(time: Duration) -> Duration {
    BEGIN + Duration::from_millis(NOW.get().0) + time
}

/// The true time of day at a simulated time.
pub(super) fn time_of_day(at: Millis) -> Timestamp {
    Timestamp((BEGIN.as_millis() as i64) + at.0 as i64)
}

/// A clock that moves on by 40 µs whenever it is read, so that work takes time.
pub(super) fn work() -> Duration {
    WORK.set(WORK.get() + 40);
    Duration::from_micros(WORK.get())
}

/// How long work has taken so far. Reading this takes no time.
pub(super) fn work_done() -> Duration {
    Duration::from_micros(WORK.get())
}

/// The simulated time at a true time of day.
pub(super) fn moment(time: Timestamp) -> Millis {
    Millis((time.0 - BEGIN.as_millis() as i64) as u64)
}

/// The simulated time.
pub(super) fn now() -> Millis {
    NOW.get()
}

/// Sets the simulated time.
pub(super) fn set(now: Millis) {
    NOW.set(now);
}
