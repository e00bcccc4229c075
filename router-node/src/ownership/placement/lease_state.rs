//! One lease: its last known content, the operation in progress, and whether it is owned.

use super::{PlacementAction, PlacementTiming, SourceProgress};
use crate::checkpoint::{Checkpoint, SeenLease};
use crate::source::{Source, Tenure};
use crate::stream::StreamFacts;
use tickwire_core::backoff::Backoff;
use tickwire_core::ids::{EpochId, Millis, NodeRef};
use tickwire_node::lease::LeaseRead;

/// How often a lease is read that may soon be taken, in milliseconds.
const READ_SOON: u64 = 100;

/// The longest interval at which any other lease is read; otherwise a quarter of its time to live.
const READ_LEAST: u64 = 500;

/// The pause after an operation that was not answered.
pub(super) const RETRY: u64 = 100;

/// How long a lease must be free before its heir takes it: by then the router of the ring has taken it, even if that
/// one had to wait for the interest of gateways.
const ORPHANED: u64 = 700;

/// How much longer any other router waits than the heir.
const ANYONE: u64 = 300;

/// How much longer to wait for the interest of gateways that do not send it. Without it the range must be read again
/// for them later, but that is better than no owner.
const INTEREST_PATIENCE: u64 = 500;

/// How long a source is kept that the ring does not give us; doubled each time that no other router has taken it since.
const KEEP: Backoff = Backoff { first: 2_000, most: 16_000 };

/// One lease.
#[derive(Debug, Default)]
pub(super) struct LeaseState {
    pub(super) hold: LeaseHold,
    pub(super) busy: Option<KvOperation>,
    pub(super) seen: Option<SeenLease>,
    pub(super) read_at: Millis,
    /// Whether we have written it, or tried to, since it was read: it must be read again.
    pub(super) is_spent: bool,
    is_wanted: bool,
    /// Until when it is kept although the ring does not give it to us.
    kept_until: Millis,
    /// How often in a row it was taken against the ring.
    adoptions: u32,
}

/// Whether the lease is owned.
#[derive(Debug, Default)]
pub(super) enum LeaseHold {
    /// Not owned.
    #[default]
    Away,
    /// Owned.
    Held(OwnedLease),
    /// Being given back, as soon as the engine has returned the checkpoint.
    Leaving { held: OwnedLease, reached: Option<SourceProgress> },
}

/// An owned lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnedLease {
    pub(super) tenure: Tenure,
    pub(super) revision: u64,
    pub(super) reached: SourceProgress,
    /// When it is to be renewed, or read if it may have changed.
    pub(super) renew_at: Millis,
    /// Whether the last write was refused or not answered.
    pub(super) must_be_read: bool,
}

/// The operation in progress at KV.
#[derive(Debug, Clone, Copy)]
pub(super) enum KvOperation {
    /// A read.
    Reading,
    /// A read to find out which node has written it.
    Settling,
    /// A write that takes it.
    Taking(TenureStart),
    /// A write that renews it.
    Writing,
    /// A write that gives it back.
    Freeing,
}

/// Where a tenure begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct TenureStart {
    pub(super) reached: SourceProgress,
    pub(super) epoch_id: EpochId,
}

impl TenureStart {
    pub(super) fn is_of(&self, facts: &StreamFacts) -> bool {
        self.epoch_id == facts.epoch_id
    }
}

impl OwnedLease {
    pub(super) fn new(tenure: Tenure, revision: u64, reached: SourceProgress, renew_at: Millis) -> Self {
        Self { tenure, revision, reached, renew_at, must_be_read: false }
    }

    /// Notes that it was read and published up to `reached`.
    pub(super) fn reach(&mut self, reached: SourceProgress) {
        let SourceProgress { checkpoint, mark } = reached;
        self.reached =
            SourceProgress { checkpoint: self.reached.checkpoint.max(checkpoint), mark: self.reached.mark.max(mark) };
    }
}

impl LeaseState {
    /// Sets whether the ring gives it to us.
    pub(super) fn set_wanted(&mut self, now: Millis, is_wanted: bool) {
        if is_wanted {
            self.adoptions = 0;
            if !self.is_wanted {
                self.read_at = now;
            }
        }
        self.is_wanted = is_wanted;
    }

    /// Takes the result of a read.
    pub(super) fn take_read(&mut self, now: Millis, read: LeaseRead<Checkpoint>, pace: PlacementTiming) {
        self.is_spent = false;
        match &mut self.seen {
            Some(seen) => {
                let is_others =
                    !read.is_unreadable && read.record.as_ref().is_some_and(|record| record.owner.is_some());
                if is_others && read.revision > seen.read.revision && matches!(self.hold, LeaseHold::Away) {
                    self.adoptions = 0;
                }
                seen.take_read(now, read, read_interval(pace) + READ_SOON, pace.ttl);
            }
            None => self.seen = Some(SeenLease::new(now, read)),
        }
    }

    /// Notes that the read failed.
    pub(super) fn retry(&mut self, now: Millis) {
        match &mut self.hold {
            LeaseHold::Held(held) | LeaseHold::Leaving { held, reached: None } => held.renew_at = now.plus(RETRY),
            // It could not be given back: it will become stale.
            LeaseHold::Leaving { reached: Some(_), .. } => self.hold = LeaseHold::Away,
            LeaseHold::Away => self.read_at = now.plus(RETRY),
        }
    }

    /// Whether it is time to read it. If so, the next read is scheduled.
    pub(super) fn is_read_due(&mut self, now: Millis, pace: PlacementTiming) -> bool {
        let is_due = self.read_at <= now;
        if is_due {
            let is_free = |seen: &SeenLease| {
                let owner = seen.read.record.as_ref().and_then(|record| record.owner.as_ref());
                owner.is_none() && !seen.read.is_unreadable || seen.quiet >= pace.ttl / 2
            };
            let is_soon = self.is_wanted || self.seen.as_ref().is_none_or(is_free);
            self.read_at = now.plus(if is_soon { READ_SOON } else { read_interval(pace) });
        }
        is_due
    }

    /// The lease as it was read, if we may take it.
    pub(super) fn takeable(
        &self,
        pace: PlacementTiming,
        is_informed: bool,
        me: &NodeRef,
        is_wanted: bool,
        is_heir: impl Fn(Option<&NodeRef>) -> bool,
    ) -> Option<&SeenLease> {
        let seen = self.seen.as_ref().filter(|_| !self.is_spent)?;
        let owner = seen.read.record.as_ref().and_then(|record| record.owner.as_ref());
        let is_free = seen.read.is_free_for(me);
        let uninformed = if is_informed { 0 } else { INTEREST_PATIENCE };
        // Another router may own it. That one renews it within this time.
        let doubt = if seen.is_in_doubt { pace.renew } else { 0 };
        let quiet = match (is_free, is_wanted) {
            (true, true) => uninformed.max(doubt),
            (false, true) => pace.ttl + uninformed,
            // The router of the ring, in our view, does not take it.
            (true, false) => doubt + ORPHANED + if is_heir(None) { 0 } else { ANYONE },
            (false, false) => pace.ttl + uninformed.max(if is_heir(owner) { 0 } else { ANYONE }),
        };
        (seen.quiet >= quiet).then_some(seen)
    }

    /// Begins the next operation at KV, if one is due and none is in progress. `next_tenure` returns where a tenure
    /// would begin, and the revision to take the lease at, if we may take it.
    pub(super) fn next_operation(
        &mut self,
        now: Millis,
        pace: PlacementTiming,
        (source, epoch_id): (Source, EpochId),
        next_tenure: impl Fn(&Self) -> Option<(u64, TenureStart)>,
    ) -> Option<PlacementAction> {
        if self.busy.is_some() {
            return None;
        }
        let read = PlacementAction::Read(source);
        let write = |revision, is_ours, reached: SourceProgress| PlacementAction::Write {
            source,
            revision,
            is_ours,
            checkpoint: reached.checkpoint(epoch_id),
        };
        let (busy, action) = match &self.hold {
            LeaseHold::Held(held) | LeaseHold::Leaving { held, .. } if held.must_be_read => {
                (now >= held.renew_at).then_some((KvOperation::Settling, read))?
            }
            LeaseHold::Leaving { held, reached: Some(reached) } => {
                (KvOperation::Freeing, write(held.revision, false, *reached))
            }
            LeaseHold::Held(held) | LeaseHold::Leaving { held, .. } => {
                (now >= held.renew_at).then_some((KvOperation::Writing, write(held.revision, true, held.reached)))?
            }
            LeaseHold::Away => match next_tenure(self) {
                Some((revision, start)) => (KvOperation::Taking(start), write(revision, true, start.reached)),
                None => self.is_read_due(now, pace).then_some((KvOperation::Reading, read))?,
            },
        };
        self.busy = Some(busy);
        self.is_spent |= matches!(busy, KvOperation::Taking(_) | KvOperation::Freeing);
        Some(action)
    }

    /// Notes that it is ours.
    pub(super) fn take(&mut self, now: Millis, held: OwnedLease) {
        // The time that it was without an owner before does not count any more.
        if let Some(seen) = &mut self.seen {
            seen.quiet = 0;
        }
        self.kept_until = now;
        if !self.is_wanted {
            self.adoptions = self.adoptions.saturating_add(1);
            self.kept_until = now.plus(KEEP.after(self.adoptions));
        }
        self.hold = LeaseHold::Held(held);
    }

    /// Whether it can be given back, if the ring does not give it to us.
    pub(super) fn may_leave(&self, now: Millis) -> bool {
        now >= self.kept_until
    }

    /// Begins to give it back, if it is owned.
    pub(super) fn leave(&mut self) -> Option<Tenure> {
        let LeaseHold::Held(held) = self.hold else { return None };
        self.hold = LeaseHold::Leaving { held, reached: None };
        Some(held.tenure)
    }
}

/// How often the lease of another router is read.
fn read_interval(pace: PlacementTiming) -> u64 {
    (pace.ttl / 4).clamp(READ_SOON, READ_LEAST)
}
