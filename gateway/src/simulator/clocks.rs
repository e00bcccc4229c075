//! The clocks that shards read, for the run of this thread.

use std::cell::Cell;
use std::time::Duration;

use tickwire_core::ids::Millis;

thread_local! {
    static NOW: Cell<Millis> = const { Cell::new(Millis(0)) };
    static WORK: Cell<u64> = const { Cell::new(0) };
}

/// The time of day of the world.
pub(super) fn wall() -> Duration {
    Duration::from_secs(1_700_000_000) + Duration::from_millis(NOW.get().0)
}

/// A clock that goes on a little whenever somebody looks at it, so that work takes time.
pub(super) fn work() -> Duration {
    WORK.set(WORK.get() + 40);
    Duration::from_micros(WORK.get())
}

/// The time of the world is this from now on.
pub(super) fn set(now: Millis) {
    NOW.set(now);
}
