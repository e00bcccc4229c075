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

use crate::byte_queue::Receiver;
use crate::messages::ToEdge;

/// How many requests are taken in one turn.
const TURN_REQUESTS: usize = 16;

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
        requests: Receiver<ToEdge>,
        view: watch::Receiver<Arc<View>>,
    ) -> Result<Self, LinkError> {
        let (id, nonce) = (gateway.id.as_str(), gateway.nonce.to_string());
        let batches = nats.link.subscribe("batches", &names::gateway(id, &nonce), None, BATCH_BYTES)?;
        let answers = nats.link.subscribe("replay_answers", &names::replayed_all(id, &nonce), None, ANSWER_BYTES)?;
        Ok(Self {
            floods: FloodableInputs { batches, answers, requests, turn: 0 },
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
    requests: Receiver<ToEdge>,
    /// The number of the input whose turn it is.
    turn: usize,
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
    /// Waits for the next input. If several are ready, the one that has waited longest for its turn is taken.
    /// Cancel safe: nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self, requests: &mut Vec<ToEdge>) -> FloodableInput {
        let Self { batches, answers, requests: asked, turn } = self;
        let (mut batch, mut answer) = (pin!(batches.next()), pin!(answers.next()));
        let mut taken = pin!(asked.take(requests, TURN_REQUESTS));
        let next = std::future::poll_fn(|cx| {
            in_turn(*turn, |which| match which {
                0 => batch.as_mut().poll(cx).map(FloodableInput::Batch),
                1 => taken.as_mut().poll(cx).map(FloodableInput::Requests),
                _ => answer.as_mut().poll(cx).map(FloodableInput::Answer),
            })
        });
        let (served, flood) = next.await;
        *turn = served + 1;
        flood
    }
}

/// How many inputs take turns.
const ALL: usize = 3;

/// Asks each input in turn, starting with number `turn`, until one is ready.
fn in_turn<T>(turn: usize, mut ask: impl FnMut(usize) -> Poll<T>) -> Poll<(usize, T)> {
    for which in (turn..turn + ALL).map(|which| which % ALL) {
        if let Poll::Ready(found) = ask(which) {
            return Poll::Ready((which, found));
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which inputs are served in `turns` turns if those in `ready` always have something.
    fn served(ready: [bool; ALL], turns: usize) -> Vec<usize> {
        let mut turn = 0;
        let mut served = Vec::new();
        for _ in 0..turns {
            let polled = in_turn(turn, |which| if ready[which] { Poll::Ready(()) } else { Poll::Pending });
            if let Poll::Ready((which, ())) = polled {
                served.push(which);
                turn = which + 1;
            }
        }
        served
    }

    #[test]
    fn inputs_are_served_in_turn_and_empty_ones_are_skipped() {
        assert_eq!(served([true; 3], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(served([true, false, true], 4), [0, 2, 0, 2]);
        assert_eq!(served([false, true, false], 3), [1, 1, 1]);
        assert_eq!(served([false; 3], 3), [0; 0]);
    }
}
