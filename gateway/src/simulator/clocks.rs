//! The clocks that shards read, for the run of this thread.

use std::cell::Cell;
use std::time::Duration;

use tickwire_core::event::Timestamp;
use tickwire_core::ids::Millis;

thread_local! {
    static NOW: Cell<Millis> = const { Cell::new(Millis(0)) };
    static WORK: Cell<u64> = const { Cell::new(0) };
    /// How far the clock of the host that has a turn is ahead of the time of day, in milliseconds.
    static AHEAD: Cell<i64> = const { Cell::new(0) };
}

/// The time of day when the world began.
const BEGIN: Duration = Duration::from_secs(1_700_000_000);

/// The time of day, as the host that has a turn sees it.
pub(super) fn wall() -> Duration {
    BEGIN + Duration::from_millis(NOW.get().0.saturating_add_signed(AHEAD.get()))
}

/// A host has a turn whose clock is so far ahead of the time of day, in milliseconds.
pub(super) fn set_host_ahead(ahead: i64) {
    AHEAD.set(ahead);
}

/// The true time of day, so long from now.
pub(super) fn time_of_day_in(time: Duration) -> Duration {
    BEGIN + Duration::from_millis(NOW.get().0) + time
}

/// The time of day at a moment.
pub(super) fn time_of_day(at: Millis) -> Timestamp {
    Timestamp((BEGIN.as_millis() as i64) + at.0 as i64)
}

/// A clock that goes on a little whenever somebody looks at it, so that work takes time.
pub(super) fn work() -> Duration {
    WORK.set(WORK.get() + 40);
    Duration::from_micros(WORK.get())
}

/// How long work has taken so far.
pub(super) fn work_done() -> Duration {
    Duration::from_micros(WORK.get())
}

/// The moment of a time of day.
pub(super) fn moment(time: Timestamp) -> Millis {
    Millis((time.0 - BEGIN.as_millis() as i64) as u64)
}

/// The time of the world.
pub(super) fn now() -> Millis {
    NOW.get()
}

/// The time of the world is this from now on.
pub(super) fn set(now: Millis) {
    NOW.set(now);
}
