//! The ownership of partitions: the ring names the router that should own a partition, its lease names the one that
//! does. This module brings the two together, and sends orders to the engine. No I/O: requests wait for the
//! [driver](self::driver).
//!
//! ```text
//! view ──▶ wanted ──read, take──▶ held ──renew with the checkpoint──▶ held
//!                                   │ another's: disown at once
//!                                   │ no longer wanted: the engine publishes everything, then the lease goes back
//! ```
//!
//! * [`placement`] decides for each lease; [`continuity`] decides whether the stream is still the one that was read.
//! * The checkpoint in a lease is one up to which the engine has published and flushed, in this tenure.
//! * A stream that was created again has a new epoch. Then all sections are dropped, and held sources are read from the
//!   beginning of that epoch. A stream that has lost read messages gets a new epoch as well. Otherwise the events that
//!   get those sequences next would be taken for known ones.

mod awaited;
mod continuity;
pub(crate) mod driver;
mod placement;
mod share;
#[cfg(test)]
mod simulator;
pub(crate) mod status;

pub use placement::{PlacementTiming, WriteOutcome};

use crate::checkpoint::{Checkpoint, SourceProgress};
use crate::engine::{EngineReport, Order, SourceCheckpoints};
use crate::metrics;
use crate::source::{Source, Tenure};
use crate::stream::{Expected, StreamFacts, StreamLook};
use awaited::AwaitedGateways;
use continuity::{Continuity, ContinuityResult};
use placement::{Placement, PlacementAction};
use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeRef, Seq};
use tickwire_core::placement::View;
use tickwire_node::lease::LeaseRead;
use tracing::{Span, error, info, info_span, warn};

/// How often the stream is checked, in milliseconds.
const CHECK_INTERVAL: u64 = 1_000;

/// The pause before another check of a stream that could not be read.
const CHECK_RETRY: u64 = 200;

/// How long the engine may take to publish everything of partitions that are given back.
const RELEASE_DEADLINE: u64 = 3_000;

/// What is to be done. Each task is answered by the method that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnershipTask {
    /// Read the lease: [`Ownership::lease_read`].
    Read(Source),
    /// Write a lease: [`Ownership::lease_written`].
    Write {
        /// The source of the lease.
        source: Source,
        /// The write succeeds only over this revision.
        revision: u64,
        /// Whether it is ours, or given back.
        is_ours: bool,
        /// How far the source was read.
        checkpoint: Checkpoint,
    },
    /// Check the stream: [`Ownership::stream_checked`].
    Look(Expected),
    /// Begin a new epoch: [`Ownership::epoch_begun`].
    Begin {
        /// The latest known epoch. If a later one has begun already, nothing is written.
        known: EpochId,
        /// The new epoch is for messages after this sequence.
        before: Seq,
    },
    /// Send an order to the engine; a release is answered by [`Ownership::released`].
    Order(Order),
}

/// The state.
#[derive(Debug)]
pub struct Ownership {
    placement: Placement,
    continuity: Continuity,
    awaited: AwaitedGateways,
    /// The epoch that the engine reads.
    epoch: Epoch,
    tasks: Vec<OwnershipTask>,
    /// When the stream is checked next; `None` during a check.
    check_at: Option<Millis>,
    /// Whether another check follows right after the current one.
    checks_again: bool,
    /// Whether the last message of every source is checked.
    checks_all: bool,
    /// Messages that intakes did not find any more, and that a check was started for.
    missing: Vec<Checkpoint>,
    /// The record of each tenure for the log.
    tenures: BTreeMap<Tenure, Record>,
    /// The pending releases, and the deadline of each.
    releases: Vec<(Millis, Vec<Tenure>)>,
}

/// The record of a tenure for the log: its lines stand in a span of its own.
#[derive(Debug)]
struct Record {
    span: Span,
    began: Millis,
    checkpoint: Seq,
}

impl Ownership {
    /// Nothing is owned yet. `epoch` is the stream's epoch at the start of the node. A gateway that sends no beat for
    /// `member_timeout` milliseconds is no member any more.
    #[must_use]
    pub fn new(me: NodeRef, partitions: u16, pace: PlacementTiming, member_timeout: u64, epoch: Epoch) -> Self {
        Self {
            placement: Placement::new(me, partitions, pace),
            continuity: Continuity::new(epoch.epoch_id, member_timeout),
            awaited: AwaitedGateways::new(member_timeout),
            epoch,
            tasks: Vec::new(),
            check_at: Some(Millis(0)),
            checks_again: false,
            checks_all: false,
            missing: Vec::new(),
            tenures: BTreeMap::new(),
            releases: Vec::new(),
        }
    }

    /// The epoch that the engine reads.
    pub(crate) fn epoch_id(&self) -> EpochId {
        self.epoch.epoch_id
    }

    /// Takes no more leases, and gives all back.
    pub fn drain(&mut self, now: Millis) {
        self.placement.drain(now);
    }

    /// Whether a drain is over: nothing is owned, and no lease is being taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.placement.is_empty()
    }

    /// NATS is connected again. Checks that everything that was read is still in the stream.
    pub fn reconnected(&mut self, now: Millis) {
        self.checks_all = true;
        self.check_soon(now);
    }

    /// There is no connection to NATS, so no gateway can send its interest. Call it before each turn while that lasts.
    pub fn disconnected(&mut self, now: Millis) {
        self.awaited.restart(now);
    }

    /// Takes the coverage that each gateway reports.
    pub fn note_gateway_coverage(&mut self, reports: BTreeMap<NodeRef, Checkpoint>) {
        self.continuity.set_reports(reports);
    }

    /// Decides, from the newest view, the engine's report, and its checkpoints.
    pub fn turn(&mut self, now: Millis, view: Arc<View>, report: &EngineReport, checkpoints: &SourceCheckpoints) {
        self.check_missing(now, report);
        self.awaited.update(now, &view, report);
        self.placement.set_informed(self.awaited.is_empty());
        self.placement.set_view(view);
        self.give_up_releases(now);
        let actions = self.placement.act(now, |tenure| checkpoints.get(&tenure).copied());
        self.perform(now, actions);
        if self.check_at.is_some_and(|at| now >= at) {
            self.check_at = None;
            self.note_read();
            self.tasks.push(OwnershipTask::Look(self.continuity.expected()));
        }
    }

    /// The tasks since the last call.
    pub fn take_tasks(&mut self) -> Vec<OwnershipTask> {
        std::mem::take(&mut self.tasks)
    }

    /// The held sources: owned, and not being given back.
    pub fn held(&self) -> impl Iterator<Item = Source> {
        self.placement.held().map(|(tenure, _)| tenure.source)
    }

    /// The held sources, and how far each was published.
    pub(crate) fn progress(&self) -> impl Iterator<Item = (Tenure, SourceProgress)> {
        self.placement.held()
    }

    /// The gateways whose interest is not known.
    fn awaited(&self) -> &AwaitedGateways {
        &self.awaited
    }

    /// The sources that the ring gives to this node.
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
                    let span = info_span!("partition", source = %tenure.source, tenure = tenure.number);
                    span.in_scope(|| info!(%checkpoint, epoch_id = %self.epoch.epoch_id, "partition owned"));
                    self.tenures.insert(tenure, Record { span, began: now, checkpoint });
                    // The messages that the last owner has read must be in the stream.
                    self.continuity.note(Checkpoint { checkpoint, epoch_id: self.epoch.epoch_id, mark });
                    self.check_soon(now);
                    OwnershipTask::Order(Order::Own { tenure, checkpoint })
                }
                PlacementAction::Disown(tenure) => {
                    warn!(source = %tenure.source, "another router has taken the lease");
                    self.log_end(now, tenure, "taken", None);
                    metrics::LEASES_LOST.increment(1);
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

    /// The engine has published everything of these tenures, up to these checkpoints.
    pub fn released(&mut self, now: Millis, tenures: &[Tenure], checkpoints: &SourceCheckpoints) {
        for tenure in tenures {
            self.log_end(now, *tenure, "released", checkpoints.get(tenure).map(|reached| reached.checkpoint));
        }
        self.releases.retain(|(_, asked)| asked != tenures);
        self.placement.released(tenures, |tenure| checkpoints.get(&tenure).copied());
    }

    /// Tenures that the engine does not publish in time are given back with the checkpoint that they have.
    fn give_up_releases(&mut self, now: Millis) {
        let late: Vec<_> = self.releases.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, tenures) in late {
            warn!("release not published in time, old checkpoints kept");
            tenures.iter().for_each(|tenure| self.log_end(now, *tenure, "released late", None));
            self.placement.released(&tenures, |_| None);
        }
    }

    /// Logs the end of a tenure. `checkpoint` is how far it has read, if that is known.
    fn log_end(&mut self, now: Millis, tenure: Tenure, reason: &'static str, checkpoint: Option<Seq>) {
        let Some(Record { span, began, checkpoint: from }) = self.tenures.remove(&tenure) else { return };
        let (duration_ms, through) = (now.since(began), checkpoint.map(|seq| seq.0));
        span.in_scope(|| info!(reason, duration_ms, from = from.0, through, "partition no longer owned"));
    }

    /// A lease was read; `None` if that failed.
    pub fn lease_read(&mut self, now: Millis, source: Source, read: Option<LeaseRead<Checkpoint>>) {
        let actions = self.placement.lease_read(now, source, read);
        self.note_written(now);
        self.perform(now, actions);
    }

    /// A lease was written, or the write failed.
    pub fn lease_written(&mut self, now: Millis, source: Source, written: WriteOutcome) {
        let actions = self.placement.lease_written(now, source, written);
        self.perform(now, actions);
    }

    /// Notes the read messages that must be in the stream. While the connection is up, the last message of all sources
    /// is enough: a server that loses messages was restarted.
    fn note_read(&mut self) {
        let epoch_id = self.epoch.epoch_id;
        let read = self.placement.held().map(|(_, SourceProgress { checkpoint, mark })| Checkpoint {
            checkpoint,
            epoch_id,
            mark,
        });
        if std::mem::take(&mut self.checks_all) {
            read.for_each(|read| self.continuity.note(read));
        } else if let Some(last) = read.max_by_key(|read| read.mark) {
            self.continuity.note(last);
        }
    }

    /// An intake that does not find its last read message is stuck until it is known whether the stream has lost it.
    fn check_missing(&mut self, now: Millis, report: &EngineReport) {
        if report.missing == self.missing {
            return;
        }
        report.missing.iter().for_each(|read| self.continuity.recheck(*read));
        self.missing.clone_from(&report.missing);
        self.check_soon(now);
    }

    /// If another router has written a later epoch than the known one, the stream is checked at once.
    fn note_written(&mut self, now: Millis) {
        let latest = self.placement.written().map(|written| written.epoch_id).max();
        if latest.is_some_and(|latest| self.continuity.note_epoch(latest)) {
            self.check_soon(now);
        }
    }

    fn check_soon(&mut self, now: Millis) {
        match &mut self.check_at {
            Some(at) => *at = now,
            None => self.checks_again = true,
        }
    }

    fn check_after(&mut self, now: Millis, pause: u64) {
        let pause = if std::mem::take(&mut self.checks_again) { 0 } else { pause };
        self.check_at = Some(now.plus(pause));
    }

    /// The stream was checked; `None` if that failed.
    pub fn stream_checked(&mut self, now: Millis, look: Option<StreamLook>) {
        let Some(look) = look else {
            self.continuity.fail();
            self.checks_all = true;
            return self.check_after(now, CHECK_RETRY);
        };
        match self.continuity.take_look(now, look) {
            ContinuityResult::Epoch(facts) => self.epoch_begun(now, Some(facts)),
            ContinuityResult::Recheck => self.check_after(now, CHECK_RETRY),
            ContinuityResult::Begin { known, before } => {
                error!(epoch = %known, %before, "NATS has lost events that were read from the stream");
                metrics::STREAM_LOSSES.increment(1);
                self.tasks.push(OwnershipTask::Begin { known, before });
            }
        }
    }

    /// The current epoch of the stream; `None` if a new one could not be begun.
    pub fn epoch_begun(&mut self, now: Millis, facts: Option<StreamFacts>) {
        let Some(facts) = facts else { return self.check_after(now, CHECK_RETRY) };
        self.check_after(now, CHECK_INTERVAL);
        let (epoch, last) = (facts.epoch(), facts.last);
        // A server that lags may report a former epoch.
        if epoch.epoch_id < self.epoch.epoch_id {
            return;
        }
        if epoch != self.epoch {
            warn!(epoch_id = %epoch.epoch_id, before = %epoch.before, end = %last, "new epoch of the stream");
            self.continuity.note_epoch(epoch.epoch_id);
            self.epoch = epoch;
            self.tasks.push(OwnershipTask::Order(Order::Renew(epoch)));
            for tenure in self.tenures.keys().copied().collect::<Vec<_>>() {
                self.log_end(now, tenure, "another epoch of the stream", None);
            }
        }
        let actions = self.placement.set_stream_facts(now, facts);
        self.perform(now, actions);
    }
}
