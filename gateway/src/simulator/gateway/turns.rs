//! The turns of a gateway's edge and of its shards, in the order of their drivers. The types that choose the next input
//! for the drivers choose it here too.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Millis, Seq};
use tickwire_core::placement::View;
use tickwire_core::replay::ReplayAnswer;
use tickwire_core::wire;
use tickwire_node::clock::{Turns, millis};
use tickwire_node::names;

use super::super::clocks;
use super::super::network::{BatchEnds, MAX_PAYLOAD};
use super::super::socket::GatewaySocket;
use super::super::waits::Waits;
use super::{SimGateway, SimShard, Snapshot};
use crate::edge::{FloodTurns, FloodableQueue, NatsConnection, Outgoing, SEARCH_DEADLINE, TURN_REQUESTS};
use crate::messages::{ToEdge, ToShard};
use crate::shard::driver::TURN_MESSAGES;
use crate::socket::Ready;

/// The most turns that a gateway may take at one simulated time. More means that it never runs out of work.
const TURNS: usize = 10_000;

/// How many inputs the edge serves before the shards have a turn.
const EDGE_INPUTS: usize = 8;

/// How long a turn of a shard may take: the time limits for reading sockets and for backfill, each with the work that
/// exceeds its limit.
const WORK: Duration = Duration::from_millis(2);

/// How many queues of an edge can be flooded.
const FLOODABLE: usize = 3;

/// The most messages that an edge may send in a turn: a request for each replay that may be under way, and messages to
/// routers.
const SENDS: usize = 256;

/// The inputs that wait for an edge.
#[derive(Default)]
pub(in super::super) struct EdgeInputs {
    pub(in super::super) view: Option<View>,
    /// Whether the connection to NATS was lost or made, or whether routers have reported that NATS no longer stores
    /// events, or stores them again.
    pub(in super::super) is_nats_changed: bool,
    /// The routers that ask for the whole interest.
    pub(in super::super) snapshots: VecDeque<usize>,
    pub(in super::super) found: VecDeque<(Timestamp, Option<Seq>)>,
    pub(in super::super) batches: VecDeque<(Bytes, BatchEnds)>,
    /// The numbers of asks, and their answers; `None` if no router receives asks.
    pub(in super::super) answers: VecDeque<(u64, Option<Bytes>)>,
    pub(super) turns: Turns,
    flood_turns: FloodTurns,
    waits: Waits<FLOODABLE>,
}

/// An input of the edge that can be flooded.
enum FloodInput {
    Batch(Bytes, BatchEnds),
    Requests(Vec<ToEdge>),
    Answer(u64, Option<Bytes>),
}

impl FloodInput {
    /// The number of its queue.
    fn queue(&self) -> usize {
        match self {
            Self::Batch(..) => 0,
            Self::Requests(_) => 1,
            Self::Answer(..) => 2,
        }
    }
}

impl SimGateway {
    /// The simulated time of the next turn.
    pub(super) fn next_turn(&self) -> Millis {
        let shards = self.shards.iter().map(|shard| shard.turns.next(shard.shard.next_turn()));
        let edge = self.inputs.turns.next(self.edge.next_turn());
        let next = shards.chain(self.searches.values().copied()).fold(edge, Millis::min);
        Millis(next.0.saturating_sub(self.offset))
    }

    /// Gives edge and shards their turns until nothing is left to do now. Returns the messages to send.
    pub(super) fn turn(&mut self, now: Millis) -> Vec<Outgoing> {
        let (mut outgoing, now) = (Vec::new(), now.plus(self.offset));
        for _ in 0..TURNS {
            let mut is_busy = false;
            // The edge has a thread of its own, so it may serve several inputs while the shards serve one.
            for _ in 0..EDGE_INPUTS {
                let waiting = self.waiting_inputs();
                if !self.turn_edge(now) {
                    break;
                }
                is_busy = true;
                self.inputs.waits.check(waiting);
                let sends = self.edge.take_outgoing();
                assert!(sends.len() <= SENDS, "{} messages in one turn: {:#?}", sends.len(), self.edge);
                outgoing.extend(sends);
            }
            for shard in &mut self.shards {
                is_busy |= shard.turn(now, self.bounds.shard_bytes);
            }
            let held = self.edge.held_bytes();
            assert!(held <= self.bounds.hold_bytes, "{held} bytes are held: {:#?}", self.edge);
            let gone = self.edge.gone_in_cohort();
            assert_eq!(gone, None, "a cohort waits for a session that is gone: {:#?}", self.edge);
            if !is_busy {
                return outgoing;
            }
        }
        panic!("{} never runs out of work: {:#?}", self.node, self.edge);
    }

    /// Serves one input of the edge, or the clock. Returns whether there was one.
    fn turn_edge(&mut self, now: Millis) -> bool {
        for (time, _) in self.searches.extract_if(.., |_, until| *until <= now) {
            self.inputs.found.push_back((time, None));
        }
        let is_inputs = self.inputs.turns.is_inputs();
        let is_due = self.inputs.turns.next(self.edge.next_turn()) <= now;
        if let Some(view) = self.inputs.view.take() {
            self.edge.take_view(now, &view);
        } else if std::mem::take(&mut self.inputs.is_nats_changed) {
            self.update_nats_state();
            self.edge.check_upstream(now);
        } else if let Some(router) = self.inputs.snapshots.pop_front() {
            self.send_snapshot(router);
        } else if is_due && !is_inputs {
            self.update_nats_state();
            self.edge.turn(now);
            self.inputs.turns.took(now);
        } else if let Some((time, seq)) = self.inputs.found.pop_front() {
            self.edge.take_found(now, time, seq);
        } else if !self.take_flood(now) && !is_inputs {
            return false;
        }
        self.edge.settle(now);
        self.search(now);
        if let Some(begun) = self.inputs.turns.just_taken() {
            let next = self.edge.next_turn();
            assert!(next > begun, "{next:?} is still due at {begun:?}: {:#?}", self.edge);
        }
        true
    }

    /// Whether something waits in the queues that can be flooded.
    fn waiting_inputs(&self) -> [bool; FLOODABLE] {
        [!self.inputs.batches.is_empty(), self.requests.waiting() > 0, !self.inputs.answers.is_empty()]
    }

    fn update_nats_state(&mut self) {
        let connection = NatsConnection { is_up: !self.is_cut, max_payload: MAX_PAYLOAD };
        self.edge.set_nats_state(connection, self.stopped.clone());
    }

    /// Serves an input that can be flooded. Returns whether there was one.
    fn take_flood(&mut self, now: Millis) -> bool {
        let (EdgeInputs { batches, answers, flood_turns, waits, .. }, requests) =
            (&mut self.inputs, &mut self.requests);
        let next = flood_turns.poll(|flood| {
            let input = match flood {
                FloodableQueue::Batches => batches.pop_front().map(|(batch, ends)| FloodInput::Batch(batch, ends)),
                FloodableQueue::Requests => {
                    let mut taken = Vec::new();
                    requests.take(&mut taken, TURN_REQUESTS).now_or_never();
                    (!taken.is_empty()).then_some(FloodInput::Requests(taken))
                }
                FloodableQueue::Answers => answers.pop_front().map(|(ask, answer)| FloodInput::Answer(ask, answer)),
            };
            input.map_or(Poll::Pending, Poll::Ready)
        });
        let Poll::Ready(input) = next else { return false };
        waits.serve(input.queue());
        match input {
            FloodInput::Batch(batch, BatchEnds { epoch_id, ends }) => {
                self.edge.take_batch(now, None, &batch);
                // A batch may prove no coverage, but it shows that sequences exist. The gateway must cover them, or ask
                // for them from now on.
                let forgotten = self.edge.forgotten(epoch_id, &ends);
                assert_eq!(forgotten, None, "a partition lacks sequences and does not ask for them: {:#?}", self.edge);
            }
            FloodInput::Requests(requests) => {
                requests.into_iter().for_each(|request| self.edge.take_request(now, request));
            }
            FloodInput::Answer(ask, Some(answer)) => {
                self.edge.take_answer(now, ask, &answer);
                let is_complete = || wire::decode::<ReplayAnswer<Bytes>>(&answer).is_ok_and(|answer| answer.last);
                assert!(!self.edge.is_pending(ask) || !is_complete(), "a complete answer does not end its ask");
            }
            FloodInput::Answer(ask, None) => self.edge.take_no_answer(now, ask),
        }
        true
    }

    /// Sends the whole interest to a router.
    fn send_snapshot(&mut self, router: usize) {
        self.edge.send_snapshot(Some(format!("{}.{router}", names::inbox("router", "r")).as_bytes()));
        let parts = self.edge.take_outgoing().into_iter();
        let parts = parts.map(|part| wire::decode(&part.payload).unwrap()).collect();
        self.snapshots.push(Snapshot { router, parts });
    }

    /// Begins the searches for a time that the edge wants.
    fn search(&mut self, now: Millis) {
        while let Some(time) = self.edge.next_search(now) {
            self.searches.insert(time, now.plus(millis(SEARCH_DEADLINE)));
            self.new_searches.push(time);
        }
    }
}

impl SimShard {
    /// Has a turn, and checks its bounds of time and memory. At most `most` bytes may wait for it.
    fn turn(&mut self, now: Millis, most: usize) -> bool {
        let begun = clocks::work_done();
        assert!(self.inbox.waiting() <= most, "{} bytes wait for a shard", self.inbox.waiting());
        let is_busy = self.work(now);
        assert!(clocks::work_done() - begun <= WORK, "a turn takes {:?}", clocks::work_done() - begun);
        self.shard.check_bounds();
        is_busy
    }

    /// Serves the clock or the inbox, and then the sockets. Returns whether there was anything to do.
    fn work(&mut self, now: Millis) -> bool {
        let mut is_busy = self.turns.is_inputs();
        if !is_busy && self.turns.next(self.shard.next_turn()) <= now {
            self.shard.turn(now);
            self.turns.took(now);
            let next = self.shard.next_turn();
            assert!(next > now, "{next:?} is still due at {now:?}: {:#?}", self.shard);
            is_busy = true;
        } else {
            is_busy |= self.take_messages(now);
        }
        self.shard.read_sockets(now);
        self.shard.process(now);
        is_busy |= self.shard.has_backfill() || self.shard.has_commands();
        self.watched.extend(self.shard.take_to_watch());
        self.new_sockets.drain(..).for_each(|socket| socket.borrow_mut().attach());
        is_busy | self.serve_sockets(now)
    }

    /// Takes new clients, and the messages of the edge in the inbox.
    fn take_messages(&mut self, now: Millis) -> bool {
        let mut messages = Vec::new();
        self.inbox.take(&mut messages, TURN_MESSAGES).now_or_never();
        let is_busy = !messages.is_empty() || !self.arriving.is_empty();
        // Both come through one queue, in either order.
        self.arrives_first = !self.arrives_first;
        if self.arrives_first {
            self.take_new_clients(now);
        }
        for message in messages {
            match message {
                ToShard::Edge(message) => self.shard.take(now, message),
                ToShard::Arrive(_) => panic!("clients do not arrive through the inbox in the simulator"),
                ToShard::Question(_) => panic!("nobody asks about users in the simulator"),
                ToShard::Saved(user) => self.shard.saved_changed(now, &user),
                ToShard::Acked(answer) => self.shard.answer_ack(now, answer),
                ToShard::Reminders(answer) => self.shard.take_reminders(now, answer),
            }
        }
        self.take_new_clients(now);
        is_busy
    }

    fn take_new_clients(&mut self, now: Millis) {
        for (identity, socket, takes_saved) in std::mem::take(&mut self.arriving) {
            self.new_sockets.push(socket.clone());
            self.shard.arrive(
                now,
                GatewaySocket(socket),
                identity,
                [127, 0, 0, 1].into(),
                super::connection_permit(),
                takes_saved,
            );
        }
    }

    /// Polls the sockets that are watched.
    fn serve_sockets(&mut self, now: Millis) -> bool {
        let (mut is_busy, mut context) = (false, Context::from_waker(Waker::noop()));
        let shard = &mut self.shard;
        self.watched.retain(|number| {
            match shard.poll_ready(&mut context, *number) {
                Poll::Ready(None) => return false,
                Poll::Ready(Some(Ready::Readable)) => shard.readable(*number),
                Poll::Ready(Some(Ready::Writable)) => shard.writable(now, *number),
                Poll::Ready(Some(Ready::Broken)) => shard.gone(now, *number),
                Poll::Pending => return true,
            }
            is_busy = true;
            true
        });
        is_busy
    }
}
