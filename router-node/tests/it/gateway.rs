//! A gateway as routers see it: it sends its interest and tracks its coverage.

use crate::cluster::{SOON, TestRouter, config, connect};
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::coverage::{Ask, Coverage, CoverageEvent, GapReason, RepairLimits};
use tickwire_core::event::Event;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Millis, NodeRef, Partition, Revision, Seq, UserId};
use tickwire_core::interest::InterestBeat;
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::Role;
use tickwire_core::replay::{Purpose, ReplayAnswer, ReplayInterest, ReplayPart, ReplayRequest};
use tickwire_core::wire;
use tickwire_node::clock::Clock;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::shutdown::{Outcome, Shutdown};
use tickwire_node::start::Node;
use tickwire_testkit::{NatsServer, eventually};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::interval;
use tokio_util::sync::DropGuard;

/// What the gateway has received.
pub(crate) struct GatewayState {
    pub(crate) log: InterestLog,
    pub(crate) coverage: Coverage<Event>,
    reached: GatewayCoverage,
    pub(crate) events: Vec<(Partition, Seq, Event)>,
    pub(crate) gaps: Vec<(Partition, Seq, Seq, GapReason)>,
    pub(crate) resets: usize,
    /// The events in all sections, also those that the coverage knew already.
    pub(crate) received: usize,
    /// The gaps that replays have closed.
    pub(crate) repaired: usize,
    /// Whether batches still get lost on their way.
    pub(crate) drops_batches: bool,
    /// Interests of more entries than this are named in replay requests, not carried.
    pub(crate) carried: usize,
    /// Whether beats report its coverage.
    pub(crate) reports_coverage: bool,
    /// Whether deltas are sent; if not, routers have to request snapshots.
    pub(crate) sends_deltas: bool,
    position: BTreeMap<Partition, Seq>,
}

pub(crate) struct Gateway {
    pub(crate) state: Arc<Mutex<GatewayState>>,
    pub(crate) me: NodeRef,
    clock: Clock,
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
        let shutdown = Shutdown::new();
        let node = Node::start(&config(server, name), Role::Gateway, &shutdown).await.unwrap();
        let (me, nats, clock) = (node.me.clone(), node.nats.clone(), Clock::start());
        let view = node.membership.view();
        let limits = RepairLimits {
            grace: 200,
            hold_bytes: 1 << 26,
            replays: 8,
            replay_timeout: 2_000,
            give_up_after: 10_000,
            replay_range: 1_000_000,
        };
        let first_view = view.borrow().as_ref().clone();
        let state = Arc::new(Mutex::new(GatewayState {
            log: InterestLog::new(me.clone(), first_view, 100, Bounds::default()),
            coverage: Coverage::new(32, limits),
            reached: GatewayCoverage::default(),
            events: Vec::new(),
            gaps: Vec::new(),
            resets: 0,
            received: 0,
            repaired: 0,
            drops_batches: false,
            carried: 64,
            reports_coverage: true,
            sends_deltas: true,
            position: BTreeMap::new(),
        }));
        let nonce = me.nonce.to_string();
        let batches = nats.client.subscribe(names::gateway(me.id.as_str(), &nonce)).await.unwrap();
        let asked = nats.client.subscribe(names::snapshot(me.id.as_str(), &nonce)).await.unwrap();
        let answers = nats.client.subscribe(names::replayed_all(me.id.as_str(), &nonce)).await.unwrap();
        nats.check().await.unwrap();

        let (shared, own, drain) = (Arc::clone(&state), me.clone(), shutdown.drain().clone());
        let work = async move {
            let (mut batches, mut asked, mut answers, mut view) = (batches, asked, answers, view);
            let (mut beats, mut turns) = (interval(Duration::from_millis(100)), interval(Duration::from_millis(5)));
            loop {
                tokio::select! {
                    () = drain.cancelled() => return,
                    Some(message) = batches.next() => {
                        let batch: Batch<Bytes> = wire::decode(&message.payload).unwrap();
                        shared.lock().unwrap().offer(clock.now(), batch);
                    }
                    Some(message) = answers.next() => shared.lock().unwrap().answer(clock.now(), &message),
                    Some(request) = asked.next() => {
                        let parts = {
                            let state = shared.lock().unwrap();
                            state.log.sent().parts(&own, state.log.revision(), 300)
                        };
                        for part in parts {
                            publish(&nats, request.reply.clone().unwrap().to_string(), &part).await;
                        }
                    }
                    Ok(()) = view.changed() => {
                        let view = view.borrow_and_update().as_ref().clone();
                        shared.lock().unwrap().log.set_view(view);
                    }
                    _ = beats.tick() => {
                        let beat = {
                            let state = shared.lock().unwrap();
                            let revision = state.log.revision();
                            let reached = state.reports_coverage.then_some(state.reached);
                            InterestBeat { gateway: own.clone(), revision, reached }
                        };
                        publish(&nats, names::GATEWAY_BEAT.into(), &beat).await;
                    }
                    _ = turns.tick() => {
                        let (asks, delta) = {
                            let mut state = shared.lock().unwrap();
                            let asks = state.turn(&own, clock.now());
                            let delta = state.log.cut(clock.now());
                            (asks, delta.filter(|_| state.sends_deltas))
                        };
                        for (ask, request) in asks {
                            let reply = names::replayed(own.id.as_str(), &own.nonce.to_string(), ask.number);
                            let request = wire::encode(&request).unwrap().into();
                            nats.client.publish_with_reply(names::REPLAY, reply, request).await.unwrap();
                        }
                        if let Some(delta) = delta {
                            publish(&nats, names::INTEREST.into(), &delta).await;
                        }
                    }
                }
            }
        };
        shutdown.spawn_infallible("gateway", work);
        let (own, runtime) = (shutdown.clone(), Handle::current());
        let end = tokio::task::spawn_blocking(move || runtime.block_on(node.run(&own)).unwrap());
        let _end = [shutdown.drain().clone().drop_guard(), shutdown.force().clone().drop_guard()];
        Self { state, me, clock, shutdown, _end, end }
    }

    /// Adds a filter, and waits until every partition's coverage includes it, as a confirmation does.
    pub(crate) async fn subscribe(&self, filter: &Filter) {
        let revision = self.state.lock().unwrap().log.add(&Arc::new(filter.clone()));
        self.confirmed(revision).await;
    }

    /// Adds a user, in the same way.
    pub(crate) async fn seat(&self, user: &str) {
        let revision = self.state.lock().unwrap().log.add_user(&UserId::new(user).unwrap());
        self.confirmed(revision).await;
    }

    async fn confirmed(&self, revision: Revision) {
        eventually("coverage of every partition with the new interest", SOON, async || {
            let mut state = self.state.lock().unwrap();
            let confirmed = state.coverage.is_complete() && state.coverage.lowest_revision() >= revision;
            confirmed.then(|| state.coverage.require(revision))
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
            let position = state.coverage.position()?;
            position.seqs.iter().all(|seq| seq.0 > last).then_some(())
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

    pub(crate) fn unsubscribe(&self, filter: Filter) {
        self.state.lock().unwrap().log.remove(self.clock.now(), Arc::new(filter));
    }

    pub(crate) async fn stop(self) {
        self.shutdown.drain().cancel();
        assert_eq!(self.end.await.unwrap(), Outcome::Drained);
    }
}

impl GatewayState {
    fn offer(&mut self, now: Millis, batch: Batch<Bytes>) {
        if self.drops_batches {
            return;
        }
        let mut coverage_events = Vec::new();
        let epoch = batch.epoch();
        for section in batch.sections {
            let section = decode(section);
            self.received += section.events.len();
            self.coverage.offer(now, epoch, section, &mut coverage_events);
        }
        self.take(coverage_events);
    }

    fn answer(&mut self, now: Millis, message: &async_nats::Message) {
        let (mut coverage_events, ask) = (Vec::new(), names::parse_replayed(&message.subject).unwrap());
        if message.status.is_some() {
            self.coverage.refused(now, ask, &mut coverage_events);
        } else {
            let ReplayAnswer { router, epoch_id, part, last } = wire::decode(&message.payload).unwrap();
            let part = match part {
                ReplayPart::Events(section) => ReplayPart::Events(decode(section)),
                ReplayPart::Removed { partition, from, through, damaged } => {
                    ReplayPart::Removed { partition, from, through, damaged }
                }
                ReplayPart::Refused(refusal) => ReplayPart::Refused(refusal),
            };
            let answer = ReplayAnswer { router, epoch_id, part, last };
            self.coverage.answer(now, ask, answer, &mut coverage_events);
        }
        self.take(coverage_events);
    }

    /// Handles the time. Returns the replay requests to send.
    fn turn(&mut self, me: &NodeRef, now: Millis) -> Vec<(Ask, ReplayRequest)> {
        let mut coverage_events = Vec::new();
        self.coverage.expire(now, &mut coverage_events);
        let asks = self.coverage.asks(now, self.log.revision(), &mut coverage_events);
        self.repaired += self.coverage.repaired().count();
        self.take(coverage_events);
        let request = |ask: Ask| ReplayRequest {
            gateway: me.clone(),
            partition: ask.partition,
            from: ask.from,
            to: ask.to,
            epoch_id: ask.epoch_id,
            interest: ReplayInterest::of(me, self.log.revision(), self.log.sent(), self.carried),
            purpose: Purpose::Repair,
        };
        asks.into_iter().map(|ask| (ask, request(ask))).collect()
    }

    fn take(&mut self, coverage_events: Vec<CoverageEvent<Event>>) {
        for coverage_event in coverage_events {
            self.reached.see(&coverage_event, |event| event.stored);
            match coverage_event {
                CoverageEvent::Adopt { partition, at } => {
                    self.position.insert(partition, at);
                }
                CoverageEvent::Apply { partition, from, through, events } => {
                    assert_eq!(self.position.insert(partition, through), Some(from), "ranges are contiguous");
                    self.events.extend(events.into_iter().map(|(seq, event)| (partition, seq, event)));
                }
                CoverageEvent::Gap { partition, from, through, reason } => {
                    assert_eq!(self.position.insert(partition, through), Some(from), "ranges are contiguous");
                    self.gaps.push((partition, from, through, reason));
                }
                CoverageEvent::Reset { former, .. } => {
                    self.position.clear();
                    self.resets += usize::from(former.is_some());
                }
            }
        }
    }
}

fn decode(section: Section<Bytes>) -> Section<Event> {
    let Section { partition, revision, prev, through, events } = section;
    let events = events.iter().map(|(seq, bytes)| (*seq, rmp_serde::from_slice(bytes).unwrap())).collect();
    Section { partition, revision, prev, through, events }
}

async fn publish<T: serde::Serialize>(nats: &Nats, subject: String, message: &T) {
    nats.client.publish(subject, wire::encode(message).unwrap().into()).await.unwrap();
}
