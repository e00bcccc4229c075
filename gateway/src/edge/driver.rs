//! The task of the edge: waits for inputs, lets the edge decide, and sends its messages.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use async_nats::subject::Subject;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_node::clock::{Clock, Turns, monotonic_at};
use tickwire_node::link::{NatsMessage, Status};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::storage::Stopped;
use tickwire_node::traces::Traces;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::horizon::look;
use super::inputs::{FloodableInput, Inputs};
use super::status::STATUS_MS;
use super::{Edge, EdgeStatus, NatsConnection, Outgoing, StreamSight};
use crate::backfill::bisection::{Finder, find};
use crate::metrics;
use crate::traced::BatchTraces;

/// How long a message to NATS may wait for space in the send buffer while the connection is down.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a request for a replay may wait. It is repeated anyway, so a longer wait gains nothing.
const ASK_TIMEOUT: Duration = Duration::from_millis(50);

/// The task of the edge.
#[derive(Debug)]
pub(crate) struct Driver {
    edge: Edge,
    answers: AnswerSubjects,
    nats: Nats,
    /// The stream of events.
    stream: String,
    stopped: watch::Receiver<Stopped>,
    traces: Traces,
    clock: Clock,
    finder: Finder,
    /// The look at the stream that is under way.
    looks: FuturesUnordered<BoxFuture<'static, Option<StreamSight>>>,
    status: watch::Sender<EdgeStatus>,
    /// When the status is published next.
    status_at: Millis,
}

impl Driver {
    /// A task for this edge, which searches for times in this stream. `stopped` is why NATS does not store events.
    pub(crate) fn new(
        edge: Edge,
        nats: Nats,
        stream: String,
        stopped: watch::Receiver<Stopped>,
        traces: Traces,
    ) -> Self {
        let (clock, finder, status) = (Clock::start(), Finder::default(), watch::Sender::default());
        let looks = FuturesUnordered::new();
        let answers = AnswerSubjects { gateway: edge.gateway.clone(), mask: rand::random() };
        Self { edge, answers, nats, stream, stopped, traces, clock, finder, looks, status, status_at: Millis(0) }
    }

    /// The status of the edge.
    pub(crate) fn status(&self) -> watch::Receiver<EdgeStatus> {
        self.status.subscribe()
    }

    /// Runs until `stop` is cancelled, or until all shards or a subscription to NATS have ended.
    pub(crate) async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) -> Result<(), EdgeError> {
        let (mut connected, mut stopped) = (self.nats.connected(), self.stopped.clone());
        let mut turns = Turns::default();
        let mut requests = Vec::new();
        // Before any section: what is seen now bounds what is believed.
        let sight = look(self.nats.clone(), self.stream.clone()).await;
        self.edge.take_look(self.now(), sight);
        loop {
            let wake = self.clock.at(turns.next(self.edge.next_turn()));
            // After each turn of the clock all waiting inputs are read once, even if another turn is due.
            let is_inputs = turns.is_inputs();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                // Rare inputs and the clock come first, so that no flood delays them.
                Ok(()) = inputs.view.changed() => {
                    let view = Arc::clone(&inputs.view.borrow_and_update());
                    self.edge.take_view(self.now(), &view);
                }
                Ok(()) = connected.changed() => self.check_upstream(),
                Ok(()) = stopped.changed() => self.check_upstream(),
                asked = inputs.snapshots.next() => match asked {
                    Some(message) => self.edge.send_snapshot(message.reply()),
                    None => return Err(EdgeError::SubscriptionEnded),
                },
                () = sleep_until(wake), if !is_inputs => {
                    let begun = self.now();
                    self.update_standing();
                    self.edge.turn(begun);
                    self.publish_status(begun);
                    turns.took(begun);
                }
                Some(sight) = self.looks.next() => self.edge.take_look(self.now(), sight),
                Some((time, seq)) = self.finder.next() => self.edge.take_found(self.now(), time, seq),
                flood = inputs.floods.next(&mut requests) => match flood {
                    FloodableInput::Batch(Some(message)) => {
                        let traces = BatchTraces::read(&self.traces, &message);
                        let arrived = Some(monotonic_at(message.arrived()));
                        self.edge.take_traced_batch(self.now(), arrived, message.payload(), &traces);
                    }
                    FloodableInput::Answer(Some(message)) => self.take_answer(&message),
                    FloodableInput::Batch(None) | FloodableInput::Answer(None) => {
                        return Err(EdgeError::SubscriptionEnded);
                    }
                    FloodableInput::Requests(0) => return Ok(()),
                    FloodableInput::Requests(_) => {
                        let now = self.now();
                        requests.drain(..).for_each(|request| self.edge.take_request(now, request));
                    }
                },
                () = ready(()), if is_inputs => {}
            }
            self.edge.settle(self.now());
            self.send().await;
            self.search();
            if self.edge.begin_look(self.now()) {
                self.looks.push(Box::pin(look(self.nats.clone(), self.stream.clone())));
            }
            if turns.just_taken().is_some_and(|begun| self.edge.next_turn() <= begun) {
                metrics::OVERDUE_TURNS.increment(1);
                debug!("deadline still due after a turn");
            }
        }
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Passes the state of NATS to the edge.
    fn update_standing(&mut self) {
        self.edge.set_nats_state(NatsConnection::of(&self.nats), self.stopped.borrow().clone());
    }

    /// Publishes the status, if it is time. The beats make sure that there is a turn.
    fn publish_status(&mut self, now: Millis) {
        if self.status_at <= now {
            self.status_at = now.plus(STATUS_MS);
            self.status.send_replace(self.edge.status(now));
        }
    }

    fn check_upstream(&mut self) {
        self.update_standing();
        self.edge.check_upstream(self.now());
    }

    fn take_answer(&mut self, message: &NatsMessage) {
        let Some(ask) = self.answers.read(&message.subject_text()) else { return };
        let now = self.now();
        if message.status().is_some_and(|status| status.code == Status::NO_RESPONDERS) {
            self.edge.take_no_answer(now, ask);
        } else {
            self.edge.take_answer(now, ask, message.payload());
        }
    }

    async fn send(&mut self) {
        for Outgoing { subject, payload, ask } in self.edge.take_outgoing() {
            // Without a connection the request would be sent late, in a burst with all others.
            if let Some(ask) = ask
                && !self.nats.is_connected()
            {
                self.edge.unsent(self.now(), ask);
                continue;
            }
            let subject = Subject::from(subject.into_owned());
            let client = &self.nats.client;
            let published = match ask {
                Some(ask) => {
                    let publish = client.publish_with_reply(subject, self.answers.of(ask), payload.into());
                    timeout(ASK_TIMEOUT, publish).await
                }
                None => timeout(PUBLISH_TIMEOUT, client.publish(subject, payload.into())).await,
            };
            match (matches!(published, Ok(Ok(()))), ask) {
                (true, Some(ask)) => Edge::sent(ask),
                (true, None) => {}
                (false, Some(ask)) => self.edge.unsent(self.now(), ask),
                (false, None) => {
                    metrics::UNSENT_MESSAGES.with("no_room").increment(1);
                    debug!("send buffer full, message to routers dropped; the next beat repairs it");
                }
            }
        }
    }

    /// Starts the searches that the edge wants.
    fn search(&mut self) {
        while let Some(time) = self.edge.next_search(self.now()) {
            self.finder.begin(time, find(self.nats.clone(), self.stream.clone(), time));
        }
    }
}

/// The subjects of the answers to asks.
///
/// Whoever may ask routers can ask in the name of this gateway, and the router answers this gateway: with too little, if
/// the request wants too little. So nobody but the asked router may know the number of an ask. The numbers are masked
/// with a random one.
#[derive(Debug)]
struct AnswerSubjects {
    gateway: NodeRef,
    mask: u64,
}

impl AnswerSubjects {
    /// The subject of the answers to an ask.
    fn of(&self, ask: u64) -> String {
        names::replayed(self.gateway.id.as_str(), &self.gateway.nonce.to_string(), ask ^ self.mask)
    }

    /// The ask that is answered on a subject.
    fn read(&self, subject: &str) -> Option<u64> {
        names::parse_replayed(subject).map(|number| number ^ self.mask)
    }
}

impl NatsConnection {
    /// Its state at this moment.
    pub(crate) fn of(nats: &Nats) -> Self {
        Self { is_up: nats.is_connected(), max_payload: nats.client.max_payload() }
    }
}

/// Why the edge cannot continue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EdgeError {
    #[error("a subscription of the edge to NATS has ended")]
    SubscriptionEnded,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};

    #[test]
    fn answer_belongs_to_its_ask_and_to_no_number_that_others_could_guess() {
        let gateway = NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) };
        let answers = AnswerSubjects { gateway, mask: 0x0123_4567_89ab_cdef };
        for ask in [1, 2, 1 << 32, (7 << 32) + 1, u64::MAX] {
            assert_eq!(answers.read(&answers.of(ask)), Some(ask));
            let guessed = names::replayed("g", &Nonce(1).to_string(), ask);
            assert_ne!(answers.read(&guessed), Some(ask));
        }
        assert_eq!(answers.read("tw.replayed.g.1.x"), None);
    }
}
