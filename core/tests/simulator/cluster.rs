//! The world: a log with retention, leases, routers, gateways and their sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use tickwire_core::claims::{Claims, Delivered, Reading};
use tickwire_core::confirm::Confirmations;
use tickwire_core::coverage::{Coverage, Limits, Step};
use tickwire_core::event::{Audience, Event, Kind, Priority, Tier, Timestamp};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Confidence, Incarnation, Millis, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::ids::{Symbol, UserId};
use tickwire_core::interest::InterestBeat;
use tickwire_core::interest_log::InterestLog;
use tickwire_core::ring::{Member, Role, View};
use tickwire_core::section::Batch;
use tickwire_core::table::{Heard, InterestTable};

use crate::network::{Message, Network};
use crate::plan::Action;
use crate::session::{Promise, Session};

const PARTITIONS: u16 = 3;
const NODES: usize = 3;
const STEP: u64 = 5;
const BEAT: u64 = 250;

struct Router {
    node: NodeRef,
    stalled: bool,
    waiting: Vec<Message>,
    incarnation: Incarnation,
    view: View,
    table: InterestTable,
    claims: Claims<Arc<Event>>,
    consumers: BTreeMap<Partition, Consumer>,
    drops_next: bool,
}

struct Consumer {
    reading: Reading,
    cursor: Seq,
    delivered: u64,
}

struct Gateway {
    node: NodeRef,
    log: InterestLog,
    coverage: Coverage<Arc<Event>>,
    confirmations: Confirmations<(usize, Filter)>,
    told: Revision,
}

struct Lease {
    owner: Option<usize>,
    floor: Seq,
}

pub(crate) struct Cluster {
    now: Millis,
    network: Network,
    quiet: bool,
    nonces: u64,
    incarnation: Incarnation,
    last: Seq,
    first: Seq,
    history: BTreeMap<Incarnation, Vec<(Partition, Seq, Arc<Event>)>>,
    view: View,
    leases: Vec<Lease>,
    routers: Vec<Router>,
    gateways: Vec<Gateway>,
    sessions: Vec<Session>,
}

fn user(number: u8) -> UserId {
    UserId::new(&format!("u{number}")).unwrap()
}

fn symbol(number: u8) -> Symbol {
    Symbol::new(&format!("S{number}")).unwrap()
}

/// Eight filters that overlap, contain one another, or have nothing in common.
fn filter(number: u8) -> Filter {
    let some = |symbols: &[u8]| Some(symbols.iter().map(|number| symbol(*number)).collect());
    let least = |tenths: u8| Confidence::new(f64::from(tenths) / 10.0);
    let base = Filter::default();
    match number {
        0 => base,
        1 => Filter {
            symbols: some(&[0]),
            ..base
        },
        2 => Filter {
            symbols: some(&[0, 1]),
            min_confidence: least(5),
            ..base
        },
        3 => Filter {
            symbols: some(&[1]),
            min_confidence: least(8),
            ..base
        },
        4 => Filter {
            symbols: some(&[2, 3]),
            tiers: Some([Tier::Daily].into()),
            ..base
        },
        5 => Filter {
            min_priority: Some(Priority::High),
            ..base
        },
        6 => Filter {
            kinds: [Kind::Alert].into(),
            ..base
        },
        _ => Filter {
            kinds: [Kind::Alert, Kind::Pattern].into(),
            symbols: some(&[3]),
            ..base
        },
    }
}

impl Cluster {
    pub(crate) fn new(seed: u64, loss: u32) -> Self {
        let mut cluster = Self {
            now: Millis(1_000),
            network: Network::new(seed, 0),
            quiet: true,
            nonces: 0,
            incarnation: Incarnation(1),
            last: Seq(0),
            first: Seq(1),
            history: BTreeMap::new(),
            view: View::default(),
            leases: (0..PARTITIONS)
                .map(|_| Lease {
                    owner: None,
                    floor: Seq(0),
                })
                .collect(),
            routers: Vec::new(),
            gateways: Vec::new(),
            sessions: Vec::new(),
        };
        for number in 0..NODES {
            let node = cluster.born("gw", number);
            cluster.view.members.push(Member {
                node,
                role: Role::Gateway,
                weight: 1,
                draining: false,
            });
        }
        for number in 0..NODES {
            let router = cluster.new_router(number);
            cluster.routers.push(router);
            let node = cluster.view.members[number].node.clone();
            let gateway = cluster.new_gateway(node);
            cluster.gateways.push(gateway);
        }
        cluster.pass(3 * BEAT);
        cluster.network = Network::new(seed, loss);
        cluster.quiet = loss == 0;
        cluster
    }

    fn born(&mut self, name: &str, number: usize) -> NodeRef {
        self.nonces += 1;
        NodeRef {
            id: NodeId::new(&format!("{name}-{number}")).unwrap(),
            nonce: Nonce(self.nonces),
        }
    }

    fn new_router(&mut self, number: usize) -> Router {
        Router {
            node: self.born("router", number),
            stalled: false,
            waiting: Vec::new(),
            incarnation: self.incarnation,
            view: self.view.clone(),
            table: InterestTable::default(),
            claims: Claims::default(),
            consumers: BTreeMap::new(),
            drops_next: false,
        }
    }

    fn new_gateway(&mut self, node: NodeRef) -> Gateway {
        Gateway {
            log: InterestLog::new(node.clone(), self.view.clone(), 100),
            node,
            coverage: Coverage::new(
                PARTITIONS,
                Limits {
                    grace: 20,
                    held_events: 6,
                },
            ),
            confirmations: Confirmations::new(BEAT),
            told: Revision(0),
        }
    }

    pub(crate) fn act(&mut self, action: &Action) {
        match *action {
            Action::Pass(time) => self.pass(time),
            Action::Publish { symbol, confidence } => self.publish(symbol, confidence),
            Action::Address { user } => self.address(user),
            Action::Connect { gateway, user, filter } => self.connect(usize::from(gateway), user, filter),
            Action::Replace { session, filter } => self.replace(session, filter),
            Action::Disconnect { session } => self.disconnect(session),
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
            Action::Discard { keep } => self.first = self.first.max(Seq((self.last.0 + 1).saturating_sub(keep.into()))),
            Action::Recreate => self.recreate(),
            Action::DropDelivery { router } => self.routers[usize::from(router)].drops_next = true,
        }
        self.pass(STEP);
    }

    fn store(&mut self, partition: u16, event: Event) {
        self.last = Seq(self.last.0 + 1);
        self.history
            .entry(self.incarnation)
            .or_default()
            .push((Partition(partition), self.last, Arc::new(event)));
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
        self.store(
            u16::from(number) % PARTITIONS,
            blank(Kind::Alert, Audience::User(user(number))),
        );
    }

    fn tick(&mut self) {
        for partition in 0..PARTITIONS {
            self.store(partition, blank(Kind::Other("tick".into()), Audience::Public));
        }
    }

    fn connect(&mut self, gateway: usize, number: u8, wanted: u8) {
        let at = self.sessions.len();
        let user = user(number);
        let (edge, filter) = (&mut self.gateways[gateway], filter(wanted));
        let revision = edge.log.add_user(&user).max(edge.log.add(&filter));
        edge.confirmations.ask(self.now, revision, (at, filter.clone()));
        self.sessions.push(Session {
            gateway,
            user,
            promise: None,
            wanted: vec![filter],
            asked: revision,
            past: vec![],
            open: true,
        });
    }

    fn open_session(&self, pick: u8) -> Option<usize> {
        let open: Vec<usize> = (0..self.sessions.len()).filter(|at| self.sessions[*at].open).collect();
        (!open.is_empty()).then(|| open[usize::from(pick) % open.len()])
    }

    fn replace(&mut self, pick: u8, wanted: u8) {
        let Some(at) = self.open_session(pick) else { return };
        let filter = filter(wanted);
        let edge = &mut self.gateways[self.sessions[at].gateway];
        let session = &mut self.sessions[at];
        session.asked = session.asked.max(edge.log.add(&filter));
        edge.confirmations.ask(self.now, session.asked, (at, filter.clone()));
        session.wanted.push(filter);
    }

    fn disconnect(&mut self, pick: u8) {
        let Some(at) = self.open_session(pick) else { return };
        let session = &mut self.sessions[at];
        session.open = false;
        let log = &mut self.gateways[session.gateway].log;
        log.remove_user(self.now, session.user.clone());
        let confirmed = session.promise.take().map(|promise| {
            session.past.push(promise);
            session.past[session.past.len() - 1].filter.clone()
        });
        for filter in session.wanted.drain(..).chain(confirmed) {
            log.remove(self.now, filter);
        }
    }

    /// The router takes the lease and starts a consumer of its own from the floor.
    fn take_lease(&mut self, partition: usize, to: usize) {
        if self.routers[to].stalled || self.leases[partition].owner == Some(to) {
            return;
        }
        self.leases[partition].owner = Some(to);
        self.start_reading(partition, to);
    }

    fn start_reading(&mut self, partition: usize, to: usize) {
        let (floor, first, router) = (self.leases[partition].floor, self.first, &mut self.routers[to]);
        let partition = Partition(partition as u16);
        router.claims.own(partition, floor);
        let start = if first.0 > floor.0 + 1 { Seq(first.0 - 1) } else { floor };
        if start > floor {
            router.claims.skip(partition, start);
        }
        router.consumers.insert(
            partition,
            Consumer {
                reading: Reading::after(start),
                cursor: start,
                delivered: 0,
            },
        );
    }

    fn hand_over(&mut self, partition: usize, to: usize) {
        if let Some(owner) = self.leases[partition].owner
            && owner != to
            && !self.routers[owner].stalled
            && !self.routers[to].stalled
        {
            self.checkpoint(owner);
            self.routers[owner].claims.disown(Partition(partition as u16));
            self.routers[owner].consumers.remove(&Partition(partition as u16));
        }
        self.take_lease(partition, to);
    }

    fn crash_router(&mut self, number: usize) {
        self.routers[number] = self.new_router(number);
        for lease in self.leases.iter_mut().filter(|lease| lease.owner == Some(number)) {
            lease.owner = None;
        }
    }

    fn stall(&mut self, number: usize) {
        let router = &mut self.routers[number];
        router.stalled = !router.stalled;
        for message in std::mem::take(&mut router.waiting) {
            self.receive(message);
        }
    }

    fn restart_gateway(&mut self, number: usize) {
        for session in self
            .sessions
            .iter_mut()
            .filter(|session| session.gateway == number && session.open)
        {
            session.open = false;
            session.past.extend(session.promise.take());
            session.wanted.clear();
        }
        let node = self.born("gw", number);
        self.view.members[number].node = node.clone();
        self.view.version += 1;
        self.gateways[number] = self.new_gateway(node);
    }

    fn learn_view(&mut self, node: usize) {
        if node < NODES {
            self.routers[node].view = self.view.clone();
        } else {
            self.gateways[node - NODES].log.set_view(self.view.clone());
        }
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
            let beat = InterestBeat {
                gateway: edge.node.clone(),
                revision: edge.log.revision(),
            };
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

    fn receive(&mut self, message: Message) {
        match message {
            Message::Delta(to, _) | Message::Beat(to, _) | Message::Snapshot(to, _) if self.routers[to].stalled => {
                self.routers[to].waiting.push(message);
            }
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
                        self.gateways[number]
                            .coverage
                            .offer(self.now, batch.incarnation, section, &mut steps);
                    }
                    self.take_steps(number, steps);
                }
            }
        }
    }

    fn heard(&mut self, router: usize, gateway: NodeRef, heard: Heard) {
        match heard {
            Heard::Nothing => {}
            Heard::Advanced(revision) => self.routers[router].claims.revise(&gateway, revision),
            Heard::NeedsSnapshot => self.network.send(self.now, &Message::AskSnapshot(gateway, router)),
        }
    }

    fn turn_gateway(&mut self, number: usize) {
        let edge = &mut self.gateways[number];
        if let Some(delta) = edge.log.cut(self.now) {
            for router in 0..NODES {
                self.network.send(self.now, &Message::Delta(router, delta.clone()));
            }
        }
        let mut steps = Vec::new();
        edge.coverage.expire(self.now, &mut steps);
        self.take_steps(number, steps);
    }

    /// What a gateway does with steps, and the confirmations that follow from them.
    fn take_steps(&mut self, number: usize, steps: Vec<Step<Arc<Event>>>) {
        let open = |session: &&mut Session| session.gateway == number && session.open;
        for step in steps {
            for session in self.sessions.iter_mut().filter(open) {
                let Some(promise) = &mut session.promise else { continue };
                match &step {
                    Step::Adopt { partition, at } => {
                        let slot = usize::from(partition.0);
                        assert!(promise.start[slot].is_none(), "adopted anew what was promised before");
                        (promise.start[slot], promise.end[slot]) = (Some(*at), Some(*at));
                    }
                    Step::Apply {
                        partition,
                        from,
                        upto,
                        events,
                    } => {
                        let slot = usize::from(partition.0);
                        assert_eq!(promise.end[slot], Some(*from), "a range was skipped without being told");
                        promise.end[slot] = Some(*upto);
                        let wanted = events
                            .iter()
                            .filter(|(_, event)| event.audience.admits(&session.user) && promise.filter.matches(event));
                        promise.got.extend(wanted.map(|(seq, _)| (*partition, *seq)));
                    }
                    Step::Gap { partition, from, upto } => {
                        let slot = usize::from(partition.0);
                        assert_eq!(promise.end[slot], Some(*from));
                        promise.end[slot] = Some(*upto);
                        promise.gaps.push((*partition, *from, *upto));
                    }
                    Step::Reset { incarnation } => {
                        let nothing = vec![None; usize::from(PARTITIONS)];
                        let next = Promise::new(promise.filter.clone(), *incarnation, nothing);
                        session.past.push(std::mem::replace(promise, next));
                    }
                }
            }
        }
        let edge = &mut self.gateways[number];
        edge.told = edge.coverage.lowest_revision();
        for (at, filter) in edge.confirmations.take(self.now, &mut edge.coverage) {
            let position = edge
                .coverage
                .position()
                .expect("nothing is confirmed before coverage is complete");
            let session = &mut self.sessions[at];
            if !session.open {
                continue;
            }
            session.wanted.remove(0);
            let start = position.seqs.iter().copied().map(Some).collect();
            let promise = Promise::new(filter, position.incarnation, start);
            if let Some(former) = session.promise.replace(promise) {
                edge.log.remove(self.now, former.filter.clone());
                session.past.push(former);
            }
        }
    }

    fn turn_router(&mut self, number: usize) {
        if self.routers[number].stalled {
            return;
        }
        for partition in (0..PARTITIONS).map(Partition) {
            self.read(number, partition);
        }
        let due: Vec<NodeRef> = self.routers[number].claims.due().cloned().collect();
        for gateway in due {
            self.send_sections(number, gateway, false);
        }
    }

    fn read(&mut self, number: usize, partition: Partition) {
        let (incarnation, first) = (self.incarnation, self.first);
        let router = &mut self.routers[number];
        let Some(consumer) = router.consumers.get_mut(&partition) else {
            return;
        };
        if router.incarnation != incarnation {
            return;
        }
        for _ in 0..3 {
            let log = self.history.get(&incarnation).map_or(&[][..], Vec::as_slice);
            let start = log.partition_point(|(_, seq, _)| *seq <= consumer.cursor || *seq < first);
            let Some((_, seq, event)) = log[start..].iter().find(|(at, _, _)| *at == partition) else {
                return;
            };
            consumer.cursor = *seq;
            consumer.delivered += 1;
            if std::mem::take(&mut router.drops_next) {
                continue;
            }
            let last = consumer.reading.last;
            match consumer.reading.accept(*seq, consumer.delivered) {
                Delivered::Known => {}
                Delivered::Hole => {
                    *consumer = Consumer {
                        reading: Reading::after(last),
                        cursor: last,
                        delivered: 0,
                    };
                    return;
                }
                Delivered::Next => {
                    if first.0 > last.0 + 1 {
                        router.claims.skip(partition, Seq(first.0 - 1));
                    }
                    router.table.matching(event, &router.view, |gateway| {
                        router.claims.push(gateway, partition, *seq, event.clone());
                    });
                    router.claims.advance(partition, *seq);
                }
            }
        }
    }

    fn send_sections(&mut self, number: usize, gateway: NodeRef, heartbeat: bool) {
        let router = &mut self.routers[number];
        let sections = router.claims.take(&gateway, heartbeat);
        if !sections.is_empty() {
            let batch = Batch {
                router: router.node.clone(),
                incarnation: router.incarnation,
                sections,
            };
            self.network.send(self.now, &Message::Batch(gateway, batch));
        }
    }

    /// Says to everyone how far everything is read, and renews the leases: one that is refused stops the owner.
    fn checkpoint(&mut self, number: usize) {
        if self.routers[number].stalled {
            return;
        }
        let gateways: Vec<NodeRef> = self.routers[number].claims.gateways().cloned().collect();
        for gateway in gateways {
            self.send_sections(number, gateway, true);
        }
        let owned: Vec<(Partition, Seq)> = self.routers[number].claims.owned().collect();
        let renewed = self.routers[number].incarnation != self.incarnation;
        if renewed {
            let router = &mut self.routers[number];
            router.incarnation = self.incarnation;
            router.claims = Claims::default();
            router.consumers.clear();
            let known: Vec<_> = router
                .table
                .known()
                .map(|(gateway, revision)| (gateway.clone(), revision))
                .collect();
            for (gateway, revision) in known {
                router.claims.revise(&gateway, revision);
            }
        }
        for (partition, read) in owned {
            let at = usize::from(partition.0);
            match (self.leases[at].owner == Some(number), renewed) {
                (true, true) => self.start_reading(at, number),
                (true, false) => self.leases[at].floor = read,
                (false, _) => {
                    self.routers[number].claims.disown(partition);
                    self.routers[number].consumers.remove(&partition);
                }
            }
        }
    }

    /// Ends all faults and waits until everything that was stored has had time to arrive.
    pub(crate) fn heal(&mut self) {
        self.network.heal();
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
    }

    pub(crate) fn check(&self) {
        for edge in &self.gateways {
            let position = edge.coverage.position().expect("coverage of every partition");
            assert_eq!(position.incarnation, self.incarnation);
            let lowest = position.seqs.iter().min().unwrap();
            assert!(
                lowest.0 + u64::from(PARTITIONS) > self.last.0,
                "stuck at {position:?} of {}",
                self.last
            );
            assert_eq!(edge.told, edge.log.revision(), "a revision was never carried");
        }
        for session in &self.sessions {
            assert!(session.wanted.is_empty(), "never confirmed: {session:#?}");
            for promise in session.past.iter().chain(&session.promise) {
                let log = self.history.get(&promise.incarnation).map_or(&[][..], Vec::as_slice);
                promise.check(&session.user, log);
                assert!(
                    !self.quiet || promise.gaps.is_empty() || !self.calm(),
                    "a gap in quiet: {promise:#?}"
                );
            }
        }
    }

    /// Nothing but hand-overs happened to the nodes.
    fn calm(&self) -> bool {
        self.nonces == 2 * NODES as u64 && self.incarnation == Incarnation(1) && self.first == Seq(1)
    }
}

fn blank(kind: Kind, audience: Audience) -> Event {
    Event {
        kind,
        key: "k".into(),
        audience,
        id: "e".into(),
        ts: Timestamp(0),
        stored: Timestamp(0),
        session: None,
        symbol: None,
        pattern: None,
        tier: None,
        confidence: None,
        priority: Priority::Low,
        regime: None,
        tags: Vec::new(),
        data: serde_json::Map::new(),
    }
}
