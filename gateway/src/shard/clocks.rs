//! The clocks that a shard reads itself, besides the time that is passed in: to measure its work, and to compare with
//! the times of tokens and events.

use std::time::Duration;

use tickwire_core::event::Timestamp;
use tickwire_node::clock::millis;

/// The clocks of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// The time of day, as the duration since 1970.
    pub(crate) wall: fn() -> Duration,
    /// A time that never goes back.
    pub(crate) monotonic: fn() -> Duration,
}

impl Clocks {
    /// The time of day, as events have it.
    pub(crate) fn time_of_day(self) -> Timestamp {
        timestamp((self.wall)())
    }
}

/// A duration since 1970 as a time of events.
pub(crate) fn timestamp(since_1970: Duration) -> Timestamp {
    Timestamp(i64::try_from(millis(since_1970)).unwrap_or(i64::MAX))
}
