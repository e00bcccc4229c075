//! Who reads what: the ring says who should own a partition, its lease who does. This brings the two together, and
//! tells the engine. No I/O: what is to be asked waits for the [driver](self::driver).
//!
//! ```text
//! view ──▶ wanted ──look, take──▶ held ──renew with the floor──▶ held
//!                                   │ another's: disown at once
//!                                   │ no longer wanted: the engine publishes what it has, then floor and lease go back
//! ```
//!
//! * [`placement`] decides, lease by lease, [`continuity`] whether the stream is still the one that was read.
//! * The floor in a lease is one that the engine has published and flushed up to, in this tenure.
//! * A stream that was made anew is another life of it. Then every claim is dropped, and what is held is read from that
//!   life's beginning. One that has lost what was read of it begins another life as well: else the events that get those
//!   sequences next would be taken for known ones.

mod continuity;
pub(crate) mod driver;
mod placement;
mod share;
#[cfg(test)]
mod simulator;
pub(crate) mod standing;
pub(crate) mod tenancy;

pub use placement::{PlacementTiming, SourceProgress, WriteOutcome};

use crate::engine::{EngineReport, Order, SourceCheckpoints};
use crate::source::{Source, Tenure};
use crate::stream::{Expected, StreamFacts, StreamLook};
use continuity::{Continuity, ContinuityResult};
use metrics::counter;
use placement::{Placement, PlacementAction};
use std::sync::Arc;
use tenancy::Checkpoint;
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeRef, Seq};
use tickwire_core::placement::View;
use tickwire_node::lease::LeaseRead;
use tracing::{debug, error, info, warn};

/// How often the stream is asked whether it is still the same, in milliseconds.
const LOOKS: u64 = 1_000;

/// The pause before another look at a stream that could not be looked at.
const LOOK_RETRY: u64 = 200;

/// How long the engine may take to publish what it has of partitions that are given back.
const RELEASE_DEADLINE: u64 = 3_000;

/// What is to be done. Each is answered by the method that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnershipTask {
    /// Read the lease: [`Ownership::has_read`].
    Read(Source),
    /// Write a lease: [`Ownership::has_written`].
    Write {
        /// Whose.
        source: Source,
        /// Over this revision alone.
        revision: u64,
        /// Whether it is ours, or given back.
        is_ours: bool,
        /// How far the source was read.
        checkpoint: Checkpoint,
    },
    /// Look at the stream: [`Ownership::has_looked`].
    Look(Expected),
    /// Begin another life of the stream: [`Ownership::has_begun`].
    Begin {
        /// After this one, unless a later one has begun.
        known: EpochId,
        /// Of what comes after this sequence.
        before: Seq,
    },
    /// Tell the engine; a release is answered by [`Ownership::released`].
    Order(Order),
}

/// The state.
#[derive(Debug)]
pub struct Ownership {
    placement: Placement,
    continuity: Continuity,
    /// The life that the engine reads.
    epoch: Epoch,
    tasks: Vec<OwnershipTask>,
    /// When the stream is looked at next; `None` while it is.
    look_at: Option<Millis>,
    /// Whether it is to be looked at again right after that.
    looks_again: bool,
    /// Whether the last message of every source is to be looked for.
    is_thorough: bool,
    /// What intakes did not find any more, and was looked for.
    missing: Vec<Checkpoint>,
    /// How far a gateway has come.
    witnessed: Option<Checkpoint>,
    /// What the engine was asked to publish, and until when it may take.
    releases: Vec<(Millis, Vec<Tenure>)>,
}

impl Ownership {
    /// Nothing is owned yet. `epoch` is the stream's, as it was when the node started.
    #[must_use]
    pub fn new(me: NodeRef, partitions: u16, pace: PlacementTiming, epoch: Epoch) -> Self {
        let mut continuity = Continuity::default();
        continuity.hear_of(epoch.epoch_id);
        Self {
            placement: Placement::new(me, partitions, pace),
            continuity,
            epoch,
            tasks: Vec::new(),
            look_at: Some(Millis(0)),
            looks_again: false,
            is_thorough: false,
            missing: Vec::new(),
            witnessed: None,
            releases: Vec::new(),
        }
    }

    /// Nothing is taken any more, and everything is given back.
    pub fn drain(&mut self, now: Millis) {
        self.placement.drain(now);
    }

    /// Whether a drain is over: nothing is owned, and nothing of it is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.placement.is_empty()
    }

    /// NATS was away. What was read before has to be there still.
    pub fn reconnected(&mut self, now: Millis) {
        self.is_thorough = true;
        self.look_soon(now);
    }

    /// A gateway has come so far.
    pub fn witness(&mut self, reached: Checkpoint) {
        self.witnessed = Some(reached);
    }

    /// Decides, by the newest view, what the engine reports, and what it has published.
    pub fn turn(&mut self, now: Millis, view: Arc<View>, report: &EngineReport, checkpoints: &SourceCheckpoints) {
        self.look_for_missing(now, report);
        self.placement.set_informed(standing::is_informed(&view, report));
        self.placement.set_view(view);
        self.give_up_releases(now);
        let actions = self.placement.act(now, |tenure| checkpoints.get(&tenure).copied());
        self.perform(now, actions);
        if self.look_at.is_some_and(|at| now >= at) {
            self.look_at = None;
            self.note_read();
            self.tasks.push(OwnershipTask::Look(self.continuity.expected()));
        }
    }

    /// What is to be done since the last call.
    pub fn take_tasks(&mut self) -> Vec<OwnershipTask> {
        std::mem::take(&mut self.tasks)
    }

    /// What is held: owned, and not being given back.
    pub fn held(&self) -> impl Iterator<Item = Source> {
        self.placement.held().map(|(tenure, _)| tenure.source)
    }

    /// What the ring gives to this node.
    pub fn wanted(&self) -> impl Iterator<Item = Source> {
        self.placement.wanted()
    }

    fn perform(&mut self, now: Millis, actions: Vec<PlacementAction>) {
        for action in actions {
            let task = match action {
                PlacementAction::Read(source) => OwnershipTask::Read(source),
                PlacementAction::Write { source, revision, is_ours, checkpoint } => {
                    OwnershipTask::Write { source, revision, is_ours, checkpoint }
                }
                PlacementAction::Own { tenure, reached: SourceProgress { checkpoint, mark } } => {
                    debug!(source = %tenure.source, %checkpoint, "owned");
                    // What the last owner has read is to be there.
                    self.continuity.note(Checkpoint { checkpoint, epoch_id: self.epoch.epoch_id, mark });
                    self.look_soon(now);
                    OwnershipTask::Order(Order::Own { tenure, checkpoint })
                }
                PlacementAction::Disown(tenure) => {
                    warn!(source = %tenure.source, "another router has taken the lease");
                    counter!("tickwire_router_leases_lost_total").increment(1);
                    OwnershipTask::Order(Order::Disown(tenure))
                }
                PlacementAction::Release(tenures) => {
                    info!(count = tenures.len(), "giving back leases");
                    self.releases.push((now.plus(RELEASE_DEADLINE), tenures.clone()));
                    OwnershipTask::Order(Order::Release(tenures))
                }
            };
            self.tasks.push(task);
        }
    }

    /// The engine has published what it had of these tenures, up to there.
    pub fn released(&mut self, tenures: &[Tenure], checkpoints: &SourceCheckpoints) {
        self.releases.retain(|(_, asked)| asked != tenures);
        self.placement.released(tenures, |tenure| checkpoints.get(&tenure).copied());
    }

    /// What the engine does not publish in time goes back with the floor that it has.
    fn give_up_releases(&mut self, now: Millis) {
        for (_, tenures) in self.releases.extract_if(.., |(until, _)| *until <= now) {
            warn!("what was read of the partitions that are given back may not be published; floors stay");
            self.placement.released(&tenures, |_| None);
        }
    }

    /// A lease was read; `None` if it could not be.
    pub fn has_read(&mut self, now: Millis, source: Source, read: Option<LeaseRead<Checkpoint>>) {
        let actions = self.placement.has_read(now, source, read);
        self.note_written(now);
        self.perform(now, actions);
    }

    /// A lease was written, or was not.
    pub fn has_written(&mut self, now: Millis, source: Source, written: WriteOutcome) {
        let actions = self.placement.has_written(now, source, written);
        self.perform(now, actions);
    }

    /// What was read is to be there. While the connection stands the last message of all will do: a server that loses
    /// something was started again.
    fn note_read(&mut self) {
        let epoch_id = self.epoch.epoch_id;
        if let Some(witnessed) = self.witnessed {
            self.continuity.note(witnessed);
        }
        let read = self.placement.held().map(|(_, SourceProgress { checkpoint, mark })| Checkpoint {
            checkpoint,
            epoch_id,
            mark,
        });
        if std::mem::take(&mut self.is_thorough) {
            read.for_each(|read| self.continuity.note(read));
        } else if let Some(last) = read.max_by_key(|read| read.mark) {
            self.continuity.note(last);
        }
    }

    /// An intake that does not find what it has read last is stuck until it is known whether the stream has lost it.
    fn look_for_missing(&mut self, now: Millis, report: &EngineReport) {
        if report.missing == self.missing {
            return;
        }
        report.missing.iter().for_each(|read| self.continuity.doubt(*read));
        self.missing.clone_from(&report.missing);
        self.look_soon(now);
    }

    /// A life later than the one that is known is looked for at once.
    fn note_written(&mut self, now: Millis) {
        let latest = self.placement.written().map(|written| written.epoch_id).max();
        if latest.is_some_and(|latest| self.continuity.hear_of(latest)) {
            self.look_soon(now);
        }
    }

    fn look_soon(&mut self, now: Millis) {
        match &mut self.look_at {
            Some(at) => *at = now,
            None => self.looks_again = true,
        }
    }

    fn look_after(&mut self, now: Millis, pause: u64) {
        let pause = if std::mem::take(&mut self.looks_again) { 0 } else { pause };
        self.look_at = Some(now.plus(pause));
    }

    /// The stream was looked at; `None` if it could not be.
    pub fn has_looked(&mut self, now: Millis, look: Option<StreamLook>) {
        let Some(look) = look else {
            self.continuity.fail();
            self.is_thorough = true;
            return self.look_after(now, LOOK_RETRY);
        };
        match self.continuity.see(now, look) {
            ContinuityResult::Life(facts) => self.has_begun(now, Some(facts)),
            ContinuityResult::Doubt => self.look_after(now, LOOK_RETRY),
            ContinuityResult::Begin { known, before } => {
                error!(epoch = %known, %before, "the stream lacks what was read of it: NATS has lost events");
                counter!("tickwire_router_stream_losses_total").increment(1);
                self.tasks.push(OwnershipTask::Begin { known, before });
            }
        }
    }

    /// The life that the stream lives now; `None` if another one could not be begun.
    pub fn has_begun(&mut self, now: Millis, facts: Option<StreamFacts>) {
        let Some(facts) = facts else { return self.look_after(now, LOOK_RETRY) };
        self.look_after(now, LOOKS);
        let (epoch, last) = (facts.epoch(), facts.last);
        // A life that is over, as a server that lags tells it.
        if epoch.epoch_id < self.epoch.epoch_id {
            return;
        }
        if epoch != self.epoch {
            warn!(epoch_id = %epoch.epoch_id, before = %epoch.before, end = %last, "another life of the stream");
            self.continuity.hear_of(epoch.epoch_id);
            self.epoch = epoch;
            self.tasks.push(OwnershipTask::Order(Order::Renew(epoch)));
        }
        let actions = self.placement.see_stream(now, facts);
        self.perform(now, actions);
    }
}
