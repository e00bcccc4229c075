//! Limits how many connections a second become sessions. When many clients reconnect at once, the gateway spreads them
//! over time. A caller that floods uses up only its own share.
//!
//! Named callers (with a valid token in the request) and unnamed ones are counted separately: the unnamed get what the
//! named leave of the rate. Beyond the rate there is a reserve for light callers: users or addresses that were admitted
//! only a few times in the last second. So one address that takes the whole rate keeps out only itself. Many clients
//! behind one balancer look like one address, and they still get the whole rate.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use rand::Rng;
use tickwire_core::ids::{Millis, UserId};
use tickwire_node::clock::Clock;
use tickwire_node::http::ClientNetwork;

use crate::limits::sliding::PerSecond;

/// The longest time that a client is asked to wait, in seconds. Each client gets a random time, so that they do not all
/// retry at the same moment.
const MOST_RETRY_SECONDS: u32 = 3;

/// The reserve of light callers is the rate divided by this, once for named and once for unnamed callers.
const RESERVE: u32 = 4;

/// A caller is light if it takes less than the rate divided by this in a second.
const LIGHT: u32 = 50;

/// Who wants to connect.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Caller<'a> {
    /// A user with a valid token.
    User(&'a UserId),
    /// Any other client, by its network.
    Unnamed(ClientNetwork),
}

/// Decides which connections a gateway admits now.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Connections a second; 0 means no limit.
    rate: u32,
    clock: Clock,
    // The lock is held only while one connection is counted.
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

    /// Admits one connection.
    ///
    /// # Errors
    /// After how many seconds the client should retry.
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
    /// Callers admitted from the reserve.
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

/// How often each caller was admitted in this second and the one before. Refused callers take no memory.
#[derive(Debug, Default)]
struct Callers {
    hasher: RandomState,
    second: u64,
    // By hash, since a name would have to be copied. Collisions are rare, and no caller can provoke one.
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
        Caller::Unnamed(ClientNetwork::of(n.to_be_bytes().into()))
    }

    /// How many of `callers` are admitted in one millisecond.
    fn admitted(counts: &mut Counts, now: u64, callers: impl Iterator<Item = Caller<'static>>) -> u32 {
        callers.map(|caller| u32::from(counts.admit(Millis(now), caller, RATE))).sum()
    }

    #[test]
    fn callers_beyond_the_rate_are_refused_with_a_retry_time() {
        let admission = Admission::new(3);
        let answers: Vec<_> = (0..5).map(|_| admission.admit(address(1))).collect();
        assert_eq!(answers[..3], [Ok(()); 3]);
        assert!(answers[3..].iter().all(|answer| matches!(answer, Err(1..=MOST_RETRY_SECONDS))), "{answers:?}");
        assert!((0..5_000).all(|_| Admission::new(0).admit(address(1)).is_ok()));
    }

    #[test]
    fn many_clients_behind_one_balancer_get_the_whole_rate() {
        let mut counts = Counts::new();
        for second in 0..5 {
            let crowd: u32 =
                (0..1_000).map(|ms| admitted(&mut counts, second * 1_100 + ms, [address(1)].into_iter())).sum();
            assert_eq!(crowd, RATE);
        }
    }

    #[test]
    fn flooding_address_keeps_out_only_itself() {
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
        // The counts per caller do not grow with refused callers, or with time.
        admitted(&mut counts, 5_500, (0..100_000).map(address));
        assert!(counts.callers.now.len() + counts.callers.before.len() <= 4 * RATE as usize);
    }

    #[test]
    fn unnamed_callers_cannot_use_up_the_rate_of_named_ones() {
        let ann = Box::leak(Box::new(UserId::new("ann").unwrap()));
        let mut counts = Counts::new();
        assert_eq!(admitted(&mut counts, 0, (0..100_000).map(address)), RATE + RATE / RESERVE);
        assert_eq!(admitted(&mut counts, 1, (0..2_000).map(|_| Caller::User(ann))), RATE);
        // A user who floods cannot use up what other users need.
        let bob = Box::leak(Box::new(UserId::new("bob").unwrap()));
        assert_eq!(admitted(&mut counts, 2, (0..5).map(|_| Caller::User(bob))), 5);
        // While named callers take the whole rate, light addresses have their reserve.
        let mut counts = Counts::new();
        admitted(&mut counts, 0, (0..2_000).map(|_| Caller::User(ann)));
        assert_eq!(admitted(&mut counts, 1, (0..2_000).map(|_| address(1))), RATE / LIGHT);
        assert_eq!(admitted(&mut counts, 1, (2..2_000).map(address)), RATE / RESERVE - RATE / LIGHT);
    }
}
