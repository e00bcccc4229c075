//! How fast all replays together may read. Each reserves time for what it has read before it reads on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A rate that several share.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    /// What one message takes, in nanoseconds.
    each: u64,
    /// When all that was reserved is over, in nanoseconds since the start.
    free_at: AtomicU64,
}

impl Pace {
    /// So many messages a second.
    pub(super) fn new(rate: u32) -> Self {
        Self { start: Instant::now(), each: 1_000_000_000 / u64::from(rate.max(1)), free_at: AtomicU64::new(0) }
    }

    /// Reserves the time of `messages`, and waits until it is over.
    pub(super) async fn wait(&self, messages: u64) {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let reserve = |free_at: u64| free_at.max(now).saturating_add(messages.saturating_mul(self.each));
        // One number, read and written by itself: nothing else hangs on its order.
        let before = self.free_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(reserve(at)));
        let (Ok(before) | Err(before)) = before;
        sleep_until(self.start + Duration::from_nanos(reserve(before))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_together_keep_to_the_rate_and_nothing_is_saved_up() {
        let pace = Pace::new(1_000);
        let start = Instant::now();
        tokio::join!(pace.wait(100), pace.wait(200), pace.wait(300));
        assert_eq!(start.elapsed().as_millis(), 600);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let start = Instant::now();
        pace.wait(250).await;
        assert_eq!(start.elapsed().as_millis(), 250);
    }
}
