//! Replays: how gateways ask, and what routers answer, with everything that can be wrong with it.

use std::sync::Arc;

use tickwire_core::coverage::Ask;
use tickwire_core::event::Event;
use tickwire_core::ids::{NodeRef, Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::replay::{Part, Purpose, Refusal, ReplayAnswer, ReplayRequest, Reply, Sought};
use tickwire_core::ring::Homes;

use crate::catch_up::ASK_BITS;
use crate::cluster::{Cluster, NODES};
use crate::network::Message;

/// Interests of more entries than this are named, not carried.
const CARRIED: usize = 2;

/// The most messages that a router reads for one answer.
const READ: u64 = 5;

/// Of a hundred answers, how many end early when nodes fail: those of a replica that lags.
const LAGGING: u64 = 15;

impl Cluster {
    /// The gateway asks for what it misses: any router may take it.
    pub(crate) fn ask(&mut self, number: usize) {
        let mut steps = Vec::new();
        let edge = &mut self.gateways[number];
        let asks = edge.coverage.asks(self.now, edge.log.revision(), &mut steps);
        if !asks.is_empty() {
            let wanted = edge.log.sent().clone();
            asks.into_iter().for_each(|ask| self.send_ask(number, ask, &wanted));
        }
        self.take_steps(number, steps);
    }

    pub(crate) fn send_ask(&mut self, number: usize, ask: Ask, wanted: &Interest) {
        let edge = &self.gateways[number];
        let request = ReplayRequest {
            gateway: edge.node.clone(),
            partition: ask.partition,
            from: ask.from,
            to: ask.to,
            incarnation: ask.incarnation,
            interest: Sought::of(&edge.node, edge.log.revision(), wanted, CARRIED),
            purpose: Purpose::Repair,
        };
        let router = self.network.random(NODES as u64) as usize;
        self.network.send(self.now, &Message::Ask(router, ask.number, request));
    }

    pub(crate) fn replay(&mut self, number: usize, ask: u64, request: &ReplayRequest) {
        let parts = match self.read_again(number, request) {
            Ok(parts) => parts,
            Err(refusal) => vec![Part::Refused(refusal)],
        };
        let count = parts.len();
        for (at, part) in parts.into_iter().enumerate() {
            let answer = ReplayAnswer {
                router: self.routers[number].node.clone(),
                incarnation: self.life.incarnation,
                part,
                last: at + 1 == count,
            };
            let read = self.now.plus(self.reading);
            self.network.send(read, &Message::Answer(request.gateway.clone(), ask, answer));
        }
    }

    fn read_again(&mut self, number: usize, request: &ReplayRequest) -> Result<Vec<Part<Arc<Event>>>, Refusal> {
        if request.incarnation != self.life.incarnation {
            return Err(Refusal::OtherStream);
        }
        let (revision, interest) = self.sought(number, request)?;
        let end = match self.failing && self.network.random(100) < LAGGING {
            true => Seq(self.last.0.saturating_sub(self.network.random(6))),
            false => self.last,
        };
        let most = 1 + self.network.random(READ) as usize;
        let mut homes = Homes::new(Arc::new(self.routers[number].view.clone()));
        let mut reply = Reply::new(request, revision);
        let readable =
            self.readable(request.from).filter(|(partition, seq, _)| *partition == request.partition && *seq <= end);
        for (_, seq, event) in readable.take(most) {
            let wanted = interest.admits(event, &request.gateway, &mut homes);
            reply.read(*seq, wanted.then(|| event.clone()));
        }
        let upto = reply.upto();
        let holes = self.holes(number, request.from, upto);
        let parts = reply.finish(Seq(self.first.0 - 1), upto, &holes);
        // An answer of several messages, which may come in any order.
        Ok(parts.into_iter().flat_map(|part| self.network.halve(part)).collect())
    }

    /// The interest to match against. One that is older than asked for is never to be used; some router does so all
    /// the same, but it cannot lie about its revision.
    fn sought(&mut self, number: usize, request: &ReplayRequest) -> Result<(Revision, Interest), Refusal> {
        match &request.interest {
            Sought::Carried(part) => Interest::assemble(vec![part.clone()]).ok_or(Refusal::Malformed),
            Sought::Told(least) => {
                let known = self.routers[number].table.interest(&request.gateway);
                let (revision, interest) = known.ok_or(Refusal::UnknownInterest)?;
                let careless = self.failing && self.network.random(2) == 0;
                if revision < least && !careless {
                    return Err(Refusal::UnknownInterest);
                }
                Ok((*revision, Interest::clone(&interest.clone().latest())))
            }
        }
    }

    /// A message of an answer has come.
    pub(crate) fn answered(&mut self, node: &NodeRef, ask: u64, answer: ReplayAnswer<Arc<Event>>) {
        if let Some(number) = self.gateways.iter().position(|edge| edge.node == *node && !edge.is_down) {
            if ask >> ASK_BITS > 0 {
                return self.answered_past(number, ask, answer);
            }
            let mut steps = Vec::new();
            self.gateways[number].coverage.answer(self.now, ask, answer, &mut steps);
            self.take_steps(number, steps);
        }
    }
}
