//! The inputs of the edge. Three of them can be flooded: batches, answers to requests for replays, and requests of the
//! sessions. They take turns of bounded length, so that none blocks another for longer than one turn.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tickwire_core::ids::NodeRef;
use tickwire_core::placement::View;
use tickwire_node::link::{LinkError, LinkSubscriber, NatsMessage};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::sync::watch;

use crate::byte_queue::ByteReceiver;
use crate::messages::ToEdge;

/// How many requests are taken in one turn.
pub(crate) const TURN_REQUESTS: usize = 16;

/// How many bytes of batches and of answers may wait. A dropped batch shows as a gap, and a dropped answer is requested
/// again.
const BATCH_BYTES: usize = 64 * 1024 * 1024;
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// How many bytes of requests for snapshots may wait. A router that gets no answer asks again.
const REQUEST_BYTES: usize = 64 * 1024;

/// The inputs of the edge.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(super) floods: FloodableInputs,
    pub(super) snapshots: LinkSubscriber,
    pub(super) view: watch::Receiver<Arc<View>>,
}

impl Inputs {
    /// Subscribes to what routers send to this gateway and nonce.
    pub(crate) fn open(
        nats: &Nats,
        gateway: &NodeRef,
        requests: ByteReceiver<ToEdge>,
        view: watch::Receiver<Arc<View>>,
    ) -> Result<Self, LinkError> {
        let (id, nonce) = (gateway.id.as_str(), gateway.nonce.to_string());
        let batches = nats.link.subscribe("batches", &names::gateway(id, &nonce), None, BATCH_BYTES)?;
        let answers = nats.link.subscribe("replay_answers", &names::replayed_all(id, &nonce), None, ANSWER_BYTES)?;
        Ok(Self {
            floods: FloodableInputs { batches, answers, requests, turns: FloodTurns::default() },
            snapshots: nats.link.subscribe("snapshot_requests", &names::snapshot(id, &nonce), None, REQUEST_BYTES)?,
            view,
        })
    }
}

/// The inputs that can be flooded.
#[derive(Debug)]
pub(super) struct FloodableInputs {
    batches: LinkSubscriber,
    answers: LinkSubscriber,
    requests: ByteReceiver<ToEdge>,
    turns: FloodTurns,
}

/// One input.
#[derive(Debug)]
pub(super) enum FloodableInput {
    /// A batch from a router; `None` if the subscription has ended.
    Batch(Option<NatsMessage>),
    /// An answer from a router; `None` if the subscription has ended.
    Answer(Option<NatsMessage>),
    /// The number of requests that were added to the caller's list; 0 if all shards have ended.
    Requests(usize),
}

impl FloodableInputs {
    /// Waits for the next input. Cancel safe: nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self, requests: &mut Vec<ToEdge>) -> FloodableInput {
        let Self { batches, answers, requests: asked, turns } = self;
        let (mut batch, mut answer) = (pin!(batches.next()), pin!(answers.next()));
        let mut taken = pin!(asked.take(requests, TURN_REQUESTS));
        let next = std::future::poll_fn(|cx| {
            turns.poll(|input| match input {
                FloodableQueue::Batches => batch.as_mut().poll(cx).map(FloodableInput::Batch),
                FloodableQueue::Requests => taken.as_mut().poll(cx).map(FloodableInput::Requests),
                FloodableQueue::Answers => answer.as_mut().poll(cx).map(FloodableInput::Answer),
            })
        });
        next.await
    }
}

/// The kinds of inputs that can be flooded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloodableQueue {
    Batches,
    Requests,
    Answers,
}

/// Whose turn it is among the inputs that can be flooded: if several are ready, the one that has waited longest.
#[derive(Debug, Default)]
pub(crate) struct FloodTurns {
    next: usize,
}

impl FloodTurns {
    const ORDER: [FloodableQueue; 3] = [FloodableQueue::Batches, FloodableQueue::Requests, FloodableQueue::Answers];

    /// Polls each input in turn until one is ready.
    pub(crate) fn poll<T>(&mut self, mut poll: impl FnMut(FloodableQueue) -> Poll<T>) -> Poll<T> {
        let all = Self::ORDER.len();
        for number in (self.next..self.next + all).map(|number| number % all) {
            if let Poll::Ready(input) = poll(Self::ORDER[number]) {
                self.next = number + 1;
                return Poll::Ready(input);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::FloodableQueue::{Answers, Batches, Requests};
    use super::*;

    /// Which inputs are served in `turns` turns if those in `ready` always have something.
    fn served(ready: &[FloodableQueue], turns: usize) -> Vec<FloodableQueue> {
        let mut order = FloodTurns::default();
        let ask = |input| if ready.contains(&input) { Poll::Ready(input) } else { Poll::Pending };
        let polled = (0..turns).map(|_| order.poll(ask));
        polled.filter_map(|polled| if let Poll::Ready(input) = polled { Some(input) } else { None }).collect()
    }

    #[test]
    fn inputs_are_served_in_turn_and_empty_ones_are_skipped() {
        let all = [Batches, Requests, Answers];
        assert_eq!(served(&all, 6), [all, all].concat());
        assert_eq!(served(&[Batches, Answers], 4), [Batches, Answers, Batches, Answers]);
        assert_eq!(served(&[Requests], 3), [Requests; 3]);
        assert_eq!(served(&[], 3), []);
    }
}
