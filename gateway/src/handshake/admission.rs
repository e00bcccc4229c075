//! How many connections a second become sessions. A crowd that comes back at once is spread by the gateway, not by luck,
//! and one who floods spends what is its own.
//!
//! Those who say who they are in the request (a valid token) and the unnamed are counted apart: while there are named
//! ones, the unnamed have what those leave. Beyond the rate there is a reserve that only light callers may use, users or
//! addresses that have just taken few: one address that takes all there is keeps out itself alone, and a crowd behind
//! one balancer, which looks the same, still has the whole rate.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use rand::Rng;
use tickwire_core::ids::{Millis, UserId};
use tickwire_node::clock::Clock;
use tickwire_node::http::ClientSource;

use crate::limits::sliding::PerSecond;

/// The longest that a client is asked to wait, in seconds. Each is given its own time, so that they do not all come back
/// at the same moment.
const MOST_RETRY_SECONDS: u32 = 3;

/// Which part of the rate is the reserve of light callers, for named and unnamed ones each.
const RESERVE: u32 = 4;

/// Which part of the rate a caller may take in a second and still be light.
const LIGHT: u32 = 50;

/// Who wants to connect, as far as it is known.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Caller<'a> {
    /// One whose token is valid.
    User(&'a UserId),
    /// Anyone else.
    Unnamed(ClientSource),
}

/// The door of a gateway.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Connections a second; 0 is any number.
    rate: u32,
    clock: Clock,
    // Held to count one connection.
    counts: Mutex<Counts>,
}

impl Admission {
    pub(crate) fn new(rate: u32) -> Self {
        Self { rate, clock: Clock::start(), counts: Mutex::new(Counts::new()) }
    }

    /// The time by which connections are counted.
    pub(crate) fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Takes one connection.
    ///
    /// # Errors
    /// After how many seconds the client should come again.
    pub(crate) fn admit(&self, caller: Caller<'_>) -> Result<(), u32> {
        if self.rate == 0 {
            return Ok(());
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.admit(self.clock.now(), caller, self.rate) {
            true => Ok(()),
            false => Err(rand::rng().random_range(1..=MOST_RETRY_SECONDS)),
        }
    }
}

/// Who was admitted in the last second.
#[derive(Debug)]
struct Counts {
    named: PerSecond,
    unnamed: PerSecond,
    /// Those among them who came by the reserve.
    named_reserve: PerSecond,
    unnamed_reserve: PerSecond,
    callers: Callers,
}

impl Counts {
    fn new() -> Self {
        let [named, unnamed, named_reserve, unnamed_reserve] = [(); 4].map(|()| PerSecond::second());
        Self { named, unnamed, named_reserve, unnamed_reserve, callers: Callers::default() }
    }

    fn admit(&mut self, now: Millis, caller: Caller<'_>, rate: u32) -> bool {
        let Self { named, unnamed, named_reserve, unnamed_reserve, callers } = self;
        let before = named.count(now);
        let (taken, count, reserve) = match caller {
            Caller::User(_) => (before, named, named_reserve),
            Caller::Unnamed(_) => (before.saturating_add(unnamed.count(now)), unnamed, unnamed_reserve),
        };
        let mut admitted = taken < rate;
        if !admitted {
            let is_light = callers.count(now, caller) < (rate / LIGHT).max(1);
            admitted = is_light && reserve.count(now) < (rate / RESERVE).max(1);
            if admitted {
                reserve.add(now, 1);
            }
        } else {
            count.add(now, 1);
        }
        if admitted {
            callers.add(now, caller);
        }
        admitted
    }
}

/// How often each caller was admitted in this second and the one before. There are no more callers than were admitted.
#[derive(Debug, Default)]
struct Callers {
    hasher: RandomState,
    second: u64,
    // By hash, since a name would have to be copied. Two callers of one hash are rare, and none of them could choose it.
    now: HashMap<u64, u32>,
    before: HashMap<u64, u32>,
}

impl Callers {
    fn count(&mut self, now: Millis, caller: Caller<'_>) -> u32 {
        self.turn(now);
        let caller = self.hasher.hash_one(caller);
        let count = |counts: &HashMap<u64, u32>| counts.get(&caller).copied().unwrap_or_default();
        count(&self.now) + count(&self.before)
    }

    fn add(&mut self, now: Millis, caller: Caller<'_>) {
        self.turn(now);
        *self.now.entry(self.hasher.hash_one(caller)).or_default() += 1;
    }

    fn turn(&mut self, now: Millis) {
        let second = now.0 / 1_000;
        if second != self.second {
            self.before = std::mem::take(&mut self.now);
            if second > self.second + 1 {
                self.before = HashMap::new();
            }
            self.second = second;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 1_000;

    fn address(n: u32) -> Caller<'static> {
        Caller::Unnamed(ClientSource::of(n.to_be_bytes().into()))
    }

    /// How many of so many are admitted in one millisecond.
    fn admitted(counts: &mut Counts, now: u64, callers: impl Iterator<Item = Caller<'static>>) -> u32 {
        callers.map(|caller| u32::from(counts.admit(Millis(now), caller, RATE))).sum()
    }

    #[test]
    fn no_more_than_the_rate_is_admitted_and_who_is_not_is_told_when_to_come() {
        let admission = Admission::new(3);
        let told: Vec<_> = (0..5).map(|_| admission.admit(address(1))).collect();
        assert_eq!(told[..3], [Ok(()); 3]);
        assert!(told[3..].iter().all(|told| matches!(told, Err(1..=MOST_RETRY_SECONDS))), "{told:?}");
        assert!((0..5_000).all(|_| Admission::new(0).admit(address(1)).is_ok()));
    }

    #[test]
    fn a_crowd_behind_one_balancer_has_the_whole_rate() {
        let mut counts = Counts::new();
        for second in 0..5 {
            let crowd: u32 =
                (0..1_000).map(|ms| admitted(&mut counts, second * 1_100 + ms, [address(1)].into_iter())).sum();
            assert_eq!(crowd, RATE);
        }
    }

    #[test]
    fn an_address_that_floods_keeps_out_itself_alone() {
        let mut counts = Counts::new();
        for second in 0..5 {
            let start = second * 1_000;
            let mut others = 0;
            for ms in 0..1_000 {
                admitted(&mut counts, start + ms, (0..10).map(|_| address(1)));
                if ms % 5 == 0 {
                    others += admitted(&mut counts, start + ms, [address(1_000 + (start + ms) as u32)].into_iter());
                }
            }
            assert_eq!(others, 200, "in second {second}");
        }
        // What is kept of callers does not grow with those who are refused, or with time.
        admitted(&mut counts, 5_500, (0..100_000).map(address));
        assert!(counts.callers.now.len() + counts.callers.before.len() <= 4 * RATE as usize);
    }

    #[test]
    fn the_unnamed_cannot_use_up_what_the_named_need() {
        let ann = Box::leak(Box::new(UserId::new("ann").unwrap()));
        let mut counts = Counts::new();
        assert_eq!(admitted(&mut counts, 0, (0..100_000).map(address)), RATE + RATE / RESERVE);
        assert_eq!(admitted(&mut counts, 1, (0..2_000).map(|_| Caller::User(ann))), RATE);
        // Nor can a user who floods use up what other users need.
        let bob = Box::leak(Box::new(UserId::new("bob").unwrap()));
        assert_eq!(admitted(&mut counts, 2, (0..5).map(|_| Caller::User(bob))), 5);
        // While the named take all, light addresses have their reserve.
        let mut counts = Counts::new();
        admitted(&mut counts, 0, (0..2_000).map(|_| Caller::User(ann)));
        assert_eq!(admitted(&mut counts, 1, (0..2_000).map(|_| address(1))), RATE / LIGHT);
        assert_eq!(admitted(&mut counts, 1, (2..2_000).map(address)), RATE / RESERVE - RATE / LIGHT);
    }
}
