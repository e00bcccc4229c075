//! What can be wrong with a line, several things at once if need be.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use tokio::time::Instant;

/// A direction of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From who connected to who listens.
    There,
    /// From who listens.
    Back,
}

/// The state of a line. By default nothing is wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Connections end, and new ones are closed at once.
    pub(crate) is_cut: bool,
    /// Connections end, and new ones are refused.
    pub(crate) refuses: bool,
    /// Nothing is carried, not even the end of a connection, and nothing is lost.
    pub(crate) is_stalled: bool,
    /// Everything takes so long, give or take the second; never less than nothing, and in order.
    pub(crate) delay: Option<(Duration, Duration)>,
    /// One direction takes so much longer.
    pub(crate) late: Option<(Way, Duration)>,
    /// So many bytes a second are carried in each direction of a connection.
    pub(crate) rate: Option<u32>,
    /// So many bytes are written at a time.
    pub(crate) slice: Option<usize>,
    /// A connection is closed after so many bytes in one direction.
    pub(crate) most: Option<usize>,
    /// Each connection is reset after a while, at most this.
    pub(crate) resets: Option<Duration>,
    /// What delays are drawn from.
    pub(crate) seed: u64,
}

impl Weather {
    /// How many of `count` bytes are written at a time.
    pub(super) fn piece(&self, count: usize) -> usize {
        // A rate is kept by a pause after each twentieth of a second's worth.
        let by_rate = self.rate.map_or(count, |rate| (rate as usize / 20).max(1));
        count.min(by_rate).min(self.slice.unwrap_or(count))
    }

    /// How long to wait after so many bytes.
    pub(super) fn pause(&self, count: usize) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(count as f64 / f64::from(rate)))
    }
}

/// When what was read is due at the other end.
#[derive(Debug)]
pub(super) struct Delays {
    way: Way,
    rng: StdRng,
    seed: u64,
    last: Instant,
}

impl Delays {
    pub(super) fn new(way: Way) -> Self {
        Self { way, rng: StdRng::seed_from_u64(0), seed: 0, last: Instant::now() }
    }

    pub(super) fn due(&mut self, now: Instant, weather: &Weather) -> Instant {
        if self.seed != weather.seed {
            (self.rng, self.seed) = (StdRng::seed_from_u64(weather.seed), weather.seed);
        }
        let mut seconds = 0.0;
        if let Some((delay, jitter)) = weather.delay {
            let jitter = jitter.as_secs_f64();
            seconds = (delay.as_secs_f64() + self.rng.random_range(-jitter..=jitter)).max(0.0);
        }
        if let Some((way, late)) = weather.late
            && way == self.way
        {
            seconds += late.as_secs_f64();
        }
        self.last = self.last.max(now + Duration::from_secs_f64(seconds));
        self.last
    }
}
