//! How fast all replays together may read. Each reserves time for what it has read before it reads on. Those that come
//! first wait for each other alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Nobody waits for less: the timer is no finer than a millisecond, and many short waits would each be rounded up.
const FINEST: Duration = Duration::from_millis(2);

/// A rate that several share.
#[derive(Debug)]
pub(crate) struct ReplayPace {
    start: Instant,
    /// What one message takes, in nanoseconds.
    each: u64,
    /// When all that was reserved is over, in nanoseconds since the start.
    free_at: AtomicU64,
    /// The same of what those reserved that come first.
    first_free_at: AtomicU64,
}

impl ReplayPace {
    /// So many messages a second.
    pub(crate) fn new(rate: u32) -> Self {
        Self {
            start: Instant::now(),
            each: 1_000_000_000 / u64::from(rate.max(1)),
            free_at: AtomicU64::new(0),
            first_free_at: AtomicU64::new(0),
        }
    }

    /// Reserves the time of `messages`, and waits until it is over, or nearly so.
    pub(crate) async fn wait(&self, messages: u64, is_first: bool) {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // A wait that was longer than it should have been is made good; more than that is not saved up.
        let least = now.saturating_sub(FINEST.as_nanos() as u64);
        let reserve = |free_at: u64| free_at.max(least).saturating_add(messages.saturating_mul(self.each));
        // One number, read and written by itself: nothing else hangs on its order.
        let after = |line: &AtomicU64| {
            let before = line.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(reserve(at)));
            let (Ok(before) | Err(before)) = before;
            reserve(before)
        };
        let all = after(&self.free_at);
        let until = Duration::from_nanos(if is_first { after(&self.first_free_at) } else { all });
        if until > Duration::from_nanos(now) + FINEST {
            sleep_until(self.start + until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn concurrent_replays_share_the_rate_without_bursts() {
        let pace = ReplayPace::new(1_000);
        let start = Instant::now();
        tokio::join!(pace.wait(100, false), pace.wait(200, false), pace.wait(300, false));
        assert!((598..=600).contains(&start.elapsed().as_millis()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let start = Instant::now();
        pace.wait(250, false).await;
        assert!((248..=250).contains(&start.elapsed().as_millis()));
    }

    #[tokio::test(start_paused = true)]
    async fn short_waits_keep_the_rate() {
        let pace = ReplayPace::new(50_000);
        let start = Instant::now();
        for _ in 0..5_000 {
            pace.wait(10, false).await;
        }
        let took = start.elapsed().as_millis();
        assert!((995..=1_000).contains(&took), "{took} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn first_replay_is_not_delayed_by_later_ones() {
        let pace = ReplayPace::new(1_000);
        let start = Instant::now();
        let others = async {
            pace.wait(500, false).await;
            start.elapsed().as_millis()
        };
        let first = async {
            tokio::task::yield_now().await;
            pace.wait(100, true).await;
            let first = start.elapsed().as_millis();
            pace.wait(100, false).await;
            (first, start.elapsed().as_millis())
        };
        let (others, (first, behind)) = tokio::join!(others, first);
        assert!((98..=102).contains(&first), "{first} ms");
        assert!((498..=502).contains(&others), "{others} ms");
        assert!((698..=702).contains(&behind), "{behind} ms");
    }
}
