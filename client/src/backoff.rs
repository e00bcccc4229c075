//! When to reconnect: exponential backoff with full jitter, so that clients that were disconnected together do not
//! reconnect together. Pure: the caller sleeps, and passes the random number generator in.

use std::time::Duration;

use rand::Rng;
use tickwire_core::backoff::Backoff;
use tickwire_core::protocol::codes::Reconnect;

/// The bounds of the pauses between attempts. The n-th pause is uniformly random from 0 to `base · 2ⁿ`, at most
/// `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectDelays {
    /// The longest first pause.
    pub base: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Default for ReconnectDelays {
    fn default() -> Self {
        Self { base: Duration::from_millis(200), max: Duration::from_secs(10) }
    }
}

impl ReconnectDelays {
    /// The longest pause after this many failures in a row.
    fn ceiling(self, failures: u32) -> Duration {
        let backoff = Backoff { first: whole_nanos(self.base), most: whole_nanos(self.max) };
        Duration::from_nanos(backoff.after(failures.saturating_add(1)))
    }
}

/// The reconnect attempts of one client.
#[derive(Debug)]
pub(crate) struct Retries {
    backoff: Option<ReconnectDelays>,
    failures: u32,
}

impl Retries {
    pub(crate) fn new(backoff: Option<ReconnectDelays>) -> Self {
        Self { backoff, failures: 0 }
    }

    /// A session lasted long enough: the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt; `None` if there must be no attempt. `requested` is the pause that the server
    /// asked for; the result is never shorter. Without it, [`Reconnect::After`] gives at least half of the longest
    /// pause.
    pub(crate) fn next(
        &mut self,
        verdict: Reconnect,
        requested: Option<Duration>,
        rng: &mut impl Rng,
    ) -> Option<Duration> {
        let backoff = self.backoff.filter(|_| verdict != Reconnect::No)?;
        let (least, most) = match (verdict, requested) {
            (Reconnect::After, None) => (backoff.max / 2, backoff.max),
            _ => (Duration::ZERO, backoff.ceiling(self.failures)),
        };
        self.failures = self.failures.saturating_add(1);
        let drawn = Duration::from_millis(rng.random_range(whole_millis(least)..=whole_millis(most)));
        Some(requested.map_or(drawn, |requested| requested.max(drawn)))
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn whole_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const BACKOFF: ReconnectDelays = ReconnectDelays { base: Duration::from_millis(200), max: Duration::from_secs(10) };

    #[test]
    fn ceilings_double_up_to_the_longest_pause() {
        let ceilings = [0, 1, 2, 5, 6, 40, u32::MAX].map(|failures| BACKOFF.ceiling(failures).as_millis());
        assert_eq!(ceilings, [200, 400, 800, 6_400, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn pauses_fill_the_whole_range_below_the_ceiling() {
        let mut rng = StdRng::seed_from_u64(7);
        let drawn: Vec<_> = (0..2_000)
            .filter_map(|_| Retries::new(Some(BACKOFF)).next(Reconnect::Yes, None, &mut rng))
            .map(|pause| pause.as_millis())
            .collect();
        assert_eq!(drawn.len(), 2_000);
        assert!(drawn.iter().all(|pause| *pause <= 200));
        for quarter in 0..4 {
            let hits = drawn.iter().filter(|pause| *pause * 4 / 201 == quarter).count();
            assert!((400..600).contains(&hits), "{hits} of 2000 pauses in quarter {quarter}");
        }
    }

    #[test]
    fn range_shrinks_only_after_a_reset() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut retries = Retries::new(Some(BACKOFF));
        for _ in 0..20 {
            retries.next(Reconnect::Yes, None, &mut rng);
        }
        assert_eq!(BACKOFF.ceiling(retries.failures), BACKOFF.max);
        retries.reset();
        assert!(retries.next(Reconnect::Yes, None, &mut rng) <= Some(BACKOFF.base));
    }

    #[test]
    fn pause_follows_the_verdict_and_the_requested_pause() {
        let mut rng = StdRng::seed_from_u64(7);
        let requested = Duration::from_secs(60);
        assert_eq!(Retries::new(None).next(Reconnect::Yes, None, &mut rng), None);
        assert_eq!(Retries::new(Some(BACKOFF)).next(Reconnect::No, Some(requested), &mut rng), None);
        for verdict in [Reconnect::Yes, Reconnect::After] {
            assert_eq!(Retries::new(Some(BACKOFF)).next(verdict, Some(requested), &mut rng), Some(requested));
        }
        for _ in 0..100 {
            let pause = Retries::new(Some(BACKOFF)).next(Reconnect::After, None, &mut rng);
            assert!((Some(BACKOFF.max / 2)..=Some(BACKOFF.max)).contains(&pause), "{pause:?}");
        }
    }
}
