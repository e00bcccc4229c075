//! The clock that nodes pass into pure code.

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
        Millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
