//! When to connect again: exponential backoff with full jitter, so that clients cut off together do not come back
//! together. Pure: the caller sleeps, and passes the source of randomness in.

use std::time::Duration;

use rand::Rng;
use tickwire_core::protocol::codes::Reconnect;

/// The bounds of the pauses between attempts. The n-th pause is drawn evenly from 0 to `base · 2ⁿ`, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectDelays {
    /// The longest first pause.
    pub base: Duration,
    /// The longest pause at all.
    pub max: Duration,
}

impl Default for ReconnectDelays {
    fn default() -> Self {
        Self { base: Duration::from_millis(200), max: Duration::from_secs(10) }
    }
}

impl ReconnectDelays {
    /// The longest pause after so many failures in a row.
    fn ceiling(self, failures: u32) -> Duration {
        self.base.saturating_mul(2_u32.saturating_pow(failures)).min(self.max)
    }
}

/// The retries of one client.
#[derive(Debug)]
pub(crate) struct Retries {
    backoff: Option<ReconnectDelays>,
    failures: u32,
}

impl Retries {
    pub(crate) fn new(backoff: Option<ReconnectDelays>) -> Self {
        Self { backoff, failures: 0 }
    }

    /// A session lasted long enough to trust the server again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt, `None` if there should be none. `messages_out` is what the server asked for, which a
    /// pause never undercuts. Without it, "after a pause" means the upper half of the longest one.
    pub(crate) fn next(
        &mut self,
        verdict: Reconnect,
        messages_out: Option<Duration>,
        rng: &mut impl Rng,
    ) -> Option<Duration> {
        let backoff = self.backoff.filter(|_| verdict != Reconnect::No)?;
        let (least, most) = match (verdict, messages_out) {
            (Reconnect::After, None) => (backoff.max / 2, backoff.max),
            _ => (Duration::ZERO, backoff.ceiling(self.failures)),
        };
        self.failures = self.failures.saturating_add(1);
        let drawn = Duration::from_millis(rng.random_range(whole_millis(least)..=whole_millis(most)));
        Some(messages_out.map_or(drawn, |messages_out| messages_out.max(drawn)))
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
    fn only_a_reset_shortens_the_range_again() {
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
    fn a_verdict_and_what_the_server_told_decide() {
        let mut rng = StdRng::seed_from_u64(7);
        let messages_out = Duration::from_secs(60);
        assert_eq!(Retries::new(None).next(Reconnect::Yes, None, &mut rng), None);
        assert_eq!(Retries::new(Some(BACKOFF)).next(Reconnect::No, Some(messages_out), &mut rng), None);
        for verdict in [Reconnect::Yes, Reconnect::After] {
            assert_eq!(Retries::new(Some(BACKOFF)).next(verdict, Some(messages_out), &mut rng), Some(messages_out));
        }
        for _ in 0..100 {
            let pause = Retries::new(Some(BACKOFF)).next(Reconnect::After, None, &mut rng);
            assert!((Some(BACKOFF.max / 2)..=Some(BACKOFF.max)).contains(&pause), "{pause:?}");
        }
    }
}
