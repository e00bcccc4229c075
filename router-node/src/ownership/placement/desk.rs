//! One lease: what is known of it, what is under way, and whether it is owned.

use super::super::tenancy::{Checkpoint, Seen};
use super::{Pace, Reached};
use crate::source::Tenure;
use crate::stream::Facts;
use tickwire_core::backoff::Backoff;
use tickwire_core::ids::{Incarnation, Millis, NodeRef};
use tickwire_node::lease::Read;

/// How often a lease is looked at that may soon be taken, in milliseconds.
const LOOK_SOON: u64 = 100;

/// How often any other lease is looked at, at most and at least: four times in its life.
const LOOK_LEAST: u64 = 500;

/// The pause after an operation that was not answered.
pub(super) const RETRY: u64 = 100;

/// For how long a lease has to be free before its heir takes it: who should have it has come to it by then, even if it
/// had to wait for the interest of gateways.
const ORPHANED: u64 = 700;

/// How much longer anyone else waits than who should have it.
const ANYONE: u64 = 300;

/// How much longer to wait for the interest of gateways that do not tell it. Without it everything would have to be read
/// again for them; but that is better than an owner that does not come.
const INTEREST_PATIENCE: u64 = 500;

/// For how long a source is kept that the ring does not give us; doubled each time that nobody has taken it in between.
const KEEP: Backoff = Backoff { first: 2_000, most: 16_000 };

/// One lease.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) hold: Hold,
    pub(super) busy: Option<Busy>,
    pub(super) seen: Option<Seen>,
    pub(super) look_at: Millis,
    /// Whether it has been written since it was seen, by us, or was to be: it has to be seen again.
    pub(super) is_spent: bool,
    is_wanted: bool,
    /// Until when it is kept although the ring does not give it to us.
    kept_until: Millis,
    /// How often it was taken against the ring, one time after the other.
    adoptions: u32,
}

/// Whether it is owned.
#[derive(Debug, Default)]
pub(super) enum Hold {
    /// It is not.
    #[default]
    Away,
    /// It is.
    Held(Held),
    /// It is being given back, at once when the engine has told how far it came.
    Leaving { held: Held, reached: Option<Reached> },
}

/// An owned lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) tenure: Tenure,
    pub(super) revision: u64,
    pub(super) reached: Reached,
    /// When it is to be renewed, or if in doubt, read.
    pub(super) renew_at: Millis,
    /// Whether the last write was refused or not answered.
    pub(super) in_doubt: bool,
}

/// What is under way at KV.
#[derive(Debug, Clone, Copy)]
pub(super) enum Busy {
    /// It is looked at.
    Looking,
    /// It is read to find out who has written it.
    Settling,
    /// It is being taken.
    Taking(Start),
    /// It is being renewed.
    Writing,
    /// It is being given back.
    Freeing,
}

/// Where a tenure begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) reached: Reached,
    pub(super) incarnation: Incarnation,
}

impl Start {
    pub(super) fn is_of(&self, facts: &Facts) -> bool {
        self.incarnation == facts.incarnation
    }
}

impl Held {
    pub(super) fn new(tenure: Tenure, revision: u64, reached: Reached, renew_at: Millis) -> Self {
        Self { tenure, revision, reached, renew_at, in_doubt: false }
    }

    /// It was read and published up to there.
    pub(super) fn reach(&mut self, reached: Reached) {
        let Reached { floor, mark } = reached;
        self.reached = Reached { floor: self.reached.floor.max(floor), mark: self.reached.mark.max(mark) };
    }
}

impl Desk {
    /// Whether the ring gives it to us.
    pub(super) fn want(&mut self, now: Millis, is_wanted: bool) {
        if is_wanted {
            self.adoptions = 0;
            if !self.is_wanted {
                self.look_at = now;
            }
        }
        self.is_wanted = is_wanted;
    }

    /// It was read.
    pub(super) fn see(&mut self, now: Millis, read: Read<Checkpoint>, pace: Pace) {
        self.is_spent = false;
        match &mut self.seen {
            Some(seen) => {
                let is_others =
                    !read.is_unreadable && read.record.as_ref().is_some_and(|record| record.owner.is_some());
                if is_others && read.revision > seen.read.revision && matches!(self.hold, Hold::Away) {
                    self.adoptions = 0;
                }
                seen.see(now, read, look_pace(pace) + LOOK_SOON, pace.ttl);
            }
            None => self.seen = Some(Seen::new(now, read)),
        }
    }

    /// It could not be read.
    pub(super) fn retry(&mut self, now: Millis) {
        match &mut self.hold {
            Hold::Held(held) | Hold::Leaving { held, reached: None } => held.renew_at = now.plus(RETRY),
            // It cannot be given back: it will become stale.
            Hold::Leaving { reached: Some(_), .. } => self.hold = Hold::Away,
            Hold::Away => self.look_at = now.plus(RETRY),
        }
    }

    /// Whether it is time to look at it. Counts as looked at, then.
    pub(super) fn is_look_due(&mut self, now: Millis, pace: Pace) -> bool {
        let is_due = self.look_at <= now;
        if is_due {
            let is_free = |seen: &Seen| {
                let owner = seen.read.record.as_ref().and_then(|record| record.owner.as_ref());
                owner.is_none() && !seen.read.is_unreadable || seen.quiet >= pace.ttl / 2
            };
            let is_soon = self.is_wanted || self.seen.as_ref().is_none_or(is_free);
            self.look_at = now.plus(if is_soon { LOOK_SOON } else { look_pace(pace) });
        }
        is_due
    }

    /// The lease as it was read, if it is ours to take.
    pub(super) fn takeable(
        &self,
        pace: Pace,
        is_informed: bool,
        me: &NodeRef,
        is_wanted: bool,
        is_heir: impl Fn(Option<&NodeRef>) -> bool,
    ) -> Option<&Seen> {
        let seen = self.seen.as_ref().filter(|_| !self.is_spent)?;
        let owner = seen.read.record.as_ref().and_then(|record| record.owner.as_ref());
        let is_free = seen.read.is_free_for(me);
        let uninformed = if is_informed { 0 } else { INTEREST_PATIENCE };
        let quiet = match (is_free, is_wanted) {
            (true, true) => uninformed,
            (false, true) => pace.ttl + uninformed,
            // Whoever should have it by our view does not take it.
            (true, false) => ORPHANED + if is_heir(None) { 0 } else { ANYONE },
            (false, false) => pace.ttl + uninformed.max(if is_heir(owner) { 0 } else { ANYONE }),
        };
        (seen.quiet >= quiet).then_some(seen)
    }

    /// It is ours.
    pub(super) fn take(&mut self, now: Millis, held: Held) {
        // For how long it had no owner before says nothing of the time after.
        if let Some(seen) = &mut self.seen {
            seen.quiet = 0;
        }
        self.kept_until = now;
        if !self.is_wanted {
            self.adoptions = self.adoptions.saturating_add(1);
            self.kept_until = now.plus(KEEP.after(self.adoptions));
        }
        self.hold = Hold::Held(held);
    }

    /// Whether it can be given back, if the ring does not give it to us.
    pub(super) fn may_leave(&self, now: Millis) -> bool {
        now >= self.kept_until
    }

    /// Begins to give it back, if it is owned.
    pub(super) fn leave(&mut self) -> Option<Tenure> {
        let Hold::Held(held) = self.hold else { return None };
        self.hold = Hold::Leaving { held, reached: None };
        Some(held.tenure)
    }
}

/// How often a lease is looked at that is another's.
fn look_pace(pace: Pace) -> u64 {
    (pace.ttl / 4).clamp(LOOK_SOON, LOOK_LEAST)
}
