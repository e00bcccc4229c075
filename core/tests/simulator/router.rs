//! The routers: leases, contiguous reading, matching, and what they say to gateways.

use std::collections::BTreeMap;
use std::sync::Arc;

use tickwire_core::claims::{Claims, Delivered, Reading};
use tickwire_core::event::Event;
use tickwire_core::ids::{Incarnation, Life, NodeRef, Partition, Seq};
use tickwire_core::ring::{Homes, View};
use tickwire_core::section::Batch;
use tickwire_core::table::{Heard, InterestTable};
use tickwire_core::whole::Whole;

use crate::cluster::{Cluster, PARTITIONS};
use crate::network::Message;

pub(crate) struct Router {
    pub(crate) node: NodeRef,
    /// There is no such process. What is sent to it is lost.
    pub(crate) is_down: bool,
    pub(crate) stalled: bool,
    pub(crate) waiting: Vec<Message>,
    pub(crate) life: Life,
    pub(crate) view: View,
    pub(crate) table: InterestTable,
    pub(crate) claims: Claims<Arc<Event>>,
    pub(crate) consumers: BTreeMap<Partition, Consumer>,
    pub(crate) drops_next: bool,
    /// What it knows of the stream, and in which life.
    pub(crate) whole: Whole,
    pub(crate) whole_of: Incarnation,
}

impl Router {
    pub(crate) fn runs(&self) -> bool {
        !self.is_down && !self.stalled
    }
}

pub(crate) struct Consumer {
    pub(crate) reading: Reading,
    pub(crate) cursor: Seq,
    pub(crate) delivered: u64,
}

pub(crate) struct Lease {
    pub(crate) owner: Option<usize>,
    pub(crate) floor: Seq,
}

/// Each gateway's interest by itself, as a replay is matched, admits what the table finds for it.
fn check_matching(table: &InterestTable, view: &View, event: &Event, found: &[NodeRef]) {
    for (gateway, _) in table.known() {
        let admits = table.interest(gateway).unwrap().1.clone().latest().admits(
            event,
            gateway,
            &mut Homes::new(Arc::new(view.clone())),
        );
        let times = found.iter().filter(|found| *found == gateway).count();
        assert_eq!(times, usize::from(admits), "{gateway} and {event:?}");
    }
}

impl Cluster {
    pub(crate) fn new_router(&mut self, number: usize) -> Router {
        let mut table = InterestTable::default();
        table.set_view(Arc::new(self.view.clone()));
        Router {
            node: self.born("router", number),
            is_down: false,
            stalled: false,
            waiting: Vec::new(),
            life: self.life,
            view: self.view.clone(),
            table,
            claims: Claims::default(),
            consumers: BTreeMap::new(),
            drops_next: false,
            whole: Whole::default(),
            whole_of: self.life.incarnation,
        }
    }

    /// The router takes the lease and starts a consumer of its own from the floor. A floor is of the present life of the
    /// stream: a router that does not know of that life yet takes nothing, since it would claim in its own life from there.
    pub(crate) fn take_lease(&mut self, partition: usize, to: usize) {
        let router = &self.routers[to];
        if !router.runs() || router.life != self.life || self.leases[partition].owner == Some(to) {
            return;
        }
        self.leases[partition].owner = Some(to);
        self.start_reading(partition, to);
    }

    pub(crate) fn start_reading(&mut self, partition: usize, to: usize) {
        let (floor, first, router) = (self.leases[partition].floor, self.first, &mut self.routers[to]);
        let partition = Partition(partition as u16);
        router.claims.own(partition, floor);
        let start = if first.0 > floor.0 + 1 { Seq(first.0 - 1) } else { floor };
        if start > floor {
            router.claims.skip(partition, start);
        }
        router.consumers.insert(partition, Consumer { reading: Reading::after(start), cursor: start, delivered: 0 });
    }

    pub(crate) fn hand_over(&mut self, partition: usize, to: usize) {
        if let Some(owner) = self.leases[partition].owner
            && owner != to
            && self.routers[owner].runs()
            && self.routers[to].runs()
        {
            self.checkpoint(owner);
            self.routers[owner].claims.disown(Partition(partition as u16));
            self.routers[owner].consumers.remove(&Partition(partition as u16));
            self.leases[partition].owner = None;
        }
        self.take_lease(partition, to);
    }

    pub(crate) fn crash_router(&mut self, number: usize) {
        self.stop_router(number);
        self.start_router(number);
    }

    pub(crate) fn start_router(&mut self, number: usize) {
        self.routers[number] = self.new_router(number);
    }

    pub(crate) fn stop_router(&mut self, number: usize) {
        self.routers[number].is_down = true;
        for lease in self.leases.iter_mut().filter(|lease| lease.owner == Some(number)) {
            lease.owner = None;
        }
    }

    pub(crate) fn stall(&mut self, number: usize) {
        let router = &mut self.routers[number];
        router.stalled = !router.stalled;
        for message in std::mem::take(&mut router.waiting) {
            self.receive(message);
        }
    }

    pub(crate) fn heard(&mut self, router: usize, gateway: NodeRef, heard: Heard) {
        if let Some(revision) = heard.advanced {
            self.routers[router].claims.revise(&gateway, revision);
        }
        if heard.needs_snapshot {
            self.network.send(self.now, &Message::AskSnapshot(gateway, router));
        }
    }

    pub(crate) fn turn_router(&mut self, number: usize) {
        if !self.routers[number].runs() {
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

    pub(crate) fn read(&mut self, number: usize, partition: Partition) {
        let (life, first) = (self.life, self.first);
        for _ in 0..3 {
            let router = &self.routers[number];
            let Some(consumer) = router.consumers.get(&partition).filter(|_| router.life == life) else { return };
            let (cursor, last) = (consumer.cursor, consumer.reading.last);
            let next = self.readable(cursor).find(|(at, _, _)| *at == partition);
            let Some((_, seq, event)) = next.cloned() else { return };
            let holes = self.holes(number, last.max(Seq(first.0 - 1)), seq);
            let router = &mut self.routers[number];
            let Some(consumer) = router.consumers.get_mut(&partition) else { return };
            consumer.cursor = seq;
            consumer.delivered += 1;
            self.busy = true;
            if std::mem::take(&mut router.drops_next) {
                continue;
            }
            match consumer.reading.accept(seq, consumer.delivered) {
                Delivered::Known => {}
                Delivered::Hole => {
                    *consumer = Consumer { reading: Reading::after(last), cursor: last, delivered: 0 };
                    return;
                }
                Delivered::Next => {
                    if first.0 > last.0 + 1 {
                        router.claims.skip(partition, Seq(first.0 - 1));
                    }
                    for hole in holes {
                        router.claims.advance(partition, hole.after);
                        router.claims.skip(partition, hole.upto);
                    }
                    let mut found = Vec::new();
                    router.table.matching(&event, |gateway| {
                        router.claims.push(gateway, partition, seq, event.clone());
                        found.push(gateway.clone());
                    });
                    check_matching(&router.table, &router.view, &event, &found);
                    router.claims.advance(partition, seq);
                }
            }
        }
    }

    pub(crate) fn send_sections(&mut self, number: usize, gateway: NodeRef, heartbeat: bool) {
        let router = &mut self.routers[number];
        let sections = router.claims.take(&gateway, heartbeat);
        if !sections.is_empty() {
            let Life { incarnation, before } = router.life;
            let is_of_life = sections.iter().all(|section| section.prev >= before);
            assert!(is_of_life, "claims of a life that begins after {before} begin before it: {sections:?}");
            let batch = Batch { router: router.node.clone(), incarnation, sections, before };
            self.network.send(self.now, &Message::Batch(gateway, batch));
        }
    }

    /// Says to everyone how far everything is read, and renews the leases: one that is refused stops the owner.
    pub(crate) fn checkpoint(&mut self, number: usize) {
        if !self.routers[number].runs() {
            return;
        }
        let gateways: Vec<NodeRef> = self.routers[number].claims.gateways().cloned().collect();
        for gateway in gateways {
            self.send_sections(number, gateway, true);
        }
        let owned: Vec<(Partition, Seq)> = self.routers[number].claims.owned().collect();
        let renewed = self.routers[number].life != self.life;
        if renewed {
            let router = &mut self.routers[number];
            router.life = self.life;
            router.claims = Claims::default();
            router.consumers.clear();
            let known: Vec<_> = router.table.known().map(|(gateway, revision)| (gateway.clone(), revision)).collect();
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
}
