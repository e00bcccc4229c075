//! Performs the tasks of the ownership on KV, the stream and the engine, all at the same time.

use super::{Ownership, OwnershipTask, WriteOutcome};
use crate::checkpoint::Checkpoint;
use crate::engine::Order;
use crate::engine::driver::ChannelsToEngine;
use crate::ownership::status::RouterStatus;
use crate::source::Source;
use crate::stream::{StreamError, StreamFacts, StreamLeader, StreamLook};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::placement::View;
use tickwire_node::clock::Clock;
use tickwire_node::epoch;
use tickwire_node::lease::{LeaseError, LeaseRead, Leases};
use tickwire_node::nats::Nats;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The pace of this task.
pub const ROUND: Duration = Duration::from_millis(50);

/// The longest time for one read or write of a lease.
const LEASE_DEADLINE: Duration = Duration::from_secs(1);

/// How long one check of the stream may take, with all comparisons.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// How many orders may wait for the engine. At this limit no further decisions are made.
const ORDERS: usize = 256;

/// The deadline for one read or write of a lease with time to live `ttl`.
pub fn lease_deadline(ttl: Duration) -> Duration {
    LEASE_DEADLINE.min(ttl / 2)
}

/// The inputs of the driver.
#[derive(Debug)]
pub(crate) struct OwnershipSetup {
    pub(crate) nats: Nats,
    pub(crate) leases: Leases,
    pub(crate) stream: String,
    pub(crate) clock: Clock,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) engine: ChannelsToEngine,
    pub(crate) status: RouterStatus,
}

/// The result of a task.
enum OwnershipInput {
    Read(Source, Result<LeaseRead<Checkpoint>, LeaseError>),
    Written(Source, Result<u64, LeaseError>),
    Looked(Result<StreamLook, StreamError>),
    Begun(Result<StreamFacts, StreamError>),
}

/// The task.
pub(crate) struct OwnershipDriver {
    ownership: Ownership,
    setup: OwnershipSetup,
    /// The tasks in progress: at most one for each lease, and one check of the stream.
    under_way: FuturesUnordered<BoxFuture<'static, OwnershipInput>>,
    orders: VecDeque<Order>,
}

impl OwnershipDriver {
    /// A task for this ownership.
    pub(crate) fn new(ownership: Ownership, setup: OwnershipSetup) -> Self {
        Self { ownership, under_way: FuturesUnordered::new(), orders: VecDeque::new(), setup }
    }

    /// Runs until the drain is over, or until the force. The engine ends with it.
    pub(crate) async fn run(mut self, drain: CancellationToken, force: CancellationToken) {
        tokio::select! {
            () = self.work(drain) => {}
            () = force.cancelled() => {}
        }
    }

    async fn work(&mut self, drain: CancellationToken) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connected = self.setup.nats.connected();
        loop {
            let now = self.setup.clock.now();
            if drain.is_cancelled() {
                self.ownership.drain(now);
            }
            self.turn();
            self.perform();
            self.update_status();
            if drain.is_cancelled() && self.ownership.is_empty() && self.orders.is_empty() {
                return;
            }
            let orders = self.setup.engine.orders.clone();
            tokio::select! {
                Ok(permit) = orders.reserve(), if !self.orders.is_empty() => {
                    if let Some(order) = self.orders.pop_front() {
                        permit.send(order);
                    }
                }
                Some(done) = self.under_way.next() => self.handle(done),
                Some((tenures, checkpoints)) = self.setup.engine.released.recv() => {
                    self.ownership.released(self.setup.clock.now(), &tenures, &checkpoints);
                }
                _ = rounds.tick() => {}
                changed = self.setup.view.changed() => if changed.is_err() { return },
                Ok(()) = connected.changed() => self.ownership.reconnected(self.setup.clock.now()),
            }
        }
    }

    fn turn(&mut self) {
        if self.orders.len() >= ORDERS {
            return;
        }
        if self.setup.engine.gateway_coverage.has_changed().unwrap_or(false) {
            self.ownership.note_gateway_coverage(self.setup.engine.gateway_coverage.borrow_and_update().clone());
        }
        if !self.setup.nats.is_connected() {
            self.ownership.disconnected(self.setup.clock.now());
        }
        let view = self.setup.view.borrow_and_update().clone();
        let (report, checkpoints) =
            (self.setup.engine.report.borrow().clone(), self.setup.engine.checkpoints.borrow().clone());
        self.ownership.turn(self.setup.clock.now(), view, &report, &checkpoints);
    }

    fn perform(&mut self) {
        for task in self.ownership.take_tasks() {
            let (nats, stream) = (self.setup.nats.clone(), self.setup.stream.clone());
            let leases = self.setup.leases.clone();
            let task: BoxFuture<'static, OwnershipInput> = match task {
                OwnershipTask::Order(order) => {
                    self.orders.push_back(order);
                    continue;
                }
                OwnershipTask::Read(source) => {
                    Box::pin(async move { OwnershipInput::Read(source, leases.read(&source.lease_key()).await) })
                }
                OwnershipTask::Write { source, revision, is_ours, checkpoint } => Box::pin(async move {
                    OwnershipInput::Written(
                        source,
                        leases.write(&source.lease_key(), revision, is_ours, &checkpoint).await,
                    )
                }),
                OwnershipTask::Look(expected) => Box::pin(async move {
                    let leader = StreamLeader { nats: &nats, stream: &stream };
                    let look = timeout(LOOK_DEADLINE, StreamLook::at(&leader, &expected)).await;
                    OwnershipInput::Looked(look.unwrap_or_else(|_| Err(StreamError::late(&stream, LOOK_DEADLINE))))
                }),
                OwnershipTask::Begin { known, before } => Box::pin(async move {
                    OwnershipInput::Begun(StreamFacts::begin_epoch(&nats, &stream, known, before).await)
                }),
            };
            self.under_way.push(task);
        }
    }

    fn handle(&mut self, done: OwnershipInput) {
        let now = self.setup.clock.now();
        match done {
            OwnershipInput::Read(source, read) => {
                let read = read.inspect_err(|error| debug!(%source, %error, "lease not read")).ok();
                let read = read.map(|read| self.believed(read));
                self.ownership.lease_read(now, source, read);
            }
            OwnershipInput::Written(source, written) => {
                let written = match written {
                    Ok(revision) => WriteOutcome::At(revision),
                    Err(LeaseError::Refused { .. }) => WriteOutcome::Refused,
                    Err(error) => {
                        debug!(%source, %error, "lease write not answered");
                        WriteOutcome::Unanswered
                    }
                };
                self.ownership.lease_written(now, source, written);
            }
            OwnershipInput::Looked(look) => {
                let look = look.inspect_err(|error| debug!(%error, "stream check failed"));
                self.ownership.stream_checked(now, look.ok());
            }
            OwnershipInput::Begun(facts) => {
                let facts = facts.inspect_err(|error| debug!(%error, "new epoch not begun"));
                self.ownership.epoch_begun(now, facts.ok());
            }
        }
    }

    /// A lease of an epoch that is not believed counts as overwritten by a foreign program: its owner writes it
    /// again.
    fn believed(&self, read: LeaseRead<Checkpoint>) -> LeaseRead<Checkpoint> {
        let known = self.ownership.epoch_id();
        let stated = read.record.as_ref().map(|record| record.state.epoch_id);
        match stated.is_none_or(|epoch_id| epoch::is_believed("lease", epoch_id, known)) {
            true => read,
            false => LeaseRead { revision: read.revision, record: None, is_unreadable: false, is_foreign: true },
        }
    }

    fn update_status(&self) {
        let (view, report) = (self.setup.view.borrow().clone(), self.setup.engine.report.borrow().clone());
        let wanted: BTreeSet<Source> = self.ownership.wanted().collect();
        let (awaited, progress) = (self.ownership.awaited(), self.ownership.progress());
        self.setup.status.publish(&view, &report, awaited, &wanted, progress);
    }
}
