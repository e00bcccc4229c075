//! The routers: shipped engines and ownerships, in the turns that their drivers give them, and consumers of the stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tickwire_core::coverage::builder::{Contiguity, Delivered};
use tickwire_core::coverage::completeness::{Completeness, MissingRange};
use tickwire_core::event::Event;
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeRef, Partition, Revision, Seq};
use tickwire_core::interest::SnapshotPart;
use tickwire_core::placement::View;
use tickwire_core::wire;
use tickwire_node::clock::millis;
use tickwire_node::lease::LeaseRecord;
use tickwire_router_node::decisions::{
    Engine, EngineReport, IntakeEvent, IntakeReport, InterestMessage, Mark, Order, Output, Ownership, OwnershipTask,
    PlacementTiming, ROUND, Readable, SNAPSHOT_BACKOFF, SNAPSHOT_DEADLINE, Source, SourceCheckpoints, StreamFacts,
    StreamLook, Tenure, WriteOutcome, batches, lease_deadline,
};

use super::cluster::{AT_ONCE, NODES, PARTITIONS, SimCluster, StoredEvent};
use super::kv::{KvAnswer, KvRequest};
use super::network::{MAX_PAYLOAD, SimMessage};

/// How long a look at the stream takes at most, in milliseconds.
const LOOK: u64 = 20;

/// How many turns a router may need until there is nothing left to do at one moment.
const TURNS: usize = 2_000;

pub(super) struct SimRouter {
    pub(super) node: NodeRef,
    /// There is no such process. What is sent to it is lost.
    pub(super) is_down: bool,
    pub(super) stalled: bool,
    /// When it next has something to do, on the clock of the world.
    pub(super) due: Millis,
    pub(super) waiting: Vec<SimMessage>,
    /// What its clock shows beside that of the world.
    offset: u64,
    pub(super) view: Arc<View>,
    pub(super) engine: Engine,
    ownership: Ownership,
    /// Between the two: what the ownership wants, and what the engine has reported and published.
    orders: VecDeque<Order>,
    report: EngineReport,
    checkpoints: SourceCheckpoints,
    readers: BTreeMap<Tenure, SimReader>,
    operations: Vec<Operation>,
    /// When the look at the stream that is under way is answered.
    looked_at: Option<Millis>,
    snapshots: BTreeMap<NodeRef, SnapshotRequest>,
    round_at: Millis,
    checkpoint_at: Millis,
    pub(super) drops_next: bool,
    /// What it knows of the stream, and in which life.
    pub(super) whole: Completeness,
    pub(super) whole_of: EpochId,
}

/// An operation on a lease that is not answered yet.
struct Operation {
    number: u64,
    source: Source,
    is_write: bool,
    until: Millis,
}

/// A request for a snapshot.
struct SnapshotRequest {
    /// When it is to be sent; `None` when it was.
    at: Option<Millis>,
    until: Millis,
}

/// A consumer of a partition, for one tenure.
struct SimReader {
    epoch_id: EpochId,
    reading: Contiguity,
    cursor: Seq,
    delivered: u64,
    is_open: bool,
}

impl SimRouter {
    pub(super) fn runs(&self) -> bool {
        !self.is_down && !self.stalled
    }

    /// Whether it holds the lease of a partition.
    pub(super) fn holds(&self, partition: Partition) -> bool {
        self.ownership.held().any(|source| source == Source::Partition(partition))
    }

    /// The gateways whose interest it does not know as new as it is.
    pub(super) fn gateways_without_interest(&self) -> &[NodeRef] {
        &self.report.gateways_without_interest
    }

    /// The revision of a gateway's interest that it knows.
    pub(super) fn known(&mut self, gateway: &NodeRef) -> Option<Revision> {
        self.engine.interest(gateway, Revision(0)).map(|(revision, _)| revision)
    }

    /// When something is due next.
    fn next_turn(&self) -> Millis {
        let operations = self.operations.iter().map(|operation| operation.until);
        let snapshots = self.snapshots.values().map(|snapshot| snapshot.at.unwrap_or(snapshot.until));
        let due = operations.chain(snapshots).chain(self.looked_at).chain(self.engine.next_turn());
        let next = due.fold(self.round_at.min(self.checkpoint_at), Millis::min);
        Millis(next.0.saturating_sub(self.offset))
    }

    /// Something that was sent to it has come.
    pub(super) fn take(&mut self, now: Millis, message: SimMessage) {
        let now = now.plus(self.offset);
        self.due = AT_ONCE;
        match message {
            SimMessage::Delta(_, delta) => self.engine.hear(now, InterestMessage::Delta(delta)),
            SimMessage::Beat(_, beat) => self.engine.hear(now, InterestMessage::Beat(beat)),
            SimMessage::Snapshot(_, parts) => {
                let gateway = parts[0].gateway.clone();
                self.snapshot(now, gateway, Some(parts));
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
            other => panic!("{other:?} is nothing for a router"),
        }
        if let Some(witnessed) = self.engine.take_gateway_coverage() {
            self.ownership.note_gateway_coverage(witnessed);
        }
        self.engine.settle(now);
    }

    fn snapshot(&mut self, now: Millis, gateway: NodeRef, parts: Option<Vec<SnapshotPart>>) {
        if self.snapshots.remove(&gateway).is_some() {
            self.engine.handle_snapshot(now, gateway, parts);
        }
    }
}

impl SimCluster {
    pub(super) fn new_router(&mut self, number: usize) -> SimRouter {
        let member = &self.view.members[NODES + number];
        let (node, view) = (member.node.clone(), Arc::new(self.view.clone()));
        let (config, membership) = (&self.config.router, &self.config.membership);
        let pace = PlacementTiming::new(membership.lease_ttl, config.checkpoint_interval);
        let mut engine = Engine::new(config, self.epoch);
        engine.set_view(Arc::clone(&view));
        // Rounds of all routers come at the same moments, which costs fewer of them.
        let offset = number as u64 * 66 * millis(ROUND);
        let now = self.now.plus(offset);
        SimRouter {
            ownership: Ownership::new(node.clone(), PARTITIONS, pace, self.epoch),
            node,
            is_down: false,
            stalled: false,
            due: AT_ONCE,
            waiting: Vec::new(),
            offset,
            view,
            engine,
            orders: VecDeque::new(),
            report: EngineReport::default(),
            checkpoints: SourceCheckpoints::new(),
            readers: BTreeMap::new(),
            operations: Vec::new(),
            looked_at: None,
            snapshots: BTreeMap::new(),
            round_at: now,
            checkpoint_at: now,
            drops_next: false,
            whole: Completeness::default(),
            whole_of: self.epoch.epoch_id,
        }
    }

    pub(super) fn crash_router(&mut self, number: usize) {
        self.stop_router(number);
        self.start_router(number);
    }

    pub(super) fn start_router(&mut self, number: usize) {
        self.view.members[NODES + number].node = self.born("router", number);
        self.view.version += 1;
        self.routers[number] = self.new_router(number);
    }

    pub(super) fn stop_router(&mut self, number: usize) {
        self.routers[number].is_down = true;
    }

    pub(super) fn stall(&mut self, number: usize) {
        let router = &mut self.routers[number];
        router.stalled = !router.stalled;
        for message in std::mem::take(&mut router.waiting) {
            self.receive(message);
        }
    }

    pub(super) fn turn_router(&mut self, number: usize) {
        if !self.routers[number].runs() || self.routers[number].due > self.now {
            return;
        }
        for _ in 0..TURNS {
            // All are asked, whatever the first answers.
            let is_busy = [self.turn_ownership(number), self.turn_engine(number)];
            if !is_busy.contains(&true) {
                let router = &mut self.routers[number];
                router.due = router.next_turn();
                return;
            }
        }
        panic!("{} is busy for ever", self.routers[number].node);
    }

    fn turn_ownership(&mut self, number: usize) -> bool {
        let facts = self.facts();
        let is_late = self.failing && self.network.random(10) == 0;
        let router = &mut self.routers[number];
        let now = self.now.plus(router.offset);
        let (late, operations) = std::mem::take(&mut router.operations).into_iter().partition(|op| op.until <= now);
        router.operations = operations;
        for Operation { source, is_write, .. } in late as Vec<Operation> {
            match is_write {
                true => router.ownership.lease_written(now, source, WriteOutcome::Unanswered),
                false => router.ownership.lease_read(now, source, None),
            }
            router.round_at = now;
        }
        if router.looked_at.is_some_and(|at| at <= now) {
            router.looked_at = None;
            router.ownership.stream_checked(now, (!is_late).then_some(StreamLook::Whole(facts)));
            router.round_at = now;
        }
        if router.round_at <= now {
            router.round_at = now.plus(millis(ROUND));
            router.ownership.turn(now, Arc::clone(&router.view), &router.report, &router.checkpoints);
        }
        let tasks = router.ownership.take_tasks();
        let is_busy = !tasks.is_empty();
        for task in tasks {
            self.ask(number, now, task);
        }
        is_busy
    }

    fn ask(&mut self, number: usize, now: Millis, task: OwnershipTask) {
        let router = &mut self.routers[number];
        let asked = match task {
            OwnershipTask::Order(order) => return router.orders.push_back(order),
            OwnershipTask::Look(_) => {
                router.looked_at = Some(now.plus(1 + self.network.random(LOOK)));
                return;
            }
            OwnershipTask::Begin { .. } => panic!("nothing was lost of what was read"),
            OwnershipTask::Read(source) => KvRequest::Read(source),
            OwnershipTask::Write { source, revision, is_ours, checkpoint } => {
                let owner = is_ours.then(|| router.node.clone());
                KvRequest::Write { source, revision, record: LeaseRecord { owner, state: checkpoint } }
            }
        };
        self.nonces += 1;
        let deadline = lease_deadline(self.config.membership.lease_ttl);
        let (KvRequest::Read(source) | KvRequest::Write { source, .. }) = &asked;
        let (source, is_write) = (*source, matches!(asked, KvRequest::Write { .. }));
        router.operations.push(Operation { number: self.nonces, source, is_write, until: now.plus(millis(deadline)) });
        self.network.send_once(self.now, SimMessage::Lease(number, self.nonces, asked));
    }

    fn turn_engine(&mut self, number: usize) -> bool {
        let now = self.now.plus(self.routers[number].offset);
        let mut is_busy = false;
        while let Some(order) = self.routers[number].orders.pop_front() {
            is_busy = true;
            let router = &mut self.routers[number];
            router.engine.handle_order(now, order);
            router.engine.settle(now);
            self.perform(number, now);
        }
        is_busy |= self.turn_snapshots(number, now);
        let router = &mut self.routers[number];
        if router.checkpoint_at <= now {
            is_busy = true;
            router.checkpoint_at = now.plus(millis(self.config.router.checkpoint_interval));
            router.engine.checkpoint(now);
        }
        let tenures: Vec<Tenure> = self.routers[number].readers.keys().copied().collect();
        for tenure in tenures {
            is_busy |= self.read(number, tenure);
        }
        let router = &mut self.routers[number];
        router.engine.settle(now);
        let next = router.engine.next_turn();
        assert!(next.is_none_or(|next| next > now), "due at {next:?}, and still at {now:?}");
        is_busy | self.perform(number, now)
    }

    /// Does what the engine wants done.
    fn perform(&mut self, number: usize, now: Millis) -> bool {
        let outputs = self.routers[number].engine.take_outputs();
        let is_busy = !outputs.is_empty();
        for output in outputs {
            let router = &mut self.routers[number];
            match output {
                Output::Read { tenure, epoch_id, checkpoint } => {
                    let reading = Contiguity::after(checkpoint);
                    let reader = SimReader { epoch_id, reading, cursor: checkpoint, delivered: 0, is_open: false };
                    router.readers.insert(tenure, reader);
                }
                Output::Stop(tenure) => drop(router.readers.remove(&tenure)),
                Output::Send { gateway, epoch, sections } => {
                    let Epoch { before, .. } = epoch;
                    let is_of_epoch = sections.iter().all(|section| section.prev >= before);
                    assert!(is_of_epoch, "claims of a life that begins after {before} begin before it: {sections:?}");
                    for batch in batches(&router.node, epoch, sections, MAX_PAYLOAD) {
                        let bytes = wire::encode(&batch).unwrap();
                        self.network.send(self.now, &SimMessage::Batch(gateway.clone(), bytes.into()));
                    }
                }
                Output::AskSnapshot { gateway, attempts } => {
                    let at = now.plus(SNAPSHOT_BACKOFF.after(attempts));
                    let until = at.plus(millis(SNAPSHOT_DEADLINE));
                    router.snapshots.insert(gateway, SnapshotRequest { at: Some(at), until });
                }
                // What was sent has left at once.
                Output::Checkpoint(checkpoints) => router.checkpoints = checkpoints,
                Output::Released { tenures, checkpoints } => {
                    router.ownership.released(now, &tenures, &checkpoints);
                    router.round_at = now;
                }
            }
        }
        if let Some(report) = self.routers[number].engine.take_report() {
            self.routers[number].report = report;
        }
        is_busy
    }

    fn turn_snapshots(&mut self, number: usize, now: Millis) -> bool {
        let router = &mut self.routers[number];
        let mut late = Vec::new();
        for (gateway, snapshot) in &mut router.snapshots {
            if snapshot.at.is_some_and(|at| at <= now) {
                snapshot.at = None;
                self.network.send(self.now, &SimMessage::AskSnapshot(gateway.clone(), number));
            }
            if snapshot.until <= now {
                late.push(gateway.clone());
            }
        }
        let is_busy = !late.is_empty();
        for gateway in late {
            router.snapshot(now, gateway, None);
        }
        is_busy
    }

    /// A consumer reads on, as an intake does. Returns whether there was anything.
    fn read(&mut self, number: usize, tenure: Tenure) -> bool {
        let Source::Partition(partition) = tenure.source else { return false };
        let (epoch, first) = (self.epoch.epoch_id, self.first);
        let mut is_busy = false;
        for _ in 0..3 {
            let Some(reader) = self.routers[number].readers.get_mut(&tenure) else { return is_busy };
            if reader.epoch_id != epoch {
                return is_busy;
            }
            let last = reader.reading.last;
            if !reader.is_open {
                reader.is_open = true;
                is_busy = true;
                self.handle_report(number, tenure, IntakeEvent::Flowing);
                if first.0 > last.0 + 1 {
                    self.skip(number, tenure, Seq(first.0 - 1));
                }
                continue;
            }
            let cursor = reader.cursor;
            let next = self.readable(cursor).find(|stored| stored.partition == partition).cloned();
            let Some(StoredEvent { seq, event, wire, is_heartbeat, .. }) = next else { return is_busy };
            let missing = self.missing(number, last.max(Seq(first.0 - 1)), seq);
            let router = &mut self.routers[number];
            let Some(reader) = router.readers.get_mut(&tenure) else { return is_busy };
            reader.cursor = seq;
            reader.delivered += 1;
            is_busy = true;
            if std::mem::take(&mut router.drops_next) {
                continue;
            }
            match reader.reading.accept(seq, reader.delivered) {
                Delivered::Known => {}
                Delivered::Missed => {
                    (reader.reading, reader.cursor, reader.delivered) = (Contiguity::after(last), last, 0);
                    return is_busy;
                }
                Delivered::Next => {
                    if first.0 > last.0 + 1 {
                        self.handle_report(number, tenure, IntakeEvent::Skip(Seq(first.0 - 1)));
                    }
                    self.hand_on(number, tenure, missing, (seq, &event, wire, is_heartbeat));
                }
            }
        }
        is_busy
    }

    /// What was read goes to the engine, in the order of an intake.
    fn hand_on(
        &mut self,
        number: usize,
        tenure: Tenure,
        missing: Vec<MissingRange>,
        (seq, event, wire, is_heartbeat): (Seq, &Event, bytes::Bytes, bool),
    ) {
        for MissingRange { after, through } in missing {
            self.handle_report(number, tenure, IntakeEvent::Events { through: after, mark: None, events: Vec::new() });
            self.handle_report(number, tenure, IntakeEvent::Skip(through));
        }
        let events = (!is_heartbeat).then(|| Readable { seq, event: event.clone(), wire }).into_iter().collect();
        let mark = Some(Mark { seq, stored: event.stored.0 });
        self.handle_report(number, tenure, IntakeEvent::Events { through: seq, mark, events });
    }

    /// Retention has passed a consumer.
    fn skip(&mut self, number: usize, tenure: Tenure, to: Seq) {
        if let Some(reader) = self.routers[number].readers.get_mut(&tenure) {
            (reader.reading, reader.cursor, reader.delivered) = (Contiguity::after(to), to, 0);
        }
        self.handle_report(number, tenure, IntakeEvent::Skip(to));
    }

    fn handle_report(&mut self, number: usize, tenure: Tenure, what: IntakeEvent) {
        self.routers[number].engine.read(IntakeReport { tenure, what });
    }

    /// The stream, as a look at it shows.
    fn facts(&self) -> StreamFacts {
        let Epoch { epoch_id, before } = self.epoch;
        StreamFacts { epoch_id, before, first: self.first, last: self.last, replicas: 1 }
    }
}
