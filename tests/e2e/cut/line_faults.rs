//! The faults of a line, several at once if needed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use tokio::time::Instant;

/// A direction of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineDirection {
    /// From the connecting side to the listening side.
    Forward,
    /// From the listening side.
    Backward,
}

/// The faults of a line. By default there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LineFaults {
    /// Connections end, and new ones are closed at once.
    pub(crate) is_cut: bool,
    /// Connections end, and new ones are refused.
    pub(crate) refuses: bool,
    /// No bytes are carried, not even the end of a connection, and none are lost.
    pub(crate) is_stalled: bool,
    /// The delay of all bytes, plus or minus the second value; never negative, and in order.
    pub(crate) delay: Option<(Duration, Duration)>,
    /// An additional delay of one direction.
    pub(crate) late: Option<(LineDirection, Duration)>,
    /// The bytes per second in each direction of a connection.
    pub(crate) rate: Option<u32>,
    /// The bytes that are written at a time.
    pub(crate) slice: Option<usize>,
    /// A connection is closed after this many bytes in one direction.
    pub(crate) most: Option<usize>,
    /// Each connection is reset after a while, at most this.
    pub(crate) resets: Option<Duration>,
    /// The seed of random delays.
    pub(crate) seed: u64,
}

impl LineFaults {
    /// How many of `count` bytes to write at a time.
    pub(super) fn piece(&self, count: usize) -> usize {
        // A rate is kept by a pause after each twentieth of a second's worth.
        let by_rate = self.rate.map_or(count, |rate| (rate as usize / 20).max(1));
        count.min(by_rate).min(self.slice.unwrap_or(count))
    }

    /// How long to wait after `count` bytes.
    pub(super) fn pause(&self, count: usize) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(count as f64 / f64::from(rate)))
    }
}

/// Computes when bytes are due at the other end.
#[derive(Debug)]
pub(super) struct Delays {
    direction: LineDirection,
    rng: StdRng,
    seed: u64,
    last: Instant,
}

impl Delays {
    pub(super) fn new(direction: LineDirection) -> Self {
        Self { direction, rng: StdRng::seed_from_u64(0), seed: 0, last: Instant::now() }
    }

    pub(super) fn due(&mut self, now: Instant, faults: &LineFaults) -> Instant {
        if self.seed != faults.seed {
            (self.rng, self.seed) = (StdRng::seed_from_u64(faults.seed), faults.seed);
        }
        let mut seconds = 0.0;
        if let Some((delay, jitter)) = faults.delay {
            let jitter = jitter.as_secs_f64();
            seconds = (delay.as_secs_f64() + self.rng.random_range(-jitter..=jitter)).max(0.0);
        }
        if let Some((direction, late)) = faults.late
            && direction == self.direction
        {
            seconds += late.as_secs_f64();
        }
        self.last = self.last.max(now + Duration::from_secs_f64(seconds));
        self.last
    }
}
