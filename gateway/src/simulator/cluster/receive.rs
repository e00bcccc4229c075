//! What a message does when it has arrived.

use super::*;

impl SimCluster {
    pub(in super::super) fn receive(&mut self, message: SimMessage) {
        trace::line(|| trace::message(&message));
        if self.waits(&message) {
            return;
        }
        match message {
            SimMessage::Delta(to, _)
            | SimMessage::Beat(to, _)
            | SimMessage::Snapshot(to, _)
            | SimMessage::LeaseAnswer(to, ..)
            | SimMessage::Ask(to, ..)
                if self.routers[to].is_down => {}
            // It has unsubscribed.
            SimMessage::Ask(to, ..) if self.routers[to].drains_until.is_some() => {}
            SimMessage::Ask(to, ask, request) => self.replay(to, ask, request),
            SimMessage::NoResponders(node, ask) => self.deliver(&node, |edge, now| edge.take_no_answer(now, ask)),
            SimMessage::Find(node, time) => {
                // A replica that is not there, or a stream without a leader.
                let is_silent = self.failing && self.network.random(100) < SILENT;
                let seq = (!is_silent).then(|| self.before(time));
                self.network.send_once(self.now, SimMessage::Found(node, time, seq));
            }
            SimMessage::Found(node, time, seq) => self.found(&node, time, seq),
            SimMessage::Answer(node, ask, answer) => {
                self.deliver(&node, |edge, now| edge.take_answer(now, ask, &answer))
            }
            SimMessage::Delta(to, _)
            | SimMessage::Beat(to, _)
            | SimMessage::Snapshot(to, _)
            | SimMessage::LeaseAnswer(to, ..) => {
                let now = self.now;
                self.routers[to].take(now, message);
            }
            SimMessage::AskSnapshot(node, router) => self.snapshot(&node, router),
            SimMessage::Batch(node, batch, BatchEnds { epoch_id, ends }) => self.deliver(&node, |edge, now| {
                edge.take_batch(now, &batch);
                // What came may prove nothing, but it shows what there is: that is asked for from now on, and not only
                // when the next message shows it.
                let forgotten = edge.forgotten(epoch_id, &ends);
                assert_eq!(forgotten, None, "partition that lacks something and does not ask for it: {edge:#?}");
            }),
            SimMessage::Lease(router, number, asked) => {
                let answer = self.kv.apply(asked);
                self.network.send_once(self.now, SimMessage::LeaseAnswer(router, number, answer));
            }
        }
    }
}
