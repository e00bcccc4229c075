//! The world: a log with retention, the nodes, and the turns that they take.

use std::collections::BTreeMap;
use std::sync::Arc;

use tickwire_core::coverage::{GapReason, Limits};
use tickwire_core::event::{Audience, Event, Kind, Priority, Tier};
use tickwire_core::ids::{Confidence, Incarnation, Millis, NodeId, NodeRef, Nonce, Partition, Seq};
use tickwire_core::interest::InterestBeat;
use tickwire_core::ring::{Member, Role, View};

use crate::gateway::Gateway;
use crate::made::{blank, filter, symbol, user};
use crate::network::{Message, Network};
use crate::plan::{AMPLE, Action, Plan};
use crate::router::{Lease, Router};
use crate::session::Session;

pub(crate) const PARTITIONS: u16 = 3;
pub(crate) const NODES: usize = 3;
pub(crate) const BEAT: u64 = 250;
const STEP: u64 = 5;

/// So many replays fail in a row only when there is no router that could answer.
const TRIES: u32 = 60;

/// How many beats everything that is missing may take to be asked for and to come, when all faults have ended.
const PATIENCE: u32 = 40;

pub(crate) struct Cluster {
    pub(crate) limits: Limits,
    /// Whether routers read from replicas that lag, and answer by interests that are too old.
    pub(crate) failing: bool,
    /// Whether there was a time without any router that answers.
    deaf: bool,
    /// Up to where each life of the stream was discarded.
    discarded: BTreeMap<Incarnation, Seq>,
    pub(crate) now: Millis,
    pub(crate) network: Network,
    pub(crate) nonces: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) last: Seq,
    pub(crate) first: Seq,
    pub(crate) history: BTreeMap<Incarnation, Vec<(Partition, Seq, Arc<Event>)>>,
    pub(crate) view: View,
    pub(crate) leases: Vec<Lease>,
    pub(crate) routers: Vec<Router>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) sessions: Vec<Session>,
}

impl Cluster {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut cluster = Self {
            limits: Limits {
                grace: 20,
                held_events: 6,
                replays: 2,
                replay_timeout: 130,
                replay_tries: TRIES,
                replay_range: plan.replay_range,
            },
            failing: false,
            deaf: false,
            discarded: BTreeMap::new(),
            now: Millis(1_000),
            network: Network::new(plan.seed, 0),
            nonces: 0,
            incarnation: Incarnation(1),
            last: Seq(0),
            first: Seq(1),
            history: BTreeMap::new(),
            view: View::default(),
            leases: (0..PARTITIONS).map(|_| Lease { owner: None, floor: Seq(0) }).collect(),
            routers: Vec::new(),
            gateways: Vec::new(),
            sessions: Vec::new(),
        };
        for number in 0..NODES {
            let node = cluster.born("gw", number);
            cluster.view.members.push(Member { node, role: Role::Gateway, weight: 1, draining: false });
        }
        for number in 0..NODES {
            let router = cluster.new_router(number);
            cluster.routers.push(router);
            let node = cluster.view.members[number].node.clone();
            let gateway = cluster.new_gateway(node);
            cluster.gateways.push(gateway);
        }
        cluster.pass(3 * BEAT);
        cluster.network = Network::new(plan.seed, plan.loss);
        cluster.failing = plan.failing;
        cluster
    }

    pub(crate) fn born(&mut self, name: &str, number: usize) -> NodeRef {
        self.nonces += 1;
        NodeRef { id: NodeId::new(&format!("{name}-{number}")).unwrap(), nonce: Nonce(self.nonces) }
    }

    pub(crate) fn act(&mut self, action: &Action) {
        match *action {
            Action::Pass(time) => self.pass(time),
            Action::Publish { symbol, confidence } => self.publish(symbol, confidence),
            Action::Address { user } => self.address(user),
            Action::Connect { gateway, user: number, filter: wanted } => {
                self.connect(usize::from(gateway), user(number), filter(wanted), None);
            }
            Action::Replace { session, filter } => self.replace(session, filter),
            Action::Disconnect { session } => self.disconnect(session),
            Action::Resume { session, gateway } => self.resume(session, usize::from(gateway)),
            Action::HandOver { partition, to } => self.hand_over(usize::from(partition), usize::from(to)),
            Action::Usurp { partition, to } => self.take_lease(usize::from(partition), usize::from(to)),
            Action::CrashRouter { router } => self.crash_router(usize::from(router)),
            Action::Stall { router } => self.stall(usize::from(router)),
            Action::RestartGateway { gateway } => self.restart_gateway(usize::from(gateway)),
            Action::ToggleMember { gateway } => {
                let member = &mut self.view.members[usize::from(gateway)];
                member.draining = !member.draining;
                self.view.version += 1;
            }
            Action::LearnView { node } => self.learn_view(usize::from(node)),
            Action::Discard { keep } => self.discard(keep.into()),
            Action::Recreate => self.recreate(),
            Action::DropDelivery { router } => self.routers[usize::from(router)].drops_next = true,
        }
        self.pass(STEP);
    }

    fn store(&mut self, partition: u16, event: Event) {
        self.last = Seq(self.last.0 + 1);
        self.history.entry(self.incarnation).or_default().push((Partition(partition), self.last, Arc::new(event)));
    }

    fn publish(&mut self, number: u8, tenths: u8) {
        let confidence = Confidence::new(f64::from(tenths) / 10.0);
        let event = Event {
            symbol: Some(symbol(number)),
            tier: Some(if tenths.is_multiple_of(2) { Tier::Daily } else { Tier::Intraday }),
            priority: Priority::from_confidence(confidence),
            confidence,
            ..blank(Kind::Pattern, Audience::Public)
        };
        self.store(u16::from(number) % PARTITIONS, event);
    }

    fn address(&mut self, number: u8) {
        self.store(u16::from(number) % PARTITIONS, blank(Kind::Alert, Audience::User(user(number))));
    }

    fn tick(&mut self) {
        for partition in 0..PARTITIONS {
            self.store(partition, blank(Kind::Other("tick".into()), Audience::Public));
        }
    }

    fn learn_view(&mut self, node: usize) {
        if node < NODES {
            self.routers[node].view = self.view.clone();
        } else {
            self.gateways[node - NODES].log.set_view(self.view.clone());
        }
    }

    fn discard(&mut self, keep: u64) {
        self.first = self.first.max(Seq((self.last.0 + 1).saturating_sub(keep)));
        self.discarded.insert(self.incarnation, Seq(self.first.0 - 1));
    }

    fn recreate(&mut self) {
        self.incarnation = Incarnation(self.incarnation.0 + 1);
        (self.first, self.last) = (Seq(1), Seq(0));
        for lease in &mut self.leases {
            lease.floor = Seq(0);
        }
    }

    fn pass(&mut self, time: u64) {
        let end = self.now.plus(time);
        while self.now < end {
            let before = self.now;
            self.now = self.now.plus(STEP.min(end.since(self.now)));
            self.deaf |= self.routers.iter().all(|router| router.stalled);
            while let Some(message) = self.network.arrived(self.now) {
                self.receive(message);
            }
            for number in 0..NODES {
                self.turn_gateway(number);
                self.turn_router(number);
            }
            if before.0 / BEAT != self.now.0 / BEAT {
                self.beat();
            }
        }
    }

    fn beat(&mut self) {
        for gateway in 0..NODES {
            let edge = &self.gateways[gateway];
            let beat = InterestBeat { gateway: edge.node.clone(), revision: edge.log.revision() };
            for router in 0..NODES {
                self.network.send(self.now, &Message::Beat(router, beat.clone()));
            }
        }
        for router in 0..NODES {
            self.checkpoint(router);
        }
        for partition in 0..self.leases.len() {
            if self.leases[partition].owner.is_none() {
                let to = self.network.random(NODES as u64) as usize;
                self.take_lease(partition, to);
            }
        }
    }

    pub(crate) fn receive(&mut self, message: Message) {
        match message {
            Message::Delta(to, _) | Message::Beat(to, _) | Message::Snapshot(to, _) | Message::Ask(to, ..)
                if self.routers[to].stalled =>
            {
                self.routers[to].waiting.push(message);
            }
            Message::Ask(to, ask, request) => self.replay(to, ask, &request),
            Message::Answer(node, ask, answer) => self.answered(&node, ask, answer),
            Message::Delta(to, delta) => {
                let (router, gateway) = (&mut self.routers[to], delta.gateway.clone());
                router.claims.cut(&gateway);
                let heard = router.table.delta(self.now, delta);
                self.heard(to, gateway, heard);
            }
            Message::Beat(to, beat) => {
                let heard = self.routers[to].table.beat(self.now, &beat);
                self.heard(to, beat.gateway, heard);
            }
            Message::Snapshot(to, parts) => {
                let (router, gateway) = (&mut self.routers[to], parts[0].gateway.clone());
                router.claims.cut(&gateway);
                let heard = router.table.snapshot(self.now, parts);
                self.heard(to, gateway, heard);
            }
            Message::AskSnapshot(node, router) => {
                if let Some(edge) = self.gateways.iter().find(|edge| edge.node == node) {
                    let parts = edge.log.sent().parts(&edge.node, edge.log.revision(), 2);
                    self.network.send(self.now, &Message::Snapshot(router, parts));
                }
            }
            Message::Batch(node, batch) => {
                if let Some(number) = self.gateways.iter().position(|edge| edge.node == node) {
                    let mut steps = Vec::new();
                    for section in batch.sections {
                        self.gateways[number].coverage.offer(self.now, batch.incarnation, section, &mut steps);
                    }
                    self.take_steps(number, steps);
                }
            }
        }
    }

    /// Ends all faults and waits until everything that was stored has had time to arrive.
    pub(crate) fn heal(&mut self) {
        self.network.heal();
        self.failing = false;
        for number in 0..NODES {
            if self.routers[number].stalled {
                self.stall(number);
            }
            self.routers[number].drops_next = false;
            self.learn_view(number);
            self.learn_view(number + NODES);
        }
        self.pass(4 * BEAT);
        self.tick();
        self.pass(6 * BEAT);
        for _ in 0..PATIENCE {
            if self.gateways.iter().all(|edge| edge.coverage.gaps() == 0 && edge.catch_ups.is_empty()) {
                break;
            }
            self.pass(BEAT);
        }
    }

    /// Whether a gap had to be told: nobody could have given it.
    fn is_beyond_repair(&self, life: Incarnation, from: Seq, upto: Seq, reason: GapReason) -> bool {
        match reason {
            GapReason::Retention => self.discarded.get(&life).is_some_and(|discarded| upto <= *discarded),
            // Of a former life nothing can be read; and where no router answers, nobody knows.
            GapReason::Lost => life != self.incarnation || self.deaf,
            GapReason::TooLong => self.limits.replay_range < AMPLE && from < upto,
        }
    }

    pub(crate) fn check(&self, quiet: bool) {
        for edge in &self.gateways {
            let position = edge.coverage.position().expect("coverage of every partition");
            assert_eq!(position.incarnation, self.incarnation);
            let lowest = position.seqs.iter().min().unwrap();
            assert!(lowest.0 + u64::from(PARTITIONS) > self.last.0, "stuck at {position:?} of {}", self.last);
            assert_eq!(edge.told, edge.log.revision(), "a revision was never carried");
            assert!(edge.catch_ups.is_empty(), "a session that came back never got what it missed");
        }
        for session in &self.sessions {
            assert!(session.wanted.is_empty(), "never confirmed: {session:#?}");
            for promise in session.past.iter().chain(&session.promise) {
                let log = self.history.get(&promise.incarnation).map_or(&[][..], Vec::as_slice);
                promise.check(&session.user, log);
                assert!(!quiet || promise.gaps.is_empty(), "a gap in quiet: {promise:#?}");
                for (_, from, upto, reason) in &promise.gaps {
                    let told = self.is_beyond_repair(promise.incarnation, *from, *upto, *reason);
                    assert!(told, "a gap ({from}, {upto}], {reason:?}, that could have been repaired: {promise:#?}");
                }
            }
        }
    }
}
