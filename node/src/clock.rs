//! The clock that nodes pass into pure code.

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
