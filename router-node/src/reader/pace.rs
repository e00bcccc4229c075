//! The rate at which all replays together may read. Each reserves time for what it has read before it continues.
//! Repairs wait only for other repairs. If they use the whole rate, backfills read a quarter more beside them, so that
//! repairs without end do not stop them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The shortest wait. The timer is no finer than a millisecond, and many short waits would each be rounded up.
const FINEST: Duration = Duration::from_millis(2);

/// A rate that all replays share.
#[derive(Debug)]
pub(crate) struct ReplayPace {
    start: Instant,
    /// The time for one message, in nanoseconds.
    each: u64,
    /// The end of the time that backfills have reserved, and of three quarters of that of repairs, in nanoseconds since
    /// the start.
    free_at: AtomicU64,
    /// The end of the time that repairs have reserved, in the same way.
    repairs_free_at: AtomicU64,
}

impl ReplayPace {
    /// A rate of `rate` messages a second.
    pub(crate) fn new(rate: u32) -> Self {
        Self {
            start: Instant::now(),
            each: 1_000_000_000 / u64::from(rate.max(1)),
            free_at: AtomicU64::new(0),
            repairs_free_at: AtomicU64::new(0),
        }
    }

    /// Reserves the time for `messages`, and waits until it is over, or nearly so.
    pub(crate) async fn wait(&self, messages: u64, is_repair: bool) {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // The excess of the last wait is deducted, up to the shortest wait. Longer idle time does not add up.
        let least = now.saturating_sub(FINEST.as_nanos() as u64);
        let cost = messages.saturating_mul(self.each);
        // Relaxed, because no other memory depends on the order of these accesses.
        let after = |line: &AtomicU64, cost: u64| {
            let reserve = |free_at: u64| free_at.max(least).saturating_add(cost);
            let before = line.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(reserve(at)));
            let (Ok(before) | Err(before)) = before;
            reserve(before)
        };
        let all = after(&self.free_at, if is_repair { cost / 4 * 3 } else { cost });
        let until = Duration::from_nanos(if is_repair { after(&self.repairs_free_at, cost) } else { all });
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
    async fn repair_is_not_delayed_by_backfill() {
        let pace = ReplayPace::new(1_000);
        let start = Instant::now();
        let others = async {
            pace.wait(500, false).await;
            start.elapsed().as_millis()
        };
        let repair = async {
            tokio::task::yield_now().await;
            pace.wait(100, true).await;
            let repair = start.elapsed().as_millis();
            pace.wait(100, false).await;
            (repair, start.elapsed().as_millis())
        };
        let (others, (repair, behind)) = tokio::join!(others, repair);
        assert!((98..=102).contains(&repair), "{repair} ms");
        assert!((498..=502).contains(&others), "{others} ms");
        assert!((673..=677).contains(&behind), "{behind} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn repairs_without_end_leave_a_part_of_the_rate_to_backfills() {
        let pace = ReplayPace::new(1_000);
        let start = Instant::now();
        let repairs = async {
            loop {
                pace.wait(100, true).await;
            }
        };
        let backfills = async {
            for _ in 0..10 {
                pace.wait(100, false).await;
            }
        };
        tokio::select! {
            () = repairs => {}
            () = backfills => {}
        }
        let took = start.elapsed().as_millis();
        // The first ones wait for few repairs, the later ones for up to 400 ms each.
        assert!((2_900..=3_200).contains(&took), "{took} ms");
    }
}
