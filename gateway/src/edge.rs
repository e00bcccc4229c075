//! The edge: the one owner of what this gateway was given and of what it wants. It takes batches in, hands steps to
//! the shards, tells the routers what the sessions want, asks again for what is missing, and confirms.
//!
//! What it decides stands in `tickwire_core`: coverage, interest, confirmations. Here is the waiting and the sending:
//! `inputs` take turns; `sections` come in, `outlet` is the way to a shard, `interest` and requests for a `replay` go out. `past` is the same for sessions that catch up, who
//! are gathered by `catch_ups`; `find` tells where in the stream a time stands. `rebalance` sends sessions to gateways
//! that have joined, `upstream` says when clients are told that NATS is away, or does not store.

mod catch_ups;
mod find;
mod inputs;
mod interest;
mod outlet;
mod past;
mod rebalance;
mod replay;
mod searches;
mod sections;
mod upstream;

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, describe_gauge, describe_histogram, gauge, histogram};
use tickwire_core::confirm::Confirmations;
use tickwire_core::coverage::{Coverage, Limits, Step};
use tickwire_core::ids::{Millis, NodeRef, Revision, UserId};
use tickwire_core::interest_log::{Bounds, InterestLog};
use tickwire_core::reached::Reached;
use tickwire_core::ring::View;
use tickwire_core::wire;
use tickwire_node::admin::Check;
use tickwire_node::clock::{Clock, Turns, millis};
use tickwire_node::config::{Config, GatewayConfig};
use tickwire_node::declare_counter;
use tickwire_node::nats::Nats;
use tickwire_node::start::Node;
use tickwire_node::storage::Stopped;
use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::delivery::Delivery;
use crate::edge::catch_ups::CatchUps;
use crate::edge::inputs::Flood;
use crate::edge::outlet::Outlet;
use crate::edge::rebalance::Rebalance;
use crate::edge::searches::Searches;
use crate::edge::upstream::{Outage, Upstream};
use crate::messages::{SessionId, Steps, ToEdge, ToShard};
use crate::weighed::Sender;

pub(crate) use crate::edge::inputs::Inputs;

/// How long a message to NATS may wait for room while the connection is down.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(100);

/// How much longer than `gateway.confirm_timeout` a confirmation waits for what it would outdate, in milliseconds. Answers to
/// replays come within that, as a rule.
const CONFIRM_PATIENCE: u64 = 2_000;

/// The state of the edge.
#[derive(Debug)]
pub(crate) struct Edge {
    gateway: NodeRef,
    nats: Nats,
    /// The stream of events.
    stream: String,
    shards: Vec<Outlet>,
    clock: Clock,
    log: InterestLog,
    coverage: Coverage<Arc<Delivery>>,
    reached: Reached,
    confirmations: Confirmations<Asked>,
    seats: HashMap<SessionId, Seat>,
    catch_ups: CatchUps,
    searches: Searches,
    rebalance: Rebalance,
    upstream: Upstream,
    /// What keeps NATS from storing events, as routers say.
    stopped: watch::Receiver<Stopped>,
    steps: Vec<Step<Arc<Delivery>>>,
    /// When the next revision is cut, if something changed.
    cut_at: Option<Millis>,
    beat_at: Millis,
    beat_interval: u64,
    delta_window: u64,
    /// How often partitions have ticks, and how soon routers tell of them.
    ticks: (u64, u64),
    ready: Check,
    /// How large a message was that the server does not take, while nothing has gone through since.
    too_large: Option<usize>,
}

/// A session as the edge sees it.
#[derive(Debug)]
struct Seat {
    user: UserId,
    /// The highest revision asked for, so that the session's confirmations keep the order of its requests.
    asked: Revision,
}

/// A confirmation that a shard waits for.
#[derive(Debug)]
struct Asked {
    session: SessionId,
    at: Millis,
}

impl Edge {
    pub(crate) fn new(
        node: &Node,
        config: &Config,
        partitions: u16,
        view: View,
        shards: Vec<Sender<ToShard>>,
        ready: Check,
    ) -> Self {
        describe();
        let (gateway, nats) = (node.me.clone(), node.nats.clone());
        let outlet = |(number, shard)| Outlet::new(number, shard, config.gateway.shard_bytes);
        Self {
            log: InterestLog::new(gateway.clone(), view, millis(config.gateway.shrink_delay), Bounds::default()),
            gateway,
            nats,
            stream: config.stream.name.clone(),
            shards: shards.into_iter().enumerate().map(outlet).collect(),
            clock: Clock::start(),
            coverage: Coverage::new(partitions, limits(&config.gateway)),
            reached: Reached::default(),
            confirmations: Confirmations::new(millis(config.gateway.confirm_timeout), CONFIRM_PATIENCE),
            seats: HashMap::new(),
            catch_ups: CatchUps::new(limits(&config.gateway)),
            searches: Searches::default(),
            rebalance: Rebalance::new(config.gateway.rebalance_rate, millis(config.gateway.rebalance_cooldown)),
            upstream: Upstream::default(),
            stopped: node.stopped.clone(),
            steps: Vec::new(),
            cut_at: Some(Millis(0)),
            beat_at: Millis(0),
            beat_interval: millis(config.membership.beat_interval),
            delta_window: millis(config.gateway.delta_window),
            ticks: (millis(config.membership.tick_interval), millis(config.router.checkpoint_interval)),
            ready,
            too_large: None,
        }
    }

    /// Runs until told to stop, or until NATS or the shards are gone for good.
    pub(crate) async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) -> Result<(), EdgeError> {
        let (mut connected, mut stopped) = (self.nats.connected(), self.stopped.clone());
        let mut turns = Turns::default();
        let mut requests = Vec::new();
        loop {
            let wake = self.clock.at(turns.next(self.next_turn()));
            // After each turn of the clock all that waits to be read has one, whatever is due.
            let is_inputs = turns.is_inputs();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                // First what is rare and what time brings, so that no flood delays it.
                Ok(()) = inputs.view.changed() => {
                    let view = Arc::clone(&inputs.view.borrow_and_update());
                    let now = self.now();
                    self.rebalance.see(now, &self.gateway, self.log.view(), &view, self.seats.len());
                    self.log.set_view((*view).clone());
                    self.changed();
                }
                Ok(()) = connected.changed() => self.look_upstream(),
                Ok(()) = stopped.changed() => self.look_upstream(),
                asked = inputs.snapshots.next() => match asked {
                    Some(message) => self.send_snapshot(message.reply()).await,
                    None => return Err(EdgeError::SubscriptionEnded),
                },
                () = sleep_until(wake), if !is_inputs => {
                    let begun = self.now();
                    self.turn().await;
                    turns.took(begun);
                }
                Some(found) = self.searches.next() => self.take_found(found),
                flood = inputs.floods.next(&mut requests) => match flood {
                    Flood::Batch(Some(message)) => self.take_batch(message.payload()),
                    Flood::Answer(Some(message)) => self.take_answer(&message),
                    Flood::Batch(None) | Flood::Answer(None) => return Err(EdgeError::SubscriptionEnded),
                    Flood::Requests(0) => return Ok(()),
                    Flood::Requests(_) => requests.drain(..).for_each(|request| self.take_request(request)),
                },
                () = ready(()), if is_inputs => {}
            }
            self.repair().await;
            self.catch_up().await;
            self.hand_on();
            // What has come may let others begin, or ask for more.
            while self.hand_past() {
                self.catch_up().await;
            }
            if turns.just_taken().is_some_and(|begun| self.next_turn() <= begun) {
                counter!("tickwire_gateway_vain_turns_total").increment(1);
                debug!("something is due that a turn does not change");
            }
        }
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn next_turn(&self) -> Millis {
        let confirmed = self.confirmations.next_deadline(&self.coverage);
        let due = [self.coverage.next_expiry(), confirmed, self.cut_at, Some(self.beat_at)];
        let due = due.into_iter().chain([
            self.log.next_shrink(),
            self.upstream.next_look(),
            self.catch_ups.next_turn(),
            self.rebalance.next_turn(),
        ]);
        due.flatten().min().unwrap_or(self.beat_at)
    }

    /// What the sessions want is not what the routers were told last: they are told soon, with what comes meanwhile.
    fn changed(&mut self) {
        let soon = self.now().plus(self.delta_window);
        self.cut_at.get_or_insert(soon);
    }

    fn take_request(&mut self, request: ToEdge) {
        let now = self.now();
        match request {
            ToEdge::Join(session, user) => {
                let revision = self.log.add_user(&user);
                self.seats.insert(session, Seat { user, asked: revision });
                self.confirmations.ask(now, revision, Asked { session, at: now });
            }
            ToEdge::Add(session, filters) => {
                let revision = filters.iter().map(|filter| self.log.add(filter)).max().unwrap_or_default();
                let Some(seat) = self.seats.get_mut(&session) else { return };
                seat.asked = seat.asked.max(revision);
                self.confirmations.ask(now, seat.asked, Asked { session, at: now });
            }
            ToEdge::Remove(filter) => self.log.remove(now, filter),
            ToEdge::Leave(session, filters) => {
                for filter in filters {
                    self.log.remove(now, filter);
                }
                if let Some(seat) = self.seats.remove(&session) {
                    self.log.remove_user(now, seat.user);
                }
                self.catch_ups.leave(session);
                self.searches.leave(session);
            }
            ToEdge::CatchUp(session, lack) => return self.take_lack(session, *lack),
            ToEdge::LeavePast(session) => return self.catch_ups.leave(session),
            ToEdge::Digested(gathering, bytes) => return self.catch_ups.digested(gathering, bytes),
            ToEdge::Find(session, time) => return self.find(session, time),
        }
        gauge!("tickwire_gateway_sessions").set(self.seats.len() as f64);
        self.changed();
    }

    /// What time brings: asks that were not answered, revisions to cut, beats.
    async fn turn(&mut self) {
        let now = self.now();
        self.look_upstream();
        self.send_away(now);
        self.coverage.expire(now, &mut self.steps);
        let shrinks = self.log.next_shrink().is_some_and(|at| at <= now);
        if shrinks || self.cut_at.is_some_and(|at| at <= now) {
            self.cut(now).await;
        }
        if self.beat_at <= now {
            self.beat(now).await;
            self.tell_open_gaps();
        }
    }

    /// Sends sessions to gateways that have joined.
    fn send_away(&mut self, now: Millis) {
        let sessions = self.seats.iter().map(|(session, seat)| (*session, &seat.user));
        let away = self.rebalance.turn(now, self.log.view(), self.seats.len(), sessions);
        if away.is_empty() {
            return;
        }
        counter!("tickwire_gateway_rebalanced_sessions_total").increment(away.len() as u64);
        for (number, shard) in (0..).zip(&mut self.shards) {
            let mine: Vec<u64> = away.iter().filter(|id| id.shard == number).map(|id| id.number).collect();
            if !mine.is_empty() {
                shard.say(ToShard::SendAway(mine));
            }
        }
    }

    fn look_upstream(&mut self) {
        let (now, stopped) = (self.now(), self.stopped.borrow().clone());
        let outage = Outage::of(now, (self.nats.is_connected(), stopped.is_none()), &self.coverage, self.ticks);
        let Some(code) = self.upstream.see(now, outage) else { return };
        let reason = outage.map(|outage| match (outage, &stopped) {
            (Outage::NotStored, Some(stopped)) => stopped.to_string(),
            (outage, _) => outage.to_string(),
        });
        warn!(code = code.as_str(), reason, "clients are told of an outage of the cluster, or of its end");
        for shard in &mut self.shards {
            shard.say(ToShard::Upstream(code, reason.clone()));
        }
    }

    /// Hands the shards what there is, and right behind it what is confirmed as of there.
    fn hand_on(&mut self) {
        if !self.steps.is_empty() {
            let steps = Arc::new(Steps::new(std::mem::take(&mut self.steps)));
            for step in &steps.steps {
                replay::note(step);
                self.reached.see(step, |delivery| delivery.event.stored);
                if matches!(step, Step::Reset { .. }) {
                    self.catch_ups.forget_all();
                }
            }
            self.shards.iter_mut().for_each(|shard| shard.steps(&steps));
        }
        self.shards.iter_mut().for_each(Outlet::look);
        let now = self.now();
        for asked in self.confirmations.take(now, &mut self.coverage) {
            histogram!("tickwire_gateway_confirm_seconds").record(now.since(asked.at) as f64 / 1000.0);
            if let Some(shard) = self.shards.get_mut(usize::from(asked.session.shard)) {
                shard.say(ToShard::Confirmed(asked.session.number));
            }
        }
    }
}

/// Why the edge cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EdgeError {
    #[error("a subscription to NATS has ended")]
    SubscriptionEnded,
}

fn refused(error: &wire::WireError) {
    counter!("tickwire_gateway_refused_messages_total").increment(1);
    warn!(%error, "a message between nodes was refused");
}

fn limits(config: &GatewayConfig) -> Limits {
    Limits {
        grace: millis(config.gap_grace),
        hold_bytes: config.hold_bytes,
        replays: config.replays,
        replay_timeout: millis(config.replay_timeout),
        give_up_after: millis(config.give_up_after),
        replay_range: config.replay_range,
    }
}

fn describe() {
    sections::describe();
    outlet::describe();
    replay::describe();
    interest::describe();
    past::describe();
    declare_counter!("tickwire_gateway_refused_messages_total", "Messages between nodes that could not be read");
    describe_histogram!("tickwire_gateway_confirm_seconds", "From a request to its confirmation");
    describe_gauge!("tickwire_gateway_sessions", "Sessions that are here");
    declare_counter!(
        "tickwire_gateway_vain_turns_total",
        "Turns of the clock after which something due was still due; any is a bug"
    );
    declare_counter!("tickwire_gateway_rebalanced_sessions_total", "Sessions sent away to gateways that have joined");
}
