//! How many connections a second become sessions. A crowd that comes back at once is spread by the gateway, not by luck.

use std::sync::{Mutex, PoisonError};

use rand::Rng;
use tickwire_node::clock::Clock;

use crate::sliding::PerSecond;

/// The longest that a client is asked to wait, in seconds. Each is given its own time, so that they do not all come back
/// at the same moment.
const MOST_RETRY_SECONDS: u32 = 3;

/// The door of a gateway.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Connections a second; 0 is any number.
    rate: u32,
    clock: Clock,
    admitted: Mutex<PerSecond>,
}

impl Admission {
    pub(crate) fn new(rate: u32) -> Self {
        Self { rate, clock: Clock::start(), admitted: Mutex::new(PerSecond::second()) }
    }

    /// Takes one connection.
    ///
    /// # Errors
    /// After how many seconds the client should come again.
    pub(crate) fn admit(&self) -> Result<(), u32> {
        if self.rate == 0 {
            return Ok(());
        }
        let now = self.clock.now();
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if admitted.count(now) >= self.rate {
            return Err(rand::rng().random_range(1..=MOST_RETRY_SECONDS));
        }
        admitted.add(now, 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate_is_admitted_and_who_is_not_is_told_when_to_come() {
        let admission = Admission::new(3);
        let told: Vec<_> = (0..5).map(|_| admission.admit()).collect();
        assert_eq!(told[..3], [Ok(()); 3]);
        assert!(told[3..].iter().all(|told| matches!(told, Err(1..=MOST_RETRY_SECONDS))), "{told:?}");
        assert!((0..5_000).all(|_| Admission::new(0).admit().is_ok()));
    }
}
