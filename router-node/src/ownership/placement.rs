//! Every decision on leases: what to read, take, renew and give back, and when. Pure: the view, the time and the
//! answers of KV are passed in, actions come out. Each lease has its own state, so that a slow answer for one does not
//! delay others.
//!
//! * The ring names the router that should own a source. That router takes the lease when it is free or stale.
//! * A view may be wrong: it may contain dead nodes, or differ between routers. So a lease that has been free or stale
//!   for a little longer is taken by any router, first by its heir: the router that the ring would name without the one
//!   that does not act. A source that is owned against the ring is kept for a while before it is given back. So two
//!   views that keep differing do not leave it without an owner again and again.
//! * A refused write means that some node has written. Which one is read before anything is given up: it may have been
//!   this router, by a write that was not answered; and a KV that has lost its end refuses as well.
//! * An unanswered renewal changes nothing. The router goes on until it sees another owner, because coverage makes two
//!   owners safe.

mod lease_state;

use super::share::Shares;
use crate::checkpoint::{Checkpoint, SeenLease, SourceProgress};
use crate::ownership::placement::lease_state::{KvOperation, LeaseHold, LeaseState, OwnedLease, TenureStart};
use crate::source::{Source, Tenure};
use crate::stream::StreamFacts;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{EpochId, Millis, NodeRef, Partition};
use tickwire_core::placement::View;
use tickwire_node::clock::millis;
use tickwire_node::lease::LeaseRead;

/// How long a draining router waits for a view that gives its partitions to others, before it gives them back anyway.
const HAND_OVER_PATIENCE: u64 = 1_000;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlacementAction {
    /// Read the lease.
    Read(Source),
    /// Write the lease over `revision`, as ours or as given back.
    Write { source: Source, revision: u64, is_ours: bool, checkpoint: Checkpoint },
    /// A tenure begins where the last one has ended.
    Own { tenure: Tenure, reached: SourceProgress },
    /// A tenure has ended.
    Disown(Tenure),
    /// Publish everything of these, and return the checkpoints with [`Placement::released`].
    Release(Vec<Tenure>),
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is in KV, at this revision.
    At(u64),
    /// Another write was before it.
    Refused,
    /// It was not answered: it may have taken effect, or still will.
    Unanswered,
}

/// The times of leases, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct PlacementTiming {
    /// How long a lease belongs to its owner without a write.
    pub(super) ttl: u64,
    /// How often a lease is renewed.
    pub(super) renew: u64,
}

impl PlacementTiming {
    /// Leases with time to live `ttl` that are renewed at each checkpoint, and at least twice in that time.
    #[must_use]
    pub fn new(ttl: Duration, checkpoint_interval: Duration) -> Self {
        let ttl = millis(ttl);
        Self { ttl, renew: millis(checkpoint_interval).min(ttl / 2) }
    }
}

/// The state.
#[derive(Debug)]
pub(super) struct Placement {
    me: NodeRef,
    pace: PlacementTiming,
    shares: Shares,
    partitions: u16,
    leases: BTreeMap<Source, LeaseState>,
    /// Whether the interest of every gateway is known.
    is_informed: bool,
    draining_since: Option<Millis>,
    /// The last known facts of the stream; nothing is taken before the first.
    facts: Option<StreamFacts>,
    tenures: u64,
}

impl Placement {
    /// Nothing is owned yet.
    pub(super) fn new(me: NodeRef, partitions: u16, pace: PlacementTiming) -> Self {
        let sources = (0..partitions).map(|number| Source::Partition(Partition(number)));
        let leases = sources.chain([Source::CatchAll]).map(|source| (source, LeaseState::default())).collect();
        Self {
            me,
            pace,
            shares: Shares::new(Arc::default(), partitions),
            partitions,
            leases,
            is_informed: false,
            draining_since: None,
            facts: None,
            tenures: 0,
        }
    }

    /// Takes another view of the members.
    pub(super) fn set_view(&mut self, view: Arc<View>) {
        if !Arc::ptr_eq(self.shares.view(), &view) {
            self.shares = Shares::new(view, self.partitions);
        }
    }

    /// Sets whether the interest of every gateway is known.
    pub(super) fn set_informed(&mut self, is_informed: bool) {
        self.is_informed = is_informed;
    }

    /// Takes no more leases, and gives all back.
    pub(super) fn drain(&mut self, now: Millis) {
        self.draining_since.get_or_insert(now);
    }

    /// Takes the facts of the stream. If its epoch has changed, every tenure ends and another begins at the beginning
    /// of that epoch.
    pub(super) fn set_stream_facts(&mut self, now: Millis, facts: StreamFacts) -> Vec<PlacementAction> {
        let former = self.facts.replace(facts);
        if former.is_none_or(|former| former.epoch() == facts.epoch()) {
            return Vec::new();
        }
        let mut actions = Vec::new();
        for (source, lease) in &mut self.leases {
            let (LeaseHold::Held(held) | LeaseHold::Leaving { held, .. }) = &mut lease.hold else { continue };
            self.tenures += 1;
            let tenure = Tenure { source: *source, number: self.tenures };
            *held = OwnedLease { tenure, reached: beginning(&facts), renew_at: now, ..*held };
            match &mut lease.hold {
                LeaseHold::Leaving { held, reached } => *reached = Some(held.reached),
                _ => actions.push(PlacementAction::Own { tenure, reached: beginning(&facts) }),
            }
        }
        actions
    }

    /// What is to be done now. `reached` returns how far a tenure was read and published.
    pub(super) fn act(
        &mut self,
        now: Millis,
        reached: impl Fn(Tenure) -> Option<SourceProgress>,
    ) -> Vec<PlacementAction> {
        let (mut actions, mut leaving) = (Vec::new(), Vec::new());
        let (gives_up, is_draining) = (self.gives_up(now), self.draining_since.is_some());
        let facts = self.facts.filter(|_| !is_draining);
        let epoch_id = self.facts.map(|facts| facts.epoch_id).unwrap_or_default();
        let Self { me, shares, pace, is_informed, .. } = self;
        for (source, lease) in &mut self.leases {
            let source = *source;
            let owner = shares.owner(source);
            let (is_wanted, is_others) = (owner == Some(me), owner.is_some_and(|owner| owner != me));
            lease.set_wanted(now, is_wanted && !is_draining);
            if let LeaseHold::Held(held) = &mut lease.hold
                && let Some(reached) = reached(held.tenure)
            {
                held.reach(reached);
            }
            if gives_up || is_others && (is_draining || lease.may_leave(now)) {
                leaving.extend(lease.leave());
            }
            let next_tenure = |lease: &LeaseState| {
                let is_heir = |former: Option<&NodeRef>| shares.is_heir(me, source, former);
                let free = lease.takeable(*pace, *is_informed, me, is_wanted, is_heir);
                free.zip(facts).and_then(|(seen, facts)| start(seen, &facts))
            };
            actions.extend(lease.next_operation(now, *pace, (source, epoch_id), next_tenure));
        }
        if !leaving.is_empty() {
            actions.push(PlacementAction::Release(leaving));
        }
        actions
    }

    /// A lease was read; `None` if that failed.
    pub(super) fn lease_read(
        &mut self,
        now: Millis,
        source: Source,
        read: Option<LeaseRead<Checkpoint>>,
    ) -> Vec<PlacementAction> {
        let (me, pace) = (self.me.clone(), self.pace);
        let Some(lease) = self.leases.get_mut(&source) else { return Vec::new() };
        let busy = lease.busy.take();
        let Some(read) = read else {
            lease.retry(now);
            return Vec::new();
        };
        // An overwrite by a foreign writer does not change the owner.
        let is_ours = read.is_free_for(&me) || read.is_foreign;
        let revision = read.revision;
        lease.take_read(now, read, pace);
        match (&mut lease.hold, busy) {
            (LeaseHold::Held(held) | LeaseHold::Leaving { held, .. }, Some(KvOperation::Settling)) if is_ours => {
                (held.revision, held.must_be_read, held.renew_at) = (revision, false, now);
                Vec::new()
            }
            (LeaseHold::Held(held), Some(KvOperation::Settling)) => {
                let tenure = held.tenure;
                lease.hold = LeaseHold::Away;
                vec![PlacementAction::Disown(tenure)]
            }
            (LeaseHold::Leaving { .. }, Some(KvOperation::Settling)) => {
                lease.hold = LeaseHold::Away;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A lease was written, or the write failed.
    pub(super) fn lease_written(&mut self, now: Millis, source: Source, written: WriteOutcome) -> Vec<PlacementAction> {
        let facts = self.facts;
        let Some(lease) = self.leases.get_mut(&source) else { return Vec::new() };
        match (lease.busy.take(), written) {
            (Some(KvOperation::Taking(reached)), WriteOutcome::At(revision)) => {
                self.tenures += 1;
                let tenure = Tenure { source, number: self.tenures };
                // A new epoch may have begun since.
                let is_same = facts.is_some_and(|facts| reached.is_of(&facts));
                let reached = facts.filter(|_| !is_same).map_or(reached.reached, |facts| beginning(&facts));
                lease.take(now, OwnedLease::new(tenure, revision, reached, now.plus(self.pace.renew)));
                vec![PlacementAction::Own { tenure, reached }]
            }
            (Some(KvOperation::Writing), WriteOutcome::At(revision)) => {
                if let LeaseHold::Held(held) | LeaseHold::Leaving { held, .. } = &mut lease.hold {
                    (held.revision, held.renew_at) = (revision, held.renew_at.max(now.plus(self.pace.renew)));
                }
                Vec::new()
            }
            (Some(KvOperation::Writing), WriteOutcome::Refused | WriteOutcome::Unanswered) => {
                if let LeaseHold::Held(held) | LeaseHold::Leaving { held, .. } = &mut lease.hold {
                    held.must_be_read = true;
                    held.renew_at = if written == WriteOutcome::Refused {
                        now
                    } else {
                        now.plus(crate::ownership::placement::lease_state::RETRY)
                    };
                }
                Vec::new()
            }
            (Some(KvOperation::Freeing), _) => {
                lease.hold = LeaseHold::Away;
                lease.read_at = now;
                Vec::new()
            }
            _ => {
                lease.read_at = now;
                Vec::new()
            }
        }
    }

    /// The engine has published everything of these tenures, up to `reached`. A tenure without a result keeps its old
    /// checkpoint.
    pub(super) fn released(&mut self, tenures: &[Tenure], reached: impl Fn(Tenure) -> Option<SourceProgress>) {
        for tenure in tenures {
            let Some(lease) = self.leases.get_mut(&tenure.source) else { continue };
            if let LeaseHold::Leaving { held, reached: ready } = &mut lease.hold
                && held.tenure == *tenure
            {
                if let Some(reached) = reached(*tenure) {
                    held.reach(reached);
                }
                *ready = Some(held.reached);
            }
        }
    }

    /// The held sources: owned, and not being given back.
    pub(super) fn held(&self) -> impl Iterator<Item = (Tenure, SourceProgress)> {
        self.leases.values().filter_map(|lease| match &lease.hold {
            LeaseHold::Held(held) => Some((held.tenure, held.reached)),
            LeaseHold::Away | LeaseHold::Leaving { .. } => None,
        })
    }

    /// The sources that the ring gives to this node.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Source> {
        let sources = self.leases.keys().copied();
        sources.filter(|source| self.draining_since.is_none() && self.shares.owner(*source) == Some(&self.me))
    }

    /// The checkpoints of all owners, as far as they were read.
    pub(super) fn written(&self) -> impl Iterator<Item = Checkpoint> {
        self.leases.values().filter_map(|lease| lease.seen.as_ref()?.written())
    }

    /// Whether a drain is over: nothing is owned, and no lease is being taken.
    pub(super) fn is_empty(&self) -> bool {
        self.leases
            .values()
            .all(|lease| matches!(lease.hold, LeaseHold::Away) && !matches!(lease.busy, Some(KvOperation::Taking(_))))
    }

    /// The state of one lease, for the log of a test.
    #[cfg(test)]
    pub(super) fn describe(&self, source: Source) -> String {
        let lease = &self.leases[&source];
        format!("the ring names {:?}; {lease:?}", self.shares.owner(source).map(|owner| &owner.id))
    }

    /// Whether a drain has waited long enough for other routers.
    fn gives_up(&self, now: Millis) -> bool {
        self.draining_since.is_some_and(|since| now.since(since) >= HAND_OVER_PATIENCE)
    }
}

/// The revision at which a lease is to be taken, and where to start after the last owner; `None` if the lease is of a
/// later epoch than the known one.
fn start(seen: &SeenLease, facts: &StreamFacts) -> Option<(u64, TenureStart)> {
    let reached = match seen.written() {
        Some(Checkpoint { epoch_id, .. }) if epoch_id > facts.epoch_id => return None,
        Some(Checkpoint { checkpoint, epoch_id, mark }) if epoch_id == facts.epoch_id => {
            SourceProgress { checkpoint, mark }
        }
        // No router has read this epoch yet: it is read from its first message.
        _ => beginning(facts),
    };
    Some((seen.read.revision, TenureStart { reached, epoch_id: facts.epoch_id }))
}

fn beginning(facts: &StreamFacts) -> SourceProgress {
    SourceProgress { checkpoint: facts.least_checkpoint(), mark: None }
}

impl SourceProgress {
    fn checkpoint(self, epoch_id: EpochId) -> Checkpoint {
        Checkpoint { checkpoint: self.checkpoint, epoch_id, mark: self.mark }
    }
}
