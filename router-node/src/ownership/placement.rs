//! Every decision on leases: what to read, take, renew and give back, and when. Pure: the view, the time and the answers
//! of KV come in, actions go out; each lease goes its own way, so that a slow answer for one holds up no other.
//!
//! * The ring says who should own a source. Who should takes it when it is free, or stale.
//! * A view may be wrong: it may name the dead, or differ between routers. So what has been free or stale for a little
//!   longer is taken by whoever sees it, its heir first: the router that the ring would name without the one that does
//!   not do its part. A source that is owned against the ring is kept for a while before it is given back, so that two
//!   views that go on differing do not leave it without an owner again and again.
//! * A refused write says that somebody wrote. Who it was is read before anything is given up: it may have been this
//!   router, by a write that was not answered; and a KV that has lost its tail refuses as well.
//! * An unanswered renewal changes nothing: until another's lease is seen we go on, for coverage makes two owners safe.

mod desk;

use self::desk::{Busy, Desk, Held, Hold, Start};
use super::share::Shares;
use super::tenancy::{Checkpoint, Mark, Seen};
use crate::source::{Source, Tenure};
use crate::stream::Facts;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{Incarnation, Millis, NodeRef, Partition, Seq};
use tickwire_core::ring::View;
use tickwire_node::clock::millis;
use tickwire_node::lease::Read;

/// How long a draining router waits for a view that gives its partitions to others, before it lets go of them.
const HAND_OVER_PATIENCE: u64 = 1_000;

/// How far a source was read and published, and the last message of that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// Everything up to here.
    pub floor: Seq,
    /// The last message that was read; `None` if none was.
    pub mark: Option<Mark>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Read the lease.
    Read(Source),
    /// Write the lease over `revision`, as ours or as given back.
    Write { source: Source, revision: u64, is_ours: bool, checkpoint: Checkpoint },
    /// A tenure begins where the last one has come to.
    Own { tenure: Tenure, reached: Reached },
    /// A tenure has ended.
    Disown(Tenure),
    /// Publish what was read of these, and tell up to where by [`Placement::released`].
    Release(Vec<Tenure>),
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is in KV, at this revision.
    At(u64),
    /// Somebody had written before.
    Refused,
    /// It was not answered: it may be in KV, or come to be.
    Unanswered,
}

/// How long things take, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// For how long a lease that is not written is its owner's.
    pub(super) ttl: u64,
    /// How often a lease is renewed.
    pub(super) renew: u64,
}

impl Pace {
    /// Leases that live for `ttl` and are renewed at each checkpoint, but twice in their life at least.
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
    pace: Pace,
    shares: Shares,
    partitions: u16,
    desks: BTreeMap<Source, Desk>,
    /// Whether the interest of every gateway is known.
    is_informed: bool,
    draining_since: Option<Millis>,
    /// The stream as it was last seen; nothing is taken before.
    facts: Option<Facts>,
    tenures: u64,
}

impl Placement {
    /// Nothing is owned yet.
    pub(super) fn new(me: NodeRef, partitions: u16, pace: Pace) -> Self {
        let sources = (0..partitions).map(|number| Source::Partition(Partition(number)));
        let desks = sources.chain([Source::CatchAll]).map(|source| (source, Desk::default())).collect();
        Self {
            me,
            pace,
            shares: Shares::new(Arc::default(), partitions),
            partitions,
            desks,
            is_informed: false,
            draining_since: None,
            facts: None,
            tenures: 0,
        }
    }

    /// Another view of the members.
    pub(super) fn set_view(&mut self, view: Arc<View>) {
        if !Arc::ptr_eq(self.shares.view(), &view) {
            self.shares = Shares::new(view, self.partitions);
        }
    }

    /// Whether the interest of every gateway is known.
    pub(super) fn set_informed(&mut self, is_informed: bool) {
        self.is_informed = is_informed;
    }

    /// Nothing is taken any more, and everything is given back.
    pub(super) fn drain(&mut self, now: Millis) {
        self.draining_since.get_or_insert(now);
    }

    /// The stream was looked at. If that is another life of it than the one before, every tenure ends and another begins
    /// at that life's beginning.
    pub(super) fn see_stream(&mut self, now: Millis, facts: Facts) -> Vec<Action> {
        let former = self.facts.replace(facts);
        if former.is_none_or(|former| former.life() == facts.life()) {
            return Vec::new();
        }
        let mut actions = Vec::new();
        for (source, desk) in &mut self.desks {
            let (Hold::Held(held) | Hold::Leaving { held, .. }) = &mut desk.hold else { continue };
            self.tenures += 1;
            let tenure = Tenure { source: *source, number: self.tenures };
            *held = Held { tenure, reached: beginning(&facts), renew_at: now, ..*held };
            match &mut desk.hold {
                Hold::Leaving { held, reached } => *reached = Some(held.reached),
                _ => actions.push(Action::Own { tenure, reached: beginning(&facts) }),
            }
        }
        actions
    }

    /// What is to be done now. `reached` tells how far tenures were read and published.
    pub(super) fn act(&mut self, now: Millis, reached: impl Fn(Tenure) -> Option<Reached>) -> Vec<Action> {
        let (mut actions, mut leaving) = (Vec::new(), Vec::new());
        let (gives_up, is_draining) = (self.gives_up(now), self.draining_since.is_some());
        let facts = self.facts.filter(|_| !is_draining);
        let incarnation = self.facts.map(|facts| facts.incarnation).unwrap_or_default();
        let Self { me, shares, pace, is_informed, .. } = self;
        for (source, desk) in &mut self.desks {
            let source = *source;
            let owner = shares.owner(source);
            let (is_wanted, is_others) = (owner == Some(me), owner.is_some_and(|owner| owner != me));
            desk.want(now, is_wanted && !is_draining);
            if let Hold::Held(held) = &mut desk.hold
                && let Some(reached) = reached(held.tenure)
            {
                held.reach(reached);
            }
            if gives_up || is_others && (is_draining || desk.may_leave(now)) {
                leaving.extend(desk.leave());
            }
            if desk.busy.is_some() {
                continue;
            }
            let write = |revision, is_ours, reached: Reached| Action::Write {
                source,
                revision,
                is_ours,
                checkpoint: reached.checkpoint(incarnation),
            };
            let (busy, action) = match &desk.hold {
                Hold::Held(held) | Hold::Leaving { held, .. } if held.in_doubt => {
                    if now < held.renew_at {
                        continue;
                    }
                    (Busy::Settling, Action::Read(source))
                }
                Hold::Leaving { held, reached: Some(reached) } => {
                    (Busy::Freeing, write(held.revision, false, *reached))
                }
                Hold::Held(held) | Hold::Leaving { held, .. } => {
                    if now < held.renew_at {
                        continue;
                    }
                    (Busy::Writing, write(held.revision, true, held.reached))
                }
                Hold::Away => {
                    let is_heir = |former: Option<&NodeRef>| shares.is_heir(me, source, former);
                    let free = desk.takeable(*pace, *is_informed, me, is_wanted, is_heir);
                    let start = free.zip(facts).and_then(|(seen, facts)| start(seen, &facts));
                    if let Some((revision, start)) = start {
                        (Busy::Taking(start), write(revision, true, start.reached))
                    } else if desk.is_look_due(now, *pace) {
                        (Busy::Looking, Action::Read(source))
                    } else {
                        continue;
                    }
                }
            };
            desk.busy = Some(busy);
            desk.is_spent |= matches!(busy, Busy::Taking(_) | Busy::Freeing);
            actions.push(action);
        }
        if !leaving.is_empty() {
            actions.push(Action::Release(leaving));
        }
        actions
    }

    /// A lease was read; `None` if it could not be.
    pub(super) fn has_read(&mut self, now: Millis, source: Source, read: Option<Read<Checkpoint>>) -> Vec<Action> {
        let (me, pace) = (self.me.clone(), self.pace);
        let Some(desk) = self.desks.get_mut(&source) else { return Vec::new() };
        let busy = desk.busy.take();
        let Some(read) = read else {
            desk.retry(now);
            return Vec::new();
        };
        // What no node has written takes nothing from anyone.
        let is_ours = read.is_free_for(&me) || read.is_foreign;
        let revision = read.revision;
        desk.see(now, read, pace);
        match (&mut desk.hold, busy) {
            (Hold::Held(held) | Hold::Leaving { held, .. }, Some(Busy::Settling)) if is_ours => {
                (held.revision, held.in_doubt, held.renew_at) = (revision, false, now);
                Vec::new()
            }
            (Hold::Held(held), Some(Busy::Settling)) => {
                let tenure = held.tenure;
                desk.hold = Hold::Away;
                vec![Action::Disown(tenure)]
            }
            (Hold::Leaving { .. }, Some(Busy::Settling)) => {
                desk.hold = Hold::Away;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A lease was written, or was not.
    pub(super) fn has_written(&mut self, now: Millis, source: Source, written: Written) -> Vec<Action> {
        let facts = self.facts;
        let Some(desk) = self.desks.get_mut(&source) else { return Vec::new() };
        match (desk.busy.take(), written) {
            (Some(Busy::Taking(reached)), Written::At(revision)) => {
                self.tenures += 1;
                let tenure = Tenure { source, number: self.tenures };
                // Another life may have begun since.
                let is_same = facts.is_some_and(|facts| reached.is_of(&facts));
                let reached = facts.filter(|_| !is_same).map_or(reached.reached, |facts| beginning(&facts));
                desk.take(now, Held::new(tenure, revision, reached, now.plus(self.pace.renew)));
                vec![Action::Own { tenure, reached }]
            }
            (Some(Busy::Writing), Written::At(revision)) => {
                if let Hold::Held(held) | Hold::Leaving { held, .. } = &mut desk.hold {
                    (held.revision, held.renew_at) = (revision, held.renew_at.max(now.plus(self.pace.renew)));
                }
                Vec::new()
            }
            (Some(Busy::Writing), Written::Refused | Written::Unanswered) => {
                if let Hold::Held(held) | Hold::Leaving { held, .. } = &mut desk.hold {
                    held.in_doubt = true;
                    held.renew_at = if written == Written::Refused { now } else { now.plus(desk::RETRY) };
                }
                Vec::new()
            }
            (Some(Busy::Freeing), _) => {
                desk.hold = Hold::Away;
                desk.look_at = now;
                Vec::new()
            }
            _ => {
                desk.look_at = now;
                Vec::new()
            }
        }
    }

    /// The engine has published what it had of these tenures, up to where it says; what it does not name stays as it was.
    pub(super) fn released(&mut self, tenures: &[Tenure], reached: impl Fn(Tenure) -> Option<Reached>) {
        for tenure in tenures {
            let Some(desk) = self.desks.get_mut(&tenure.source) else { continue };
            if let Hold::Leaving { held, reached: ready } = &mut desk.hold
                && held.tenure == *tenure
            {
                if let Some(reached) = reached(*tenure) {
                    held.reach(reached);
                }
                *ready = Some(held.reached);
            }
        }
    }

    /// What is held: owned, and not being given back.
    pub(super) fn held(&self) -> impl Iterator<Item = (Tenure, Reached)> {
        self.desks.values().filter_map(|desk| match &desk.hold {
            Hold::Held(held) => Some((held.tenure, held.reached)),
            Hold::Away | Hold::Leaving { .. } => None,
        })
    }

    /// What the ring gives to this node.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Source> {
        let sources = self.desks.keys().copied();
        sources.filter(|source| self.draining_since.is_none() && self.shares.owner(*source) == Some(&self.me))
    }

    /// What owners have written down, as far as it was read.
    pub(super) fn written(&self) -> impl Iterator<Item = Checkpoint> {
        self.desks.values().filter_map(|desk| desk.seen.as_ref()?.written())
    }

    /// Whether a drain is over: nothing is owned, and nothing of it is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.desks.values().all(|desk| matches!(desk.hold, Hold::Away) && !matches!(desk.busy, Some(Busy::Taking(_))))
    }

    /// How it stands with one lease.
    #[cfg(test)]
    pub(super) fn standing(&self, source: Source) -> String {
        let desk = &self.desks[&source];
        format!("the ring names {:?}; {desk:?}", self.shares.owner(source).map(|owner| &owner.id))
    }

    /// Whether a drain has waited long enough for the others.
    fn gives_up(&self, now: Millis) -> bool {
        self.draining_since.is_some_and(|since| now.since(since) >= HAND_OVER_PATIENCE)
    }
}

/// At which revision a lease is to be taken, and where to go on from what the last owner wrote; `None` if that is of a
/// later life than the one that is known.
fn start(seen: &Seen, facts: &Facts) -> Option<(u64, Start)> {
    let reached = match seen.written() {
        Some(Checkpoint { incarnation, .. }) if incarnation > facts.incarnation => return None,
        Some(Checkpoint { floor, incarnation, mark }) if incarnation == facts.incarnation => Reached { floor, mark },
        // Nobody has read this life of the stream: it is read from its first message.
        _ => beginning(facts),
    };
    Some((seen.read.revision, Start { reached, incarnation: facts.incarnation }))
}

fn beginning(facts: &Facts) -> Reached {
    Reached { floor: facts.least_floor(), mark: None }
}

impl Reached {
    fn checkpoint(self, incarnation: Incarnation) -> Checkpoint {
        Checkpoint { floor: self.floor, incarnation, mark: self.mark }
    }
}
