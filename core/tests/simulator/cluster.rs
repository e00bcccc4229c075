//! The world: a log with retention, the nodes, and the turns that they take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tickwire_core::coverage::{GapReason, Limits};
use tickwire_core::event::{Audience, Event, Kind, Priority, Tier};
use tickwire_core::ids::{Confidence, Incarnation, Life, Millis, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::interest::InterestBeat;
use tickwire_core::ring::{Member, Role, View};
use tickwire_core::whole::{Hole, Walk, Whole};

use crate::gateway::{Gateway, REPLAY_TIMEOUT};
use crate::made::{blank, filter, symbol, user};
use crate::network::{Message, Network};
use crate::plan::{Action, GIVE_UP_AFTER, Plan, REPLAY_RANGE};
use crate::router::{Lease, Router};
use crate::session::Session;

pub(crate) const PARTITIONS: u16 = 3;
pub(crate) const NODES: usize = 3;

/// How often nodes say that they live, and routers how far they are. As shipped, like all numbers that no plan chooses, in
/// milliseconds.
pub(crate) const BEAT: u64 = 1_000;
const STEP: u64 = 5;

/// So little that a snapshot takes several parts.
const PART_BYTES: usize = 220;

/// How often a new session comes to each gateway where they come all the time, and how many may before every gap is closed.
const NEWCOMER: u64 = 15;
const NEWCOMERS: u64 = 2_000;
const LEAST_NEWCOMERS: u64 = 20;

/// How many beats everything that is missing may take to be asked for and to come, when all faults have ended.
const PATIENCE: u32 = 30;

pub(crate) struct Cluster {
    pub(crate) limits: Limits,
    /// Whether routers read from replicas that lag, and answer by interests that are too old.
    pub(crate) failing: bool,
    /// How long a router takes to read a range again.
    pub(crate) reading: u64,
    /// Whether new sessions are to come all the time while faults end, and how many came.
    pub(crate) newcomers: bool,
    pub(crate) came: u64,
    /// Whether something happened in this turn, so that more may follow at once.
    pub(crate) busy: bool,
    /// Up to where each life of the stream was discarded.
    discarded: BTreeMap<Incarnation, Seq>,
    /// What cannot be read any more, of each life.
    pub(crate) damaged: BTreeMap<Incarnation, BTreeSet<Seq>>,
    pub(crate) now: Millis,
    pub(crate) network: Network,
    pub(crate) nonces: u64,
    pub(crate) life: Life,
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
                hold_bytes: plan.hold_bytes,
                replays: 8,
                replay_timeout: REPLAY_TIMEOUT,
                give_up_after: plan.give_up_after,
                replay_range: plan.replay_range,
            },
            failing: false,
            reading: 0,
            newcomers: plan.newcomers,
            came: 0,
            busy: false,
            discarded: BTreeMap::new(),
            damaged: BTreeMap::new(),
            now: Millis(1_000),
            network: Network::new(plan.seed, 0),
            nonces: 0,
            life: Life { incarnation: Incarnation(1), before: Seq(0) },
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
        for number in 0..NODES {
            cluster.routers[number].is_down = plan.late & 1 << number != 0;
            cluster.gateways[number].is_down = plan.late & 1 << (number + NODES) != 0;
        }
        if plan.late == 0 {
            cluster.pass(3 * BEAT);
        }
        cluster.network = Network::new(plan.seed, plan.loss);
        cluster.failing = plan.failing;
        cluster.reading = plan.reading;
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
            Action::Recreate { from } => self.begin_life(Seq(0), Seq(from.into())),
            Action::LoseTail { events } => {
                let last = Seq(self.last.0.saturating_sub(events.into()));
                self.begin_life(last, last);
            }
            Action::Toggle { node } => self.toggle(usize::from(node)),
            Action::Damage { back } => self.damage(back.into()),
            Action::DropDelivery { router } => self.routers[usize::from(router)].drops_next = true,
            Action::Forge { router, gateway, ahead } => {
                let Gateway { node, log, .. } = &self.gateways[usize::from(gateway)];
                let revision = Revision(log.revision().0 + 1 + u64::from(ahead));
                let beat = InterestBeat { gateway: node.clone(), revision, reached: None };
                self.network.send(self.now, &Message::Beat(usize::from(router), beat));
            }
        }
        // What was done may be seen at once.
        self.busy = true;
        self.pass(STEP);
    }

    fn store(&mut self, partition: u16, event: Event) {
        self.last = Seq(self.last.0 + 1);
        self.history.entry(self.life.incarnation).or_default().push((Partition(partition), self.last, Arc::new(event)));
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
            self.routers[node].table.set_view(Arc::new(self.view.clone()));
        } else {
            self.gateways[node - NODES].log.set_view(self.view.clone());
        }
    }

    fn discard(&mut self, keep: u64) {
        self.first = self.first.max(Seq((self.last.0 + 1).saturating_sub(keep)));
        self.discarded.insert(self.life.incarnation, Seq(self.first.0 - 1));
    }

    /// A message cannot be read any more, which shows when NATS has come back.
    fn damage(&mut self, back: u64) {
        let seq = Seq(self.last.0.saturating_sub(back));
        if seq >= self.first {
            self.damaged.entry(self.life.incarnation).or_default().insert(seq);
            self.routers.iter_mut().for_each(|router| router.whole.doubt());
        }
    }

    /// The messages of the stream behind `after` that can be read, in order.
    pub(crate) fn readable(&self, after: Seq) -> impl Iterator<Item = &(Partition, Seq, Arc<Event>)> {
        let log = self.history.get(&self.life.incarnation).map_or(&[][..], Vec::as_slice);
        let damaged = self.damaged.get(&self.life.incarnation);
        let is_whole = move |seq: &Seq| damaged.is_none_or(|damaged| !damaged.contains(seq));
        let begin = log.partition_point(|(_, seq, _)| *seq <= after || *seq < self.first);
        log[begin..].iter().filter(move |(_, seq, _)| is_whole(seq))
    }

    /// A router makes sure of what is missing in `(after, upto]`.
    pub(crate) fn holes(&mut self, number: usize, after: Seq, upto: Seq) -> Vec<Hole> {
        // Whoever looks at the stream sees which life it lives, before it has taken leave of the former itself.
        let (life, router) = (self.life.incarnation, &mut self.routers[number]);
        if std::mem::replace(&mut router.whole_of, life) != life {
            router.whole = Whole::default();
        }
        while let Some((from, to)) = self.routers[number].whole.unknown(after, upto) {
            let mut walk = Walk::after(from);
            self.readable(from).take_while(|(_, seq, _)| *seq <= to).for_each(|(_, seq, _)| walk.pass(*seq));
            walk.end(to);
            self.routers[number].whole.take(walk, Seq(self.first.0 - 1));
        }
        self.routers[number].whole.holes(after, upto).collect()
    }

    /// Another life of the stream begins, after `before`, in a stream that ends with `last`.
    fn begin_life(&mut self, before: Seq, last: Seq) {
        let former = self.life.incarnation;
        self.life = Life { incarnation: Incarnation(former.0 + 1), before };
        // What stood before it stands there still.
        let kept =
            self.history.get(&former).into_iter().flatten().filter(|(_, seq, _)| *seq <= before).cloned().collect();
        self.history.insert(self.life.incarnation, kept);
        let damaged = self.damaged.get(&former).into_iter().flatten().filter(|seq| **seq <= before).copied().collect();
        self.damaged.insert(self.life.incarnation, damaged);
        if before == Seq(0) {
            self.first = Seq(last.0 + 1);
        }
        self.first = self.first.min(Seq(last.0 + 1));
        self.last = last;
        self.discarded.insert(self.life.incarnation, Seq(self.first.0 - 1));
        for lease in &mut self.leases {
            lease.floor = Seq(self.first.0 - 1).max(before);
        }
    }

    fn toggle(&mut self, node: usize) {
        match node.checked_sub(NODES) {
            None if self.routers[node].is_down => self.start_router(node),
            None => self.stop_router(node),
            Some(gateway) if self.gateways[gateway].is_down => self.start_gateway(gateway),
            Some(gateway) => self.stop_gateway(gateway),
        }
    }

    fn pass(&mut self, time: u64) {
        let end = self.now.plus(time);
        while self.now < end {
            let before = self.now;
            // Where nothing happened, nothing does until something is due.
            let next = if self.busy { before.plus(STEP) } else { self.next_turn() };
            self.now = next.max(before.plus(STEP)).min(end);
            self.busy = false;
            while let Some(message) = self.network.arrived(self.now) {
                self.busy = true;
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

    /// When something is next due, for anyone.
    fn next_turn(&self) -> Millis {
        let beat = Millis((self.now.0 / BEAT + 1) * BEAT);
        let due = self.gateways.iter().filter_map(Gateway::next_turn);
        due.chain(self.network.next()).fold(beat, Millis::min)
    }

    fn beat(&mut self) {
        for gateway in (0..NODES).filter(|gateway| !self.gateways[*gateway].is_down).collect::<Vec<_>>() {
            let edge = &self.gateways[gateway];
            let beat = InterestBeat { gateway: edge.node.clone(), revision: edge.log.revision(), reached: None };
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
            Message::Delta(to, _) | Message::Beat(to, _) | Message::Snapshot(to, _) | Message::Ask(to, ..)
                if self.routers[to].is_down => {}
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
                    let parts = edge.log.sent().parts(&edge.node, edge.log.revision(), PART_BYTES);
                    self.network.send(self.now, &Message::Snapshot(router, parts));
                }
            }
            Message::Batch(node, batch) => {
                if let Some(number) = self.gateways.iter().position(|edge| edge.node == node && !edge.is_down) {
                    let steps = self.gateways[number].offer(self.now, batch);
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
            for node in [number, number + NODES] {
                let is_down = if node < NODES { self.routers[number].is_down } else { self.gateways[number].is_down };
                if is_down {
                    self.toggle(node);
                }
            }
            if self.routers[number].stalled {
                self.stall(number);
            }
            self.routers[number].drops_next = false;
            self.learn_view(number);
            self.learn_view(number + NODES);
        }
        if self.newcomers {
            for came in 0.. {
                let open = self.gateways.iter().map(|edge| &edge.coverage).find(|coverage| coverage.gaps() > 0);
                // What is lost just now shows when the next comes.
                if came > LEAST_NEWCOMERS && open.is_none() {
                    break;
                }
                assert!(came < NEWCOMERS, "a gap stays open while sessions come: {open:#?}");
                // As owners store it: a range proves complete by what stands behind it.
                if came % (BEAT / NEWCOMER) == 0 {
                    self.tick();
                }
                (0..NODES).for_each(|gateway| self.newcomer(gateway));
                self.pass(NEWCOMER);
            }
        }
        self.pass(4 * BEAT);
        self.tick();
        self.pass(6 * BEAT);
        for _ in 0..PATIENCE {
            let is_told = |edge: &Gateway| edge.told == edge.log.revision() && edge.log.next_shrink().is_none();
            let is_given = |edge: &Gateway| edge.coverage.gaps() == 0 && edge.catch_ups.is_empty();
            if self.gateways.iter().all(|edge| is_told(edge) && is_given(edge)) {
                break;
            }
            self.pass(BEAT);
        }
    }

    /// Whether a gap had to be told: nobody could have given it.
    fn is_beyond_repair(&self, life: Incarnation, from: Seq, upto: Seq, reason: GapReason) -> bool {
        match reason {
            GapReason::Retention => self.discarded.get(&life).is_some_and(|discarded| upto <= *discarded),
            GapReason::Damaged => {
                self.damaged.get(&life).is_some_and(|damaged| damaged.range(Seq(from.0 + 1)..=upto).next().is_some())
            }
            GapReason::Lost => self.limits.give_up_after < GIVE_UP_AFTER,
            GapReason::TooLong => self.limits.replay_range < REPLAY_RANGE && from < upto,
        }
    }

    pub(crate) fn check(&self, quiet: bool) {
        for edge in &self.gateways {
            let position = edge.coverage.position().expect("coverage of every partition");
            assert_eq!((position.incarnation, edge.coverage.gaps()), (self.life.incarnation, 0), "a gap stays open");
            let lowest = position.seqs.iter().min().unwrap();
            assert!(lowest.0 + u64::from(PARTITIONS) > self.last.0, "stuck at {position:?} of {}", self.last);
            assert_eq!(edge.told, edge.log.revision(), "a revision was never carried");
            assert!(edge.catch_ups.is_empty(), "a session that came back never got what it missed");
        }
        for (router, edge) in
            self.routers.iter().flat_map(|router| self.gateways.iter().map(move |edge| (router, edge)))
        {
            assert!(router.table.knows(&edge.node), "{} waits for more than {} wants", router.node, edge.node);
        }
        for session in &self.sessions {
            assert!(session.wanted.is_empty(), "never confirmed: {session:#?}");
            for promise in session.past.iter().chain(&session.promise) {
                let log = self.history.get(&promise.incarnation).map_or(&[][..], Vec::as_slice);
                promise.check(&session.user, log);
                assert!(!quiet || promise.gaps.is_empty(), "a gap in quiet: {promise:#?}");
                for (partition, from, upto, reason) in &promise.gaps {
                    let in_gap = log.iter().filter(|(at, seq, _)| at == partition && from < seq && seq <= upto);
                    for (_, seq, event) in in_gap.filter(|_| *reason == GapReason::Damaged) {
                        let damaged = &self.damaged[&promise.incarnation];
                        let is_lost = damaged.contains(seq) || !promise.wants(&session.user, event);
                        assert!(is_lost, "{seq} is told as damaged, and is not: {promise:#?}");
                    }
                    let told = self.is_beyond_repair(promise.incarnation, *from, *upto, *reason);
                    assert!(told, "a gap ({from}, {upto}], {reason:?}, that could have been repaired: {promise:#?}");
                }
            }
        }
    }
}
