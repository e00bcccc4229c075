//! What is known of one lease, and whether it may be taken. Pure.

use serde::{Deserialize, Serialize};
use tickwire_core::ids::{Incarnation, Millis, NodeRef, Seq};
use tickwire_node::lease::{Observed, Read};

/// How often a lease that should be ours is looked at, in milliseconds.
const LOOK_WANTED: u64 = 100;

/// How often any other lease is looked at, so that it is known to be stale when it becomes ours to take.
const LOOK_OTHERS: u64 = 1_000;

/// How long to wait for the interest of gateways that do not tell it.
const INTEREST_PATIENCE: u64 = 2_000;

/// What owners hand on: up to where everything was published, in which life of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The floor: a new owner reads what comes after it.
    pub(crate) floor: Seq,
    /// The life of the stream that the floor belongs to.
    pub(crate) incarnation: Incarnation,
}

/// A lease that is not ours, as it was last seen.
#[derive(Debug, Default)]
pub(crate) struct Tenancy {
    seen: Option<(Observed, Read<Checkpoint>)>,
    wanted_since: Option<Millis>,
    look_at: Millis,
}

impl Tenancy {
    /// Whether the ring gives it to us.
    pub(crate) fn want(&mut self, now: Millis, wanted: bool) {
        if wanted && self.wanted_since.is_none() {
            self.look_at = now;
        }
        self.wanted_since = wanted.then(|| self.wanted_since.unwrap_or(now));
    }

    /// Whether it is time to look at it. Counts as looked at, then.
    pub(crate) fn look_due(&mut self, now: Millis) -> bool {
        let due = self.look_at <= now;
        if due {
            let pause = if self.wanted_since.is_some() { LOOK_WANTED } else { LOOK_OTHERS };
            self.look_at = now.plus(pause);
        }
        due
    }

    /// It was looked at.
    pub(crate) fn see(&mut self, now: Millis, read: Read<Checkpoint>) {
        let observed = match self.seen.take() {
            Some((mut observed, _)) => {
                observed.see(now, read.revision);
                observed
            }
            None => Observed::new(now, read.revision),
        };
        self.seen = Some((observed, read));
    }

    /// The lease as read, if it is ours to take: wanted, with the interest of the gateways known or waited for, and
    /// absent, given back, ours already, or stale.
    pub(crate) fn takeable(&self, now: Millis, ttl: u64, me: &NodeRef, informed: bool) -> Option<&Read<Checkpoint>> {
        let wanted_since = self.wanted_since?;
        let (observed, read) = self.seen.as_ref()?;
        let owner = read.record.as_ref().and_then(|record| record.owner.as_ref());
        let free = owner.is_none_or(|owner| owner == me) || observed.is_stale(now, ttl);
        let informed = informed || now.since(wanted_since) >= INTEREST_PATIENCE;
        (free && informed).then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_node::lease::Record;

    const TTL: u64 = 2_000;

    fn node(name: &str) -> NodeRef {
        NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
    }

    fn read(revision: u64, owner: Option<&str>) -> Read<Checkpoint> {
        let state = Checkpoint { floor: Seq(7), incarnation: Incarnation(1) };
        let record = Record { owner: owner.map(node), state };
        Read { revision, record: Some(record) }
    }

    fn takeable(tenancy: &Tenancy, now: u64, informed: bool) -> bool {
        tenancy.takeable(Millis(now), TTL, &node("me"), informed).is_some()
    }

    #[test]
    fn what_is_not_wanted_or_not_seen_is_not_taken() {
        let mut tenancy = Tenancy::default();
        tenancy.want(Millis(0), true);
        assert!(!takeable(&tenancy, 10_000, true));
        tenancy.see(Millis(0), read(1, None));
        assert!(takeable(&tenancy, 0, true));
        tenancy.want(Millis(0), false);
        assert!(!takeable(&tenancy, 10_000, true));
    }

    #[test]
    fn absent_free_and_own_leases_are_taken_at_once_and_others_when_stale() {
        let absent = Read { revision: 0, record: None };
        for free in [absent, read(3, None), read(3, Some("me"))] {
            let mut tenancy = Tenancy::default();
            tenancy.want(Millis(0), true);
            tenancy.see(Millis(0), free);
            assert!(takeable(&tenancy, 0, true));
        }
        let mut tenancy = Tenancy::default();
        tenancy.see(Millis(0), read(3, Some("other")));
        tenancy.want(Millis(1_500), true);
        assert!(!takeable(&tenancy, TTL - 1, true));
        // It stood still before we wanted it, so it is stale as soon as its time is over.
        assert!(takeable(&tenancy, TTL, true));
        tenancy.see(Millis(TTL), read(4, Some("other")));
        assert!(!takeable(&tenancy, TTL, true));
    }

    #[test]
    fn nothing_is_taken_before_the_interest_is_known_unless_that_takes_too_long() {
        let mut tenancy = Tenancy::default();
        tenancy.want(Millis(100), true);
        tenancy.see(Millis(100), read(1, None));
        assert!(!takeable(&tenancy, 100 + INTEREST_PATIENCE - 1, false));
        assert!(takeable(&tenancy, 100 + INTEREST_PATIENCE, false));
    }

    #[test]
    fn wanted_leases_are_looked_at_more_often_and_at_once() {
        let mut tenancy = Tenancy::default();
        assert!(tenancy.look_due(Millis(0)));
        assert!(!tenancy.look_due(Millis(LOOK_OTHERS - 1)));
        tenancy.want(Millis(300), true);
        assert!(tenancy.look_due(Millis(300)));
        tenancy.want(Millis(300 + LOOK_WANTED), true);
        assert!(!tenancy.look_due(Millis(299 + LOOK_WANTED)));
        assert!(tenancy.look_due(Millis(300 + LOOK_WANTED)));
    }
}
