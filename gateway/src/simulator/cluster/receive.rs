//! Delivers the messages of the network that have arrived.

use super::*;

impl SimCluster {
    pub(in super::super) fn receive(&mut self, message: SimMessage) {
        trace::line(|| trace::message(&message));
        match message {
            SimMessage::Delta(to, _)
            | SimMessage::Beat(to, _)
            | SimMessage::Snapshot(to, _)
            | SimMessage::LeaseAnswer(to, ..)
            | SimMessage::Ask(to, ..)
                if self.routers[to].is_frozen || !self.routers[to].is_reachable() =>
            {
                if self.routers[to].is_reachable() {
                    self.routers[to].waiting.push(message);
                }
            }
            // A router that drains has unsubscribed from asks.
            SimMessage::Ask(to, ..) if self.routers[to].drains_until.is_some() => {}
            SimMessage::Ask(to, ask, request) => self.enqueue_replay(to, ask, request),
            SimMessage::NoResponders(node, ask) => self.deliver(&node, |inputs| inputs.answers.push_back((ask, None))),
            SimMessage::Find(node, time) => {
                // A replica is down, or the stream has no leader.
                let is_silent = self.failing && self.network.random(100) < UNANSWERED_SEARCHES;
                let seq = (!is_silent).then(|| self.last_before(time));
                self.network.send_once(self.now, SimMessage::Found(node, time, seq));
            }
            SimMessage::Found(node, time, seq) => self.receive_found(&node, time, seq),
            SimMessage::Answer(node, ask, answer) => {
                self.deliver(&node, |inputs| inputs.answers.push_back((ask, Some(answer))));
            }
            SimMessage::Delta(to, _)
            | SimMessage::Beat(to, _)
            | SimMessage::Snapshot(to, _)
            | SimMessage::LeaseAnswer(to, ..) => {
                let now = self.now;
                self.routers[to].receive(now, message);
            }
            SimMessage::AskSnapshot(node, router) => self.deliver(&node, |inputs| inputs.snapshots.push_back(router)),
            SimMessage::Batch(node, batch, ends) => {
                self.deliver(&node, |inputs| inputs.batches.push_back((batch, ends)))
            }
            SimMessage::Lease(router, number, request) => {
                let answer = self.kv.apply(request);
                self.network.send_once(self.now, SimMessage::LeaseAnswer(router, number, answer));
            }
        }
    }
}
