//! A gateway without clients: the edge that ships, with a real nats-server. It records what the edge passes on, and
//! loses or changes messages as a test wants.

use crate::cluster::{SOON, TestRouter, config, connect};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tickwire_core::coverage::section::Batch;
use tickwire_core::coverage::{CoverageEvent, GapReason};
use tickwire_core::event::Event;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{NodeRef, Partition, Seq, UserId};
use tickwire_core::interest::InterestBeat;
use tickwire_core::placement::{Role, View};
use tickwire_core::wire;
use tickwire_gateway::decisions::{
    ByteReceiver, ByteSender, Edge, EdgeSetup, FromEdge, NatsConnection, Outgoing, SessionId, ToEdge, ToShard, channel,
};
use tickwire_gateway::delivery::Delivery;
use tickwire_node::clock::Clock;
use tickwire_node::config::Config;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::shutdown::{Outcome, Shutdown};
use tickwire_node::start::Node;
use tickwire_testkit::{NatsServer, eventually};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The user of sessions that want no user's events.
const NOBODY: &str = "nobody";

/// What the gateway has received, and what it does with messages.
#[derive(Default)]
pub(crate) struct GatewayState {
    pub(crate) events: Vec<(Partition, Seq, Event)>,
    pub(crate) gaps: Vec<(Partition, Seq, Seq, GapReason)>,
    pub(crate) resets: usize,
    /// The events in all batches, also those that the coverage knew already.
    received: usize,
    /// How many replays were requested.
    pub(crate) replays: usize,
    /// Whether batches get lost on their way.
    pub(crate) drops_batches: bool,
    /// Whether deltas get lost on their way, so that routers have to request snapshots.
    pub(crate) drops_deltas: bool,
    /// Whether beats leave out how far its coverage is.
    pub(crate) hides_coverage: bool,
    position: BTreeMap<Partition, Seq>,
    /// How many requests of each session were confirmed.
    confirmed: Vec<usize>,
}

pub(crate) struct Gateway {
    pub(crate) state: Arc<Mutex<GatewayState>>,
    pub(crate) me: NodeRef,
    view: watch::Receiver<Arc<View>>,
    requests: ByteSender<ToEdge>,
    shutdown: Shutdown,
    _end: [DropGuard; 2],
    end: JoinHandle<Outcome>,
}

/// A server, a connection to it, a router that is ready, and a gateway that is subscribed to everything.
pub(crate) async fn one_of_each() -> (NatsServer, Nats, TestRouter, Gateway) {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let router = TestRouter::start(&server, "r1").await;
    let gateway = Gateway::start(&server, "g1").await;
    router.ready().await;
    gateway.subscribe(&Filter::default()).await;
    (server, nats, router, gateway)
}

impl Gateway {
    pub(crate) async fn start(server: &NatsServer, name: &str) -> Self {
        Self::start_as(config(server, name)).await
    }

    pub(crate) async fn start_as(mut config: Config) -> Self {
        config.gateway.shrink_delay = Duration::from_millis(100);
        // Subscriptions wait for every partition, so that a test knows from where on its events are sent.
        config.gateway.confirm_timeout = SOON;
        let shutdown = Shutdown::new();
        let node = Node::start(&config, Role::Gateway, &shutdown).await.unwrap();
        let (me, nats, view) = (node.me.clone(), node.nats.clone(), node.membership.view());
        let state = Arc::new(Mutex::new(GatewayState::default()));
        let (to_shard, inbox) = channel();
        let (requests, asked) = channel();
        let partitions = u16::try_from(node.provisioned.partitions).unwrap();
        let edge = Edge::new(EdgeSetup {
            gateway: me.clone(),
            config: &config,
            partitions,
            view: view.borrow().as_ref().clone(),
            connection: connection(&nats),
            shards: vec![to_shard],
            ready: node.readiness.register("coverage"),
        });
        let (gateway, clock) = (me.clone(), Clock::start());
        let driver = EdgeDriver { edge, gateway, clock, nats, inbox, state: Arc::clone(&state) };
        let work = driver.run(&me, asked, view.clone(), shutdown.drain().clone()).await;
        shutdown.spawn_infallible("gateway", work);
        let (own, runtime) = (shutdown.clone(), Handle::current());
        let end = tokio::task::spawn_blocking(move || runtime.block_on(node.run(&own)));
        let _end = [shutdown.drain().clone().drop_guard(), shutdown.force().clone().drop_guard()];
        Self { state, me, view, requests, shutdown, _end, end }
    }

    /// Adds a session with a filter, and waits for its confirmation.
    pub(crate) async fn subscribe(&self, filter: &Filter) {
        self.join(NOBODY, vec![Arc::new(filter.clone())]).await;
    }

    /// Adds a session of a user without a filter, and waits for its confirmation.
    pub(crate) async fn connect_user(&self, user: &str) {
        self.join(user, Vec::new()).await;
    }

    async fn join(&self, user: &str, filters: Vec<Arc<Filter>>) {
        let number = {
            let mut state = self.state.lock().unwrap();
            state.confirmed.push(0);
            state.confirmed.len() - 1
        };
        let session = SessionId { shard: 0, number: number as u64 };
        assert!(self.requests.send(ToEdge::Join(session, UserId::new(user).unwrap())));
        assert!(self.requests.send(ToEdge::Add(session, filters)));
        eventually("the edge confirms both", SOON, async || {
            (self.state.lock().unwrap().confirmed[number] == 2).then_some(())
        })
        .await;
    }

    /// Waits until every partition's coverage is beyond the end of the stream, so that everything stored before was
    /// received.
    pub(crate) async fn settle(&self, nats: &Nats) {
        let mut stream = nats.jetstream.get_stream("EVENTS").await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        eventually("coverage beyond the end of the stream", SOON, async || {
            let state = self.state.lock().unwrap();
            (state.position.len() == 32 && state.position.values().all(|seq| seq.0 > last)).then_some(())
        })
        .await;
    }

    /// The ids of the events that were applied, in order of sequence.
    pub(crate) fn ids(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let mut events: Vec<_> = state.events.iter().map(|(_, seq, event)| (*seq, event.id.to_string())).collect();
        events.sort();
        events.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn gaps(&self) -> Vec<(Partition, Seq, Seq, GapReason)> {
        self.state.lock().unwrap().gaps.clone()
    }

    pub(crate) fn received(&self) -> usize {
        self.state.lock().unwrap().received
    }

    pub(crate) fn view(&self) -> View {
        self.view.borrow().as_ref().clone()
    }

    pub(crate) fn unsubscribe(&self, filter: Filter) {
        assert!(self.requests.send(ToEdge::Remove(Arc::new(filter))));
    }

    pub(crate) async fn stop(self) {
        self.shutdown.drain().cancel();
        assert_eq!(self.end.await.unwrap(), Outcome::Drained);
    }
}

/// Gives the edge its turns.
struct EdgeDriver {
    edge: Edge,
    gateway: NodeRef,
    clock: Clock,
    nats: Nats,
    inbox: ByteReceiver<ToShard>,
    state: Arc<Mutex<GatewayState>>,
}

impl EdgeDriver {
    /// Subscribes to what routers send. The returned work ends with the drain.
    async fn run(
        mut self,
        me: &NodeRef,
        mut requests: ByteReceiver<ToEdge>,
        mut view: watch::Receiver<Arc<View>>,
        drain: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let (id, nonce, client) = (me.id.as_str(), me.nonce.to_string(), self.nats.client.clone());
        let mut batches = client.subscribe(names::gateway(id, &nonce)).await.unwrap();
        let mut snapshots = client.subscribe(names::snapshot(id, &nonce)).await.unwrap();
        let mut answers = client.subscribe(names::replayed_all(id, &nonce)).await.unwrap();
        self.nats.check().await.unwrap();
        async move {
            let mut taken = Vec::new();
            loop {
                let wake = self.clock.at(self.edge.next_turn());
                tokio::select! {
                    () = drain.cancelled() => return,
                    Some(batch) = batches.next() => self.take_batch(&batch.payload),
                    Some(answer) = answers.next() => self.take_answer(&answer),
                    Some(request) = snapshots.next() => {
                        self.edge.send_snapshot(request.reply.as_deref().map(str::as_bytes));
                    }
                    Ok(()) = view.changed() => {
                        let view = Arc::clone(&view.borrow_and_update());
                        self.edge.take_view(self.clock.now(), &view);
                    }
                    _ = requests.take(&mut taken, 1) => {
                        taken.drain(..).for_each(|request| self.edge.take_request(self.clock.now(), request));
                    }
                    () = sleep_until(wake) => {
                        self.edge.set_nats_state(connection(&self.nats), None);
                        self.edge.turn(self.clock.now());
                    }
                }
                self.edge.settle(self.clock.now());
                self.record();
                for outgoing in self.edge.take_outgoing() {
                    self.send(outgoing).await;
                }
            }
        }
    }

    fn take_batch(&mut self, payload: &[u8]) {
        let mut state = self.state.lock().unwrap();
        if !state.drops_batches {
            let batch: Batch<Bytes> = wire::decode(payload).unwrap();
            state.received += batch.sections.iter().map(|section| section.events.len()).sum::<usize>();
            self.edge.take_batch(self.clock.now(), None, payload);
        }
    }

    fn take_answer(&mut self, message: &async_nats::Message) {
        let (now, ask) = (self.clock.now(), names::parse_replayed(&message.subject).unwrap());
        match message.status {
            Some(_) => self.edge.take_no_answer(now, ask),
            None => self.edge.take_answer(now, ask, &message.payload),
        }
    }

    /// Takes the messages of the edge to its shard.
    fn record(&mut self) {
        let mut messages = Vec::new();
        while self.inbox.take(&mut messages, 64).now_or_never().is_some() {
            let mut state = self.state.lock().unwrap();
            for message in messages.drain(..) {
                match message {
                    ToShard::Edge(FromEdge::CoverageEvents(shared)) => {
                        shared.events.iter().for_each(|event| state.take(event))
                    }
                    ToShard::Edge(FromEdge::Confirmed(session)) => state.confirmed[session as usize] += 1,
                    ToShard::Edge(FromEdge::Upstream(..) | FromEdge::SendAway(_)) => {}
                    other => panic!("{other:?} to a shard without clients"),
                }
            }
        }
    }

    async fn send(&self, Outgoing { subject, mut payload, ask }: Outgoing) {
        {
            let mut state = self.state.lock().unwrap();
            state.replays += usize::from(ask.is_some());
            if names::is_interest(&subject) && state.drops_deltas {
                return;
            }
            if names::is_interest_beat(&subject) && state.hides_coverage {
                let beat: InterestBeat = wire::decode(&payload).unwrap();
                payload = wire::encode(&InterestBeat { reached: None, ..beat }).unwrap();
            }
        }
        let (client, subject) = (&self.nats.client, subject.into_owned());
        match ask {
            Some(ask) => {
                let reply = names::replayed(self.gateway.id.as_str(), &self.gateway.nonce.to_string(), ask);
                client.publish_with_reply(subject, reply, payload.into()).await.unwrap();
            }
            None => client.publish(subject, payload.into()).await.unwrap(),
        }
    }
}

impl GatewayState {
    fn take(&mut self, step: &CoverageEvent<Arc<Delivery>>) {
        match step {
            CoverageEvent::Adopt { partition, at } => drop(self.position.insert(*partition, *at)),
            CoverageEvent::Apply { partition, from, through, events } => {
                assert_eq!(self.position.insert(*partition, *through), Some(*from), "ranges are contiguous");
                self.events.extend(events.iter().map(|(seq, delivery)| (*partition, *seq, delivery.event.clone())));
            }
            CoverageEvent::Gap { partition, from, through, reason } => {
                assert_eq!(self.position.insert(*partition, *through), Some(*from), "ranges are contiguous");
                self.gaps.push((*partition, *from, *through, *reason));
            }
            CoverageEvent::Reset { former, .. } => {
                self.position.clear();
                self.resets += usize::from(former.is_some());
            }
        }
    }
}

fn connection(nats: &Nats) -> NatsConnection {
    NatsConnection { is_up: nats.is_connected(), max_payload: nats.client.max_payload() }
}
