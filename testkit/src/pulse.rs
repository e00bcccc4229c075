//! Measures for how long the machine keeps this process from running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the thread sleeps at a time.
const PAUSE: Duration = Duration::from_millis(10);

/// A thread that sleeps again and again, and notes how late it wakes up. It ends when this is dropped.
///
/// A test that times other processes allows for this: if the machine stands still for a second, these processes do too.
#[derive(Debug)]
pub struct Pulse {
    longest_ms: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Pulse {
    /// Starts it.
    #[must_use]
    pub fn start() -> Self {
        let pulse = Self { longest_ms: Arc::default(), stop: Arc::default() };
        let (longest, stop) = (Arc::clone(&pulse.longest_ms), Arc::clone(&pulse.stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(PAUSE);
                let late = begun.elapsed().saturating_sub(PAUSE);
                longest.fetch_max(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        pulse
    }

    /// How much longer something may take than it would on a machine without pauses: all processes wait as long as this
    /// one if the machine stands still, and some wait for each other.
    #[must_use]
    pub fn allowance(&self) -> Duration {
        4 * self.longest()
    }

    /// By how much it woke up late at most so far.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.longest_ms.load(Ordering::Relaxed))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
