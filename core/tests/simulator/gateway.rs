//! The gateways and their sessions: what they want, what they are given, and what is confirmed.

use std::collections::BTreeMap;
use std::sync::Arc;

use tickwire_core::confirm::Confirmations;
use tickwire_core::coverage::{Coverage, Offered, Step};
use tickwire_core::event::Event;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Millis, NodeRef, Partition, Revision, Seq, Symbol, UserId};
use tickwire_core::interest_log::{Bounds, InterestLog};
use tickwire_core::position::Position;
use tickwire_core::section::Batch;

use crate::catch_up::{self, CatchUp};
use crate::cluster::{Cluster, NODES, PARTITIONS};
use crate::made::filter;
use crate::network::Message;
use crate::session::{Promise, Session};

/// As shipped, in milliseconds.
const CONFIRM_TIMEOUT: u64 = 250;
const CONFIRM_PATIENCE: u64 = 2_000;
pub(crate) const REPLAY_TIMEOUT: u64 = 2_000;
const SHRINK_DELAY: u64 = 5_000;

/// So little that interest is often widened, and narrows again.
const BOUNDS: Bounds = Bounds { names: 8, wants: 40, topics: 40, strays: 6 };

/// In the place of a session: one that goes as soon as it is confirmed.
const NOBODY: usize = usize::MAX;

pub(crate) struct Gateway {
    pub(crate) node: NodeRef,
    pub(crate) is_down: bool,
    pub(crate) log: InterestLog,
    pub(crate) coverage: Coverage<Arc<Event>>,
    pub(crate) confirmations: Confirmations<(usize, Filter)>,
    pub(crate) told: Revision,
    /// Up to where sections that came have told that each partition goes, in the present life of the stream.
    pub(crate) known: Vec<Seq>,
    pub(crate) catch_ups: BTreeMap<u64, CatchUp>,
    /// How many catch-ups there were.
    pub(crate) gatherings: u64,
}

impl Gateway {
    /// When something is next due, as the edge of a gateway reckons it.
    pub(crate) fn next_turn(&self) -> Option<Millis> {
        if self.is_down {
            return None;
        }
        let Self { coverage, confirmations, log, .. } = self;
        let live = [coverage.next_expiry(), confirmations.next_deadline(coverage), log.next_shrink()];
        let past = self.catch_ups.values().filter_map(|catch_up| catch_up.coverage.next_expiry());
        live.into_iter().flatten().chain(past).min()
    }
}

impl Gateway {
    /// Takes a batch. Whatever it tells that there is was given then, or is known to be missing.
    pub(crate) fn offer(&mut self, now: Millis, batch: Batch<Arc<Event>>) -> Vec<Step<Arc<Event>>> {
        let (mut steps, life) = (Vec::new(), batch.life());
        let mut known = self.coverage.life();
        for section in batch.sections {
            let (at, upto) = (usize::from(section.partition.0), section.upto);
            let offered = self.coverage.offer(now, life, section, &mut steps);
            if self.coverage.life() != known {
                known = self.coverage.life();
                self.known.fill(life.before);
            }
            if offered != Offered::Foreign {
                self.known[at] = self.known[at].max(upto);
            }
        }
        let missing: Vec<Partition> = self.coverage.stuck(Millis(u64::MAX)).collect();
        if let Some(position) = self.coverage.position() {
            for (partition, (known, mine)) in (0..).map(Partition).zip(self.known.iter().zip(&position.seqs)) {
                let is_kept = known <= mine || missing.contains(&partition);
                assert!(
                    is_kept,
                    "{partition} is known to go on to {known}, and nothing is missing: {:#?}",
                    self.coverage
                );
            }
        }
        steps
    }
}

impl Cluster {
    pub(crate) fn new_gateway(&mut self, node: NodeRef) -> Gateway {
        // Where interest is widened, nobody who comes changes it.
        let bounds = if self.newcomers { Bounds::default() } else { BOUNDS };
        Gateway {
            is_down: false,
            log: InterestLog::new(node.clone(), self.view.clone(), SHRINK_DELAY, bounds),
            node,
            coverage: Coverage::new(PARTITIONS, self.limits),
            confirmations: Confirmations::new(CONFIRM_TIMEOUT, CONFIRM_PATIENCE),
            told: Revision(0),
            known: vec![Seq(0); usize::from(PARTITIONS)],
            catch_ups: BTreeMap::new(),
            gatherings: 0,
        }
    }

    /// A session comes: a new one, or one that goes on where it was.
    pub(crate) fn connect(&mut self, gateway: usize, user: UserId, filter: Filter, from: Option<Position>) {
        let at = self.sessions.len();
        let edge = &mut self.gateways[gateway];
        if edge.is_down {
            return;
        }
        let revision = edge.log.add_user(&user).max(edge.log.add(&Arc::new(filter.clone())));
        edge.confirmations.ask(self.now, revision, (at, filter.clone()));
        self.sessions.push(Session::new(gateway, user, filter, revision, from));
    }

    /// A session comes that wants what nobody wants yet.
    pub(crate) fn newcomer(&mut self, gateway: usize) {
        self.came += 1;
        let symbol = Symbol::new(&format!("N{}", self.came)).unwrap();
        let filter = Filter { symbols: Some([symbol].into()), ..Filter::default() };
        let edge = &mut self.gateways[gateway];
        let revision = edge.log.add(&Arc::new(filter.clone()));
        edge.confirmations.ask(self.now, revision, (NOBODY, filter));
    }

    pub(crate) fn open_session(&self, pick: u8) -> Option<usize> {
        let open: Vec<usize> = (0..self.sessions.len()).filter(|at| self.sessions[*at].open).collect();
        (!open.is_empty()).then(|| open[usize::from(pick) % open.len()])
    }

    pub(crate) fn replace(&mut self, pick: u8, wanted: u8) {
        let Some(at) = self.open_session(pick) else { return };
        if self.sessions[at].from.is_some() || self.sessions[at].catching.is_some() {
            return;
        }
        let filter = filter(wanted);
        let edge = &mut self.gateways[self.sessions[at].gateway];
        let session = &mut self.sessions[at];
        session.asked = session.asked.max(edge.log.add(&Arc::new(filter.clone())));
        edge.confirmations.ask(self.now, session.asked, (at, filter.clone()));
        session.wanted.push(filter);
    }

    pub(crate) fn disconnect(&mut self, pick: u8) {
        if let Some(at) = self.open_session(pick) {
            self.end_session(at);
        }
    }

    pub(crate) fn end_session(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        let edge = &mut self.gateways[session.gateway];
        edge.log.remove_user(self.now, session.user.clone());
        let confirmed = session.promise.as_ref().map(|promise| promise.filter.clone());
        for filter in session.wanted.iter().cloned().chain(confirmed) {
            edge.log.remove(self.now, Arc::new(filter));
        }
        if let Some((gathering, _)) = session.catching {
            edge.catch_ups.remove(&gathering);
        }
        session.leave();
    }

    pub(crate) fn restart_gateway(&mut self, number: usize) {
        self.stop_gateway(number);
        self.start_gateway(number);
    }

    pub(crate) fn stop_gateway(&mut self, number: usize) {
        self.gateways[number].is_down = true;
        self.gateways[number].catch_ups.clear();
        for session in self.sessions.iter_mut().filter(|session| session.gateway == number && session.open) {
            session.leave();
        }
    }

    pub(crate) fn start_gateway(&mut self, number: usize) {
        let node = self.born("gw", number);
        self.view.members[number].node = node.clone();
        self.view.version += 1;
        self.gateways[number] = self.new_gateway(node);
    }

    pub(crate) fn turn_gateway(&mut self, number: usize) {
        let edge = &mut self.gateways[number];
        if edge.is_down {
            return;
        }
        if let Some(delta) = edge.log.cut(self.now) {
            for router in 0..NODES {
                self.network.send(self.now, &Message::Delta(router, delta.clone()));
            }
        }
        let mut steps = Vec::new();
        edge.coverage.expire(self.now, &mut steps);
        self.take_steps(number, steps);
        self.ask(number);
        self.catch_up(number);
        let next = self.gateways[number].next_turn();
        assert!(next.is_none_or(|at| at > self.now), "due at {next:?}, and still at {:?}", self.now);
    }

    /// What a gateway does with steps, and the confirmations that follow from them.
    pub(crate) fn take_steps(&mut self, number: usize, steps: Vec<Step<Arc<Event>>>) {
        let open = |session: &&mut Session| session.gateway == number && session.open;
        for step in steps {
            for session in self.sessions.iter_mut().filter(open) {
                let Some(promise) = &mut session.promise else { continue };
                match &step {
                    Step::Adopt { partition, at } => {
                        let end = promise.end[usize::from(partition.0)];
                        assert_eq!(*at, end, "what was promised goes on where it was, or with the life of the stream");
                    }
                    Step::Apply { partition, from, upto, events } => {
                        promise.give(&session.user, *partition, *from, *upto, events);
                    }
                    Step::Gap { partition, from, upto, reason } => promise.miss(*partition, *from, *upto, *reason),
                    Step::Reset { life, .. } => {
                        let beginning = vec![life.before; usize::from(PARTITIONS)];
                        let next = Promise::new(promise.filter.clone(), life.incarnation, beginning);
                        session.past.push(std::mem::replace(promise, next));
                        session.catching = None;
                    }
                }
            }
            if matches!(step, Step::Reset { .. }) {
                self.gateways[number].catch_ups.clear();
            }
        }
        let edge = &mut self.gateways[number];
        edge.told = edge.coverage.lowest_revision();
        for (at, filter) in edge.confirmations.take(self.now, &mut edge.coverage) {
            let position = edge.coverage.position().expect("nothing is confirmed before coverage is complete");
            let Some(session) = self.sessions.get_mut(at) else {
                edge.log.remove(self.now, Arc::new(filter));
                continue;
            };
            if !session.open {
                continue;
            }
            session.wanted.remove(0);
            let start = catch_up::begin(self.now, &self.limits, edge, at, session, &filter, &position);
            let promise = Promise::new(filter, position.incarnation, start);
            if let Some(former) = session.promise.replace(promise) {
                edge.log.remove(self.now, Arc::new(former.filter.clone()));
                session.past.push(former);
            }
        }
    }
}
