//! All nodes, KV and the network, and what is checked whenever something happens.

use super::kv::Kv;
use super::network::{Delivery, Effect, LONGEST_DELAY, Network, Seen, Sender, SimBeat};
use super::plan::{Action, Forgery, Plan, ROUTERS, SLOTS};
use super::process::SimNode;
use super::trace;
use crate::clock::millis;
use crate::config::{Config, LoadOptions, MembershipConfig};
use crate::connection_health::BACKOFF;
use crate::membership::coordinator::KvRequest;
use crate::membership::{Beat, kv_deadline};
use crate::names;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_core::placement::{Member, Role, View};
use tickwire_core::wire;
use tickwire_testkit::simulation;

/// The default configuration.
static CONFIG: LazyLock<MembershipConfig> = LazyLock::new(|| Config::load(&LoadOptions::default()).unwrap().membership);

/// Beats arrive at a node all the time if there is no pause of this length between them.
pub(super) const STEADY: u64 = 1_400;

/// How long a coordinator may work without knowing that a member beats again: until the next beat, and on requests to
/// KV that are slow, but not so slow that absence does not count.
const RECOVERY: u64 = 4_000;

/// The longest time from the last fault to the right view at every node: a bucket that has lost writes may hold another
/// view of a known version, and a follower then notices that in its review.
const HEALED_WITHIN: u64 = 26_000;

/// How long the view must then stay as it is.
const STABLE: u64 = 4_000;

#[derive(Debug)]
pub(super) struct World {
    pub(super) network: Network,
    pub(super) kv: Kv,
    pub(super) processes: Vec<SimNode>,
    /// The process of each slot that was started last.
    slots: [Option<usize>; SLOTS],
    drifts: Vec<i64>,
    /// Whether messages may be delayed.
    is_lossy: bool,
    /// Until when NATS is away for all, and the nodes that start then: a node cannot start without NATS.
    outage_until: u64,
    starting: BTreeSet<usize>,
}

fn name(slot: usize) -> NodeId {
    let text = if slot < ROUTERS { format!("r{slot}") } else { format!("g{slot}") };
    NodeId::new(&text).unwrap()
}

fn role(slot: usize) -> Role {
    if slot < ROUTERS { Role::Router } else { Role::Gateway }
}

impl World {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            network: Network::new(plan, millis(kv_deadline(&CONFIG))),
            kv: Kv::new(),
            processes: Vec::new(),
            slots: [None; SLOTS],
            drifts: plan.drifts.clone(),
            is_lossy: plan.loss > 0,
            outage_until: 0,
            starting: BTreeSet::new(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.network.now
    }

    /// The process of this slot, if it runs.
    pub(super) fn running(&mut self, slot: usize) -> Option<&mut SimNode> {
        let process = &mut self.processes[self.slots[slot]?];
        (process.is_alive && !process.is_leaving()).then_some(process)
    }

    pub(super) fn start(&mut self, slot: usize) {
        self.kill(slot);
        if self.now() < self.outage_until {
            self.starting.insert(slot);
            return;
        }
        let nonce = Nonce(self.network.random(0..u64::MAX));
        let node = NodeRef { id: name(slot), nonce };
        let member = Member { node, role: role(slot), weight: 1, draining: false };
        self.slots[slot] = Some(self.processes.len());
        self.processes.push(SimNode::new(slot, member, &CONFIG, self.now(), self.drifts[slot]));
    }

    pub(super) fn kill(&mut self, slot: usize) {
        if let Some(process) = self.slots[slot] {
            self.processes[process].is_alive = false;
        }
        self.starting.remove(&slot);
    }

    pub(super) fn act(&mut self, action: Action) {
        let now = self.now();
        simulation::trace(now, || format!("== {action:?}"));
        match action {
            Action::Start(slot) => self.start(slot),
            Action::Kill(slot) => self.kill(slot),
            Action::Drain(slot) => self.running(slot).into_iter().for_each(SimNode::drain),
            Action::Leave(slot) => self.running(slot).into_iter().for_each(SimNode::leave),
            Action::Freeze(slot, time) => {
                if let Some(process) = self.running(slot) {
                    process.freeze(now + time);
                    process.well_since = process.well_since.max(now + time);
                }
            }
            Action::Cut(slot, time) => {
                if let Some(process) = self.running(slot) {
                    process.cut(now, now + time);
                    process.well_since = process.well_since.max(now + time);
                }
            }
            Action::Outage(time) => {
                self.network.away_until = self.network.away_until.max(now + time);
                self.outage_until = self.outage_until.max(now + time);
                for process in 0..self.processes.len() {
                    // The last pause between two attempts is about as long as all those before it.
                    let wait = self.network.random(0..BACKOFF.most.min(time));
                    self.processes[process].cut(now, now + time + wait);
                }
            }
            Action::KvAway(time) => self.network.away_until = self.network.away_until.max(now + time),
            Action::KvSlow(time) => self.network.slow_until = self.network.slow_until.max(now + time),
            Action::KvStale(time) => self.network.stale_until = self.network.stale_until.max(now + time),
            Action::LoseWrites(writes) => self.kv.lose(writes),
            Action::OverwriteLease => self.kv.overwrite_lease(),
            Action::OverwriteView => self.kv.overwrite_view(),
            Action::Forge(slot, forgery) => self.forge(slot, forgery),
        }
    }

    fn forge(&mut self, slot: usize, forgery: Forgery) {
        let Some(process) = self.running(slot) else { return };
        let mut member = process.member.clone();
        let other = if member.role == Role::Router { Role::Gateway } else { Role::Router };
        let (mut role, mut name) = (member.role, member.node.id.clone());
        let stranger = NodeRef { id: NodeId::new("x1").unwrap(), nonce: Nonce(1) };
        match forgery {
            Forgery::ForeignSubject => (member.node, role) = (stranger, other),
            // A router that does not know the node yet would believe it.
            Forgery::ForeignRole => (member.role, role) = (other, other),
            Forgery::Weightless => {
                name = stranger.id.clone();
                (member.node, member.weight) = (stranger, 0);
            }
            Forgery::Unreadable => {}
        }
        let mut payload = wire::encode(&Beat { member, goodbye: forgery == Forgery::ForeignRole }).unwrap();
        if forgery == Forgery::Unreadable {
            payload.truncate(payload.len() / 2);
        }
        let from = self.slots[slot].unwrap();
        let now = self.now();
        let subject = names::beat(role.as_str(), name.as_str()).into();
        let beat = SimBeat { subject, payload: payload.into(), from: None };
        for to in 0..self.processes.len() {
            let router = &self.processes[to];
            let knows = forgery != Forgery::ForeignRole || router.has_heard(self.network.now, from, 10_000);
            if router.is_alive && router.is_router() && knows {
                self.network.send(to, || Delivery::Beat { to, sent: now, beat: beat.clone() });
            }
        }
    }

    /// Lets everything happen until `end`.
    pub(super) fn run_until(&mut self, end: u64) {
        loop {
            let due = self.processes.iter().filter_map(SimNode::due).min();
            let start = (!self.starting.is_empty()).then_some(self.outage_until);
            let next = [due, start, self.network.next()].into_iter().flatten().min().filter(|next| *next <= end);
            let Some(next) = next else {
                self.network.now = self.network.now.max(end);
                return;
            };
            self.network.now = self.network.now.max(next);
            if self.now() >= self.outage_until {
                std::mem::take(&mut self.starting).into_iter().for_each(|slot| self.start(slot));
            }
            while let Some(delivery) = self.network.take() {
                self.deliver(delivery);
            }
            let now = self.now();
            for at in 0..self.processes.len() {
                let process = &mut self.processes[at];
                if process.due().is_some_and(|due| due <= now) {
                    let effects = process.turn(now, &mut self.network.rng);
                    let due = process.due();
                    assert!(due.is_none_or(|due| due > now), "{} is still due after its turn", process.member.node.id);
                    effects.into_iter().for_each(|effect| self.perform(at, effect));
                }
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let now = self.now();
        simulation::trace(now, || trace::delivery(&delivery));
        let is_reached = |process: &SimNode| process.is_alive && now >= process.cut_until;
        match delivery {
            Delivery::Beat { to, sent, beat } => {
                if is_reached(&self.processes[to]) && sent >= self.processes[to].cut_at {
                    self.processes[to].beat_arrives(now, beat);
                }
            }
            Delivery::Announcement { to, sent, payload } => {
                if is_reached(&self.processes[to]) && sent >= self.processes[to].cut_at {
                    self.processes[to].announcement_arrives(payload);
                }
            }
            Delivery::Request(flight) => {
                let is_lagging = now < self.network.stale_until;
                let lag = if is_lagging { self.network.random(0..8) as usize } else { 0 };
                let me = &self.processes[flight.process].member.node;
                let (answer, seen) = self.kv.apply(me, &flight, lag);
                self.network.answer(&flight, answer, seen);
            }
            Delivery::Answer { process, asker, number, answer, seen } => {
                if is_reached(&self.processes[process]) {
                    self.processes[process].answer_arrives(asker, number, Some((answer, seen)));
                }
            }
            Delivery::GiveUp { process, asker, number } => {
                self.processes[process].answer_arrives(asker, number, None);
            }
        }
    }

    fn perform(&mut self, at: usize, effect: Effect) {
        let now = self.now();
        match effect {
            Effect::Beat(beat) => {
                let beat = SimBeat { from: Some(at), ..beat };
                for to in 0..self.processes.len() {
                    let is_in_time = !self.processes[to].is_router()
                        || !self.processes[to].is_alive
                        || self.network.send(to, || Delivery::Beat { to, sent: now, beat: beat.clone() });
                    if !is_in_time {
                        let sender = &mut self.processes[at];
                        sender.well_since = sender.well_since.max(self.network.now + LONGEST_DELAY);
                    }
                }
            }
            Effect::Announce(version, payload) => {
                assert!(self.kv.was_written(version), "version {version} is announced, but it was never written");
                if self.processes[at].cut_until > now {
                    return;
                }
                for to in 0..self.processes.len() {
                    if self.processes[to].is_alive {
                        self.network.send(to, || Delivery::Announcement {
                            to,
                            sent: now,
                            payload: Arc::clone(&payload),
                        });
                    }
                }
            }
            Effect::Ask { asker, number, request } => {
                if let KvRequest::WriteView { view, .. } = &request {
                    self.check_next(at, view);
                    self.check_departed(view);
                }
                let SimNode { cut_until, base_damages: damages, .. } = self.processes[at];
                self.network.ask((asker, number, request), Sender { process: at, cut_until, damages });
            }
            Effect::News { before, heard, seen } => self.check_news(at, (before, heard), seen),
        }
    }

    /// Checks the view that a coordinator is about to write.
    fn check_next(&self, at: usize, next: &View) {
        let (now, writer, timeout) = (self.now(), &self.processes[at], millis(CONFIG.timeout));
        let followed = writer.view.version;
        assert!(
            next.version > followed,
            "{} writes version {} again, or an older one",
            writer.member.node.id,
            followed
        );
        let is_in = |view: &View, node: &NodeRef| view.members.iter().any(|member| member.node == *node);
        for member in &next.members {
            let is_same = |process: &SimNode| {
                let own = &process.member;
                own.node == member.node && own.role == member.role && own.weight == member.weight
            };
            let process = self.processes.iter().position(is_same);
            let process = process.unwrap_or_else(|| panic!("{member:?} is not a node"));
            let is_known = is_in(&writer.base, &member.node) || writer.has_heard(now, process, timeout);
            assert!(is_known, "{} adds {}, of which it has no beat", writer.member.node.id, member.node.id);
        }
        for role in [Role::Router, Role::Gateway] {
            let named = |member: &&Member| next.members.iter().any(|other| other.node.id == member.node.id);
            let left = |member: &&Member| {
                self.processes.iter().any(|process| process.is_leaving() && process.member.node == member.node)
            };
            let of_role: Vec<&Member> = writer.base.members.iter().filter(|member| member.role == role).collect();
            let silent = of_role.iter().filter(|member| !named(member) && !left(member)).count();
            assert!(silent <= (of_role.len() / 2).max(1), "{} removes {silent} nodes", writer.member.node.id);
        }
        for (number, process) in self.processes.iter().enumerate() {
            let node = &process.member.node;
            let is_current = self.slots[process.slot] == Some(number) && process.is_alive && !process.is_leaving();
            if !is_current || !is_in(&writer.base, node) || is_in(next, node) {
                continue;
            }
            // After a pause, the beats of two starts of a node are taken one after the other. A delayed beat of the
            // earlier start may even be the later one.
            let is_replaced = next.members.iter().any(|member| member.node.id == node.id);
            if is_replaced && (self.is_lossy || !writer.has_heard(now, number, u64::MAX)) {
                continue;
            }
            let arrivals = writer.arrivals.get(&number).copied().unwrap_or_default();
            assert!(
                now - arrivals.since < timeout || now - arrivals.last > STEADY,
                "{} removes {}, whose beats arrive since {}, now {now}",
                writer.member.node.id,
                node.id,
                arrivals.since
            );
            assert!(
                now < process.well_since + RECOVERY,
                "{} removes {}, which beats since {}, now {now}",
                writer.member.node.id,
                node.id,
                process.well_since
            );
        }
    }

    /// Checks the view that a follower has taken.
    fn check_news(&mut self, at: usize, (before, heard): (u64, u64), seen: Seen) {
        let process = &mut self.processes[at];
        let was_damaged = std::mem::replace(&mut process.damages, seen.damages) != seen.damages;
        let version = process.view.version;
        let is_back = version < before && !was_damaged;
        let is_excused = seen.is_stale && heard == version;
        assert!(!is_back || is_excused, "{} goes back from {before} to {version}", process.member.node.id);
    }

    /// The members as they are.
    fn members(&self) -> Vec<Member> {
        let running = self.processes.iter().filter(|process| process.is_alive && !process.is_leaving());
        let mut members: Vec<_> = running.map(|process| process.member.clone()).collect();
        members.sort_by(|a, b| a.node.id.cmp(&b.node.id));
        members
    }

    /// What is wrong with the view, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        let members = self.members();
        let Some(view) = self.kv.view().filter(|view| view.members == members) else {
            return Some(format!("KV has {:?}, and the members are {members:?}", self.kv.view()));
        };
        let lacks = |process: &&SimNode| process.is_alive && !process.is_leaving() && *process.view != *view;
        let lacking = self.processes.iter().find(lacks)?;
        Some(format!("{} has {:?}, and KV has {view:?}", lacking.member.node.id, lacking.view))
    }

    /// Ends all faults, and waits for the right view.
    pub(super) fn heal(&mut self) {
        (self.network.loss, self.network.kv_delay) = (0, 0);
        let ends = self.processes.iter().map(|process| process.frozen_until.max(process.cut_until));
        let Network { now, away_until, slow_until, stale_until, .. } = self.network;
        let end = ends.chain([away_until, slow_until, stale_until, now]).max().unwrap_or_default();
        self.run_until(end);
        if !(0..ROUTERS).any(|slot| self.running(slot).is_some()) {
            self.start(0);
        }
        let (end, mut right_since) = (self.now(), None);
        while right_since.is_none_or(|since| self.now() < since + STABLE) {
            self.run_until(self.now() + 50);
            let fault = self.fault();
            assert!(self.now() < end + HEALED_WITHIN || fault.is_none(), "not right since {end}: {fault:?}");
            // After a pause, a node may take old beats for new ones, and a dead node returns once more.
            right_since = if fault.is_some() { None } else { right_since.or(Some(self.now())) };
        }
        let owner = self.kv.owner().expect("nobody has the coordinator's lease");
        assert!(self.members().iter().any(|member| member.node == *owner), "{owner} has the lease, and is dead");
    }

    /// Whether this slot has the coordinator's lease.
    pub(super) fn is_coordinator(&mut self, slot: usize) -> bool {
        let owner = self.kv.owner().cloned();
        self.running(slot).is_some_and(|process| Some(&process.member.node) == owner.as_ref())
    }
}
