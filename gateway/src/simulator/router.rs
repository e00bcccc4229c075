//! The routers: the production engine and ownership, called in the order of their drivers.

mod outputs;
mod ownership;
mod published;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use tickwire_core::coverage::completeness::Completeness;
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeRef, Revision, Seq};
use tickwire_core::interest::{InterestBeat, SnapshotPart};
use tickwire_core::placement::View;
use tickwire_core::wire;
use tickwire_node::clock::millis;
use tickwire_node::lease::LeaseRecord;
use tickwire_router_node::decisions::{
    ENGINE_TURN, Engine, EngineOutput, EngineReport, Expected, IntakeReport, InterestMessage, MessageTurns, Order,
    Ownership, OwnershipTask, PlacementTiming, Queue, ROUND, SNAPSHOT_BACKOFF, SNAPSHOT_DEADLINE, Source,
    SourceCheckpoints, StreamLook, TOGETHER, Tenure, WriteOutcome, batches, lease_deadline,
};

use super::cluster::{AT_ONCE, FLOOD, NODES, PARTITIONS, SimCluster};
use super::intake::{Fault, SimIntake};
use super::kv::{KvAnswer, KvRequest};
use super::network::{BatchEnds, MAX_PAYLOAD, SimMessage};
use super::replay::SimPass;
use super::rules::SimRevision;
use super::waits::Waits;
use published::Published;

/// How long the stream takes at most to answer a look or to begin an epoch, in milliseconds.
const LOOK: u64 = 20;

/// An ownership that has nothing to do has a round only after this many intervals, to save time.
const IDLE_ROUNDS: u64 = 4;

/// How many inputs the engine serves before the other tasks of its router have a turn.
const ENGINE_INPUTS: usize = 8;

/// The most turns that a router may take at one simulated time. More means that it never runs out of work.
const TURNS: usize = 2_000;

pub(super) struct SimRouter {
    pub(super) node: NodeRef,
    /// Whether its process does not run. Messages to it are lost.
    pub(super) is_down: bool,
    /// Whether its process is stopped: it does nothing, and messages to it wait.
    pub(super) is_frozen: bool,
    /// The deadline of its drain, if it drains.
    pub(super) drains_until: Option<Millis>,
    /// The simulated time of its next turn.
    pub(super) due: Millis,
    /// The messages that wait while it is frozen.
    pub(super) waiting: Vec<SimMessage>,
    /// How far its monotonic clock is ahead of the simulated time, in milliseconds.
    offset: u64,
    pub(super) view: Arc<View>,
    pub(super) engine: Engine,
    ownership: Ownership,
    /// The inputs that wait for the engine, and the turns that choose between them.
    inputs: EngineInputs,
    turns: MessageTurns,
    waits: Waits<2>,
    /// Whether it has no connection to NATS.
    pub(super) is_cut: bool,
    /// Between engine and ownership: the orders of the ownership, and the reports and checkpoints of the engine.
    orders: VecDeque<Order>,
    report: EngineReport,
    checkpoints: SourceCheckpoints,
    pub(super) intakes: BTreeMap<Tenure, Box<SimIntake>>,
    /// The rules that it applies.
    pub(super) rules: Rc<SimRevision>,
    /// How many requests for a consumer are refused from now on.
    pub(super) refused: u8,
    /// Whether the connection to NATS was lost and restored, and the ownership has not processed that yet.
    pub(super) was_disconnected: bool,
    pub(super) queue: Queue<(NodeRef, u64)>,
    pub(super) passes: Vec<SimPass>,
    operations: Vec<Operation>,
    /// The task of the ownership at the stream, and the time of its answer.
    stream_request: Option<(StreamTask, Millis)>,
    pub(super) snapshots: BTreeMap<NodeRef, SnapshotRequest>,
    pub(super) round_at: Millis,
    checkpoint_at: Millis,
    /// Whether a consumer drops the next message.
    pub(super) drops_next: bool,
    published: Published,
    /// What walks have shown of the stream, and in which epoch.
    pub(super) completeness: Completeness,
    pub(super) completeness_epoch: EpochId,
}

/// The inputs that wait for an engine.
#[derive(Default)]
struct EngineInputs {
    /// Whether the connection to NATS was lost or made.
    is_connection_changed: bool,
    view: Option<Arc<View>>,
    messages: VecDeque<InterestMessage>,
    /// The answers to requests for snapshots; `None` if none came in time.
    snapshots: VecDeque<(NodeRef, Option<Vec<SnapshotPart>>)>,
    reports: VecDeque<IntakeReport>,
}

/// An operation on a lease that is not answered yet.
struct Operation {
    number: u64,
    source: Source,
    is_write: bool,
    until: Millis,
}

/// A request for a snapshot.
pub(super) struct SnapshotRequest {
    /// The time to send it; `None` if it was sent.
    at: Option<Millis>,
    until: Millis,
}

/// A task of the ownership that the stream answers.
enum StreamTask {
    Look(Expected),
    Begin { known: EpochId, before: Seq },
}

impl SimRouter {
    pub(super) fn runs(&self) -> bool {
        !self.is_down && !self.is_frozen
    }

    /// Its monotonic clock.
    pub(super) fn time(&self, now: Millis) -> Millis {
        now.plus(self.offset)
    }

    /// Whether messages reach it.
    pub(super) fn is_reachable(&self) -> bool {
        !self.is_down && !self.is_cut
    }

    /// Whether it answers asks.
    pub(super) fn serves_replays(&self) -> bool {
        self.is_reachable() && self.drains_until.is_none()
    }

    /// Whether it has released its leases, and answered all asks.
    pub(super) fn is_drained(&self) -> bool {
        self.ownership.is_empty() && self.orders.is_empty() && self.passes.is_empty()
    }

    /// Whether it holds the lease of a source.
    pub(super) fn holds(&self, source: Source) -> bool {
        self.ownership.held().any(|held| held == source)
    }

    /// Whether it reads exactly the sources whose leases it holds.
    pub(super) fn reads_what_it_holds(&self) -> bool {
        let read: BTreeSet<Source> = self.intakes.keys().map(|tenure| tenure.source).collect();
        read == self.ownership.held().collect() && read.len() == self.intakes.len()
    }

    /// The gateways of which it lacks the newest revision of the interest that it knows of.
    pub(super) fn gateways_without_interest(&self) -> &[NodeRef] {
        &self.report.gateways_without_interest
    }

    /// The revision of a gateway's interest that it has.
    pub(super) fn known_revision(&mut self, gateway: &NodeRef) -> Option<Revision> {
        self.engine.interest(gateway, Revision(0)).map(|(revision, _)| revision)
    }

    /// Sets its view. Its ownership has a round at once.
    pub(super) fn set_view(&mut self, view: Arc<View>) {
        self.inputs.view = Some(Arc::clone(&view));
        (self.view, self.round_at) = (view, AT_ONCE);
    }

    /// It loses its connection to NATS, or has it again.
    pub(super) fn cut(&mut self) {
        self.is_cut = !self.is_cut;
        self.was_disconnected |= !self.is_cut;
        (self.inputs.is_connection_changed, self.due) = (true, AT_ONCE);
    }

    /// Passes the report of an intake to the engine.
    pub(super) fn report(&mut self, report: IntakeReport) {
        self.inputs.reports.push_back(report);
    }

    /// The simulated time of the next turn.
    fn next_turn(&self) -> Millis {
        let operations = self.operations.iter().map(|operation| operation.until);
        let snapshots = self.snapshots.values().map(|snapshot| snapshot.at.unwrap_or(snapshot.until));
        let asked = self.stream_request.as_ref().map(|(_, at)| *at);
        let due = operations.chain(snapshots).chain(asked).chain(self.engine.next_turn());
        let due =
            due.chain(self.intakes.values().map(|intake| intake.due())).chain(self.passes.iter().map(SimPass::due));
        let next = due.fold(self.round_at.min(self.checkpoint_at), Millis::min);
        Millis(next.0.saturating_sub(self.offset))
    }

    /// Receives a message.
    pub(super) fn receive(&mut self, now: Millis, message: SimMessage) {
        let now = now.plus(self.offset);
        self.due = AT_ONCE;
        match message {
            SimMessage::Delta(_, delta) => self.inputs.messages.push_back(InterestMessage::Delta(delta)),
            SimMessage::Beat(_, beat) => self.inputs.messages.push_back(InterestMessage::Beat(beat)),
            SimMessage::Snapshot(_, parts) => {
                let gateway = parts[0].gateway.clone();
                self.snapshot(gateway, Some(parts));
            }
            SimMessage::LeaseAnswer(_, number, answer) => {
                let Some(at) = self.operations.iter().position(|operation| operation.number == number) else { return };
                let source = self.operations.swap_remove(at).source;
                match answer {
                    KvAnswer::Read(read) => self.ownership.lease_read(now, source, Some(read)),
                    KvAnswer::Written(written) => self.ownership.lease_written(now, source, written),
                }
                self.round_at = now;
            }
            other => panic!("{other:?} is not for a router"),
        }
    }

    /// Whether messages of gateways wait for the engine, and reports of intakes.
    fn waiting_inputs(&self) -> [bool; 2] {
        [!self.inputs.messages.is_empty(), !self.inputs.reports.is_empty()]
    }

    /// A gateway floods it with old beats.
    pub(super) fn flood(&mut self, gateway: &NodeRef) {
        let beat = InterestBeat { gateway: gateway.clone(), revision: Revision(0), reached: None };
        let beats = (0..FLOOD).map(|_| InterestMessage::Beat(beat.clone()));
        self.inputs.messages.extend(beats);
        self.due = AT_ONCE;
    }

    /// Ends a request for a snapshot.
    fn snapshot(&mut self, gateway: NodeRef, parts: Option<Vec<SnapshotPart>>) {
        if self.snapshots.remove(&gateway).is_some() {
            self.inputs.snapshots.push_back((gateway, parts));
        }
    }

    /// Serves one input of the engine, or the clock, in the order of its driver. Returns whether there was one.
    fn serve_engine(&mut self, now: Millis, checkpoint_interval: u64) -> bool {
        let engine = &mut self.engine;
        if let Some(order) = self.orders.pop_front() {
            engine.set_connected(!self.is_cut);
            engine.handle_order(now, order);
        } else if let Some((gateway, parts)) = self.inputs.snapshots.pop_front() {
            engine.handle_snapshot(now, gateway, parts);
        } else if let Some(message) = self.turns.may_take().then(|| self.inputs.messages.pop_front()).flatten() {
            self.turns.took();
            self.waits.serve(0);
            engine.handle_interest_message(now, message);
            if let Some(coverage) = engine.take_gateway_coverage() {
                self.ownership.note_gateway_coverage(coverage);
            }
        } else if let Some(view) = self.inputs.view.take() {
            engine.set_view(view);
        } else if self.checkpoint_at <= now {
            self.checkpoint_at = now.plus(checkpoint_interval);
            engine.set_connected(!self.is_cut);
            engine.checkpoint(now);
        } else if std::mem::take(&mut self.inputs.is_connection_changed)
            || engine.next_turn().is_some_and(|due| due <= now)
        {
            // `settle` does what is due, here and after each input.
        } else if !self.inputs.reports.is_empty() {
            self.turns.restart();
            self.waits.serve(1);
            let count = self.inputs.reports.len().min(ENGINE_TURN);
            for report in self.inputs.reports.drain(..count) {
                self.published.read(&report);
                engine.read(now, report);
            }
        } else if !self.turns.may_take() {
            self.turns.restart();
        } else {
            return false;
        }
        engine.set_connected(!self.is_cut);
        engine.settle(now);
        let next = engine.next_turn();
        assert!(next.is_none_or(|next| next > now), "{next:?} is still due at {now:?}");
        true
    }
}

impl SimCluster {
    pub(super) fn new_router(&mut self, number: usize) -> SimRouter {
        let member = &self.view.members[NODES + number];
        let (node, view) = (member.node.clone(), Arc::new(self.view.clone()));
        let (config, membership) = (&self.config.router, &self.config.membership);
        let pace = PlacementTiming::new(membership.lease_ttl, config.checkpoint_interval);
        // With faults, few passes run at a time, so that requests wait, and one pass answers several.
        let (replays, together) = match self.failing {
            true => (2, 1 + self.network.random(3) as usize),
            false => (config.replays, TOGETHER),
        };
        let mut engine = Engine::new(config, self.interest_limits, self.epoch);
        engine.set_view(Arc::clone(&view));
        // The clocks differ by a multiple of the round, so that all routers have their rounds at the same times. This
        // saves turns.
        let offset = number as u64 * 66 * millis(ROUND);
        let now = self.now.plus(offset);
        SimRouter {
            ownership: Ownership::new(node.clone(), PARTITIONS, pace, millis(membership.timeout), self.epoch),
            node,
            is_down: false,
            is_frozen: false,
            drains_until: None,
            due: AT_ONCE,
            waiting: Vec::new(),
            offset,
            view,
            engine,
            inputs: EngineInputs::default(),
            turns: MessageTurns::default(),
            waits: Waits::default(),
            is_cut: false,
            orders: VecDeque::new(),
            report: EngineReport::default(),
            checkpoints: SourceCheckpoints::new(),
            intakes: BTreeMap::new(),
            rules: self.rules.newest(),
            refused: 0,
            was_disconnected: false,
            queue: Queue::new(replays, together),
            passes: Vec::new(),
            operations: Vec::new(),
            stream_request: None,
            snapshots: BTreeMap::new(),
            round_at: now,
            checkpoint_at: now,
            drops_next: false,
            published: Published::default(),
            completeness: Completeness::default(),
            completeness_epoch: self.epoch.epoch_id,
        }
    }

    pub(super) fn turn_router(&mut self, number: usize) {
        if !self.routers[number].runs() || self.routers[number].due > self.now {
            return;
        }
        for _ in 0..TURNS {
            // All of them have a turn, even if the first one was busy.
            let now = self.routers[number].time(self.now);
            let is_busy = [self.turn_ownership(number), self.turn_engine(number), self.turn_replays(number, now)];
            if !is_busy.contains(&true) {
                let router = &mut self.routers[number];
                router.due = router.next_turn();
                return;
            }
        }
        panic!("{} never runs out of work", self.routers[number].node);
    }

    /// Inflicts a fault on the consumers of a router.
    pub(super) fn disturb(&mut self, number: usize, fault: Fault) {
        let router = &mut self.routers[number];
        let now = self.now.plus(router.offset);
        router.intakes.values_mut().for_each(|reader| reader.disturb(now, fault));
        match fault {
            Fault::Refused(times) => router.refused = times,
            Fault::Cut => router.was_disconnected = true,
            Fault::Silent | Fault::Ended | Fault::Late(_) => {}
        }
    }

    /// Gives the engine and the intakes a turn. Returns whether they did anything.
    fn turn_engine(&mut self, number: usize) -> bool {
        let now = self.now.plus(self.routers[number].offset);
        let checkpoint_interval = millis(self.config.router.checkpoint_interval);
        let mut is_busy = self.turn_snapshots(number, now);
        let tenures: Vec<Tenure> = self.routers[number].intakes.keys().copied().collect();
        for tenure in tenures {
            is_busy |= self.turn_intake(number, tenure, now);
        }
        // Ownership and replays are tasks of their own, so the engine may serve several inputs before they have a turn.
        for _ in 0..ENGINE_INPUTS {
            let waiting = self.routers[number].waiting_inputs();
            let is_served = self.routers[number].serve_engine(now, checkpoint_interval);
            if is_served {
                self.routers[number].waits.check(waiting);
            }
            is_busy |= is_served | self.perform(number, now);
            if !is_served {
                break;
            }
        }
        is_busy
    }
}
