//! The edge: the one owner of what this gateway was given and of what it wants. It takes batches in, hands steps to
//! the shards, tells the routers what the sessions want, asks again for what is missing, and confirms.
//!
//! [`Edge`] does no I/O: it is given inputs and the time, and puts messages for the shards into their queues and messages
//! for the routers into a list. [`Driver`] waits and sends; its `inputs` take turns, and `find` asks the server where in the
//! stream a time stands.
//!
//! `sections` come in, `outlet` is the way to a shard, `interest` and requests for a `replay` go out. `past` is the same for
//! sessions that catch up, who are gathered by `cohorts`, and for their `searches`. `rebalance` sends sessions to
//! gateways that have joined, `upstream` says when clients are told that NATS is away, or does not store.

mod backfill;
mod driver;
mod inputs;
mod interest;
mod rebalance;
pub(crate) mod replay;
mod sections;
mod shard_queue;
mod upstream;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use metrics::{counter, describe_gauge, describe_histogram, gauge, histogram};
use tickwire_core::coverage::confirmations::Confirmations;
use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::coverage::{Coverage, CoverageEvent, RepairLimits};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Millis, NodeRef, Revision, UserId};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::View;
use tickwire_core::wire;
use tickwire_node::admin::Check;
use tickwire_node::clock::millis;
use tickwire_node::config::{Config, GatewayConfig};
use tickwire_node::declare_counter;
use tickwire_node::storage::Stopped;
use tracing::warn;

use crate::backfill::cohorts::Cohorts;
use crate::backfill::seek::Searches;
use crate::byte_queue::Sender;
use crate::delivery::Delivery;
use crate::edge::rebalance::Rebalance;
use crate::edge::shard_queue::ShardQueue;
use crate::edge::upstream::{Outage, Upstream};
use crate::messages::{FromEdge, SessionId, SharedCoverageEvents, ToEdge, ToShard};

#[cfg(test)]
pub(crate) use crate::backfill::bisection::DEADLINE as SEARCH_DEADLINE;
pub(crate) use crate::edge::driver::Driver;
pub(crate) use crate::edge::inputs::Inputs;

/// How much longer than `gateway.confirm_timeout` a confirmation waits for what it would outdate, in milliseconds. Answers to
/// replays come within that, as a rule.
const CONFIRM_PATIENCE: u64 = 2_000;

/// The state of the edge.
#[derive(Debug)]
pub(crate) struct Edge {
    gateway: NodeRef,
    connection: NatsConnection,
    shards: Vec<ShardQueue>,
    log: InterestLog,
    coverage: Coverage<Arc<Delivery>>,
    reached: GatewayCoverage,
    confirmations: Confirmations<AwaitedConfirmation>,
    registrations: HashMap<SessionId, Registration>,
    cohorts: Cohorts,
    searches: Searches,
    rebalance: Rebalance,
    upstream: Upstream,
    /// What keeps NATS from storing events, as routers say.
    stopped: Stopped,
    /// What is to be sent.
    outgoing: Vec<Outgoing>,
    steps: Vec<CoverageEvent<Arc<Delivery>>>,
    /// When the next revision is cut, if something changed.
    cut_at: Option<Millis>,
    beat_at: Millis,
    beat_interval: u64,
    delta_window: u64,
    /// How often partitions have ticks, and how soon routers tell of them.
    heartbeats: (u64, u64),
    ready: Check,
    /// How large a message was that the server does not take, while nothing has gone through since.
    too_large: Option<usize>,
}

/// The connection to NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NatsConnection {
    pub(crate) is_up: bool,
    /// The largest message that the server takes, in bytes.
    pub(crate) max_payload: usize,
}

/// A message to routers.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: Cow<'static, str>,
    /// Where answers go to.
    pub(crate) reply: Option<String>,
    pub(crate) payload: Vec<u8>,
    /// The ask that this is, if it is one; it is made again if it does not leave.
    pub(crate) ask: Option<u64>,
}

/// A session as the edge sees it.
#[derive(Debug)]
struct Registration {
    user: UserId,
    /// The highest revision asked for, so that the session's confirmations keep the order of its requests.
    asked: Revision,
}

/// A confirmation that a shard waits for.
#[derive(Debug)]
struct AwaitedConfirmation {
    session: SessionId,
    at: Millis,
}

impl Edge {
    /// An edge that nobody has told anything yet. `ready` is what it tells an operator.
    pub(crate) fn new(
        gateway: NodeRef,
        config: &Config,
        partitions: u16,
        (view, connection): (View, NatsConnection),
        shards: Vec<Sender<ToShard>>,
        ready: Check,
    ) -> Self {
        let outlet = |(number, shard)| ShardQueue::new(number, shard, config.gateway.shard_bytes);
        Self {
            log: InterestLog::new(gateway.clone(), view, millis(config.gateway.shrink_delay), Bounds::default()),
            gateway,
            connection,
            shards: shards.into_iter().enumerate().map(outlet).collect(),
            coverage: Coverage::new(partitions, limits(&config.gateway)),
            reached: GatewayCoverage::default(),
            confirmations: Confirmations::new(millis(config.gateway.confirm_timeout), CONFIRM_PATIENCE),
            registrations: HashMap::new(),
            cohorts: Cohorts::new(limits(&config.gateway)),
            searches: Searches::new(millis(config.gateway.give_up_after)),
            rebalance: Rebalance::new(config.gateway.rebalance_rate, millis(config.gateway.rebalance_cooldown)),
            upstream: Upstream::default(),
            stopped: None,
            outgoing: Vec::new(),
            steps: Vec::new(),
            cut_at: Some(Millis(0)),
            beat_at: Millis(0),
            beat_interval: millis(config.membership.beat_interval),
            delta_window: millis(config.gateway.delta_window),
            heartbeats: (millis(config.membership.tick_interval), millis(config.router.checkpoint_interval)),
            ready,
            too_large: None,
        }
    }

    /// The members of the cluster have changed.
    pub(crate) fn take_view(&mut self, now: Millis, view: &View) {
        self.rebalance.see(now, &self.gateway, self.log.view(), view, self.registrations.len());
        self.log.set_view(view.clone());
        self.changed(now);
    }

    /// How the connection to NATS is now, and what keeps the server from storing events, as routers say. What follows from
    /// it for clients is seen by [`Self::look_upstream`].
    pub(crate) fn take_standing(&mut self, connection: NatsConnection, stopped: Stopped) {
        (self.connection, self.stopped) = (connection, stopped);
    }

    /// The next time in the stream that is to be searched for now, if NATS is there.
    pub(crate) fn next_search(&mut self, now: Millis) -> Option<Timestamp> {
        self.connection.is_up.then(|| self.searches.begin(now)).flatten()
    }

    /// What is to be sent now. What does not leave is told to [`Self::unsent`].
    pub(crate) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// Does what has become possible or necessary by what was taken in. To be called after every input.
    pub(crate) fn settle(&mut self, now: Millis) {
        self.repair(now);
        self.backfill(now);
        self.hand_on(now);
        // What has come may let others begin, or ask for more.
        while self.hand_past() {
            self.backfill(now);
        }
    }

    /// When [`Self::turn`] is next to be called.
    pub(crate) fn next_turn(&self) -> Millis {
        let confirmed = self.confirmations.next_deadline(&self.coverage);
        let due = [self.coverage.next_expiry(), confirmed, self.cut_at, Some(self.beat_at)];
        let due = due.into_iter().chain([
            self.log.next_shrink(),
            self.upstream.next_look(),
            self.cohorts.next_turn(),
            self.rebalance.next_turn(),
            self.searches.next_turn().filter(|_| self.connection.is_up),
        ]);
        due.flatten().min().unwrap_or(self.beat_at)
    }

    /// What the sessions want is not what the routers were told last: they are told soon, with what comes meanwhile.
    fn changed(&mut self, now: Millis) {
        let soon = now.plus(self.delta_window);
        self.cut_at.get_or_insert(soon);
    }

    /// A shard asks for something.
    pub(crate) fn take_request(&mut self, now: Millis, request: ToEdge) {
        match request {
            ToEdge::Join(session, user) => {
                let revision = self.log.add_user(&user);
                self.registrations.insert(session, Registration { user, asked: revision });
                self.confirmations.ask(now, revision, AwaitedConfirmation { session, at: now });
            }
            ToEdge::Add(session, filters) => {
                let revision = filters.iter().map(|filter| self.log.add(filter)).max().unwrap_or_default();
                let Some(registration) = self.registrations.get_mut(&session) else { return };
                registration.asked = registration.asked.max(revision);
                self.confirmations.ask(now, registration.asked, AwaitedConfirmation { session, at: now });
            }
            ToEdge::Remove(filter) => self.log.remove(now, filter),
            ToEdge::Leave(session, filters) => {
                for filter in filters {
                    self.log.remove(now, filter);
                }
                if let Some(registration) = self.registrations.remove(&session) {
                    self.log.remove_user(now, registration.user);
                }
                self.cohorts.leave(session);
                self.searches.leave(session);
            }
            ToEdge::CatchUp(session, ranges) => return self.take_backfill(now, session, *ranges),
            ToEdge::LeavePast(session) => return self.cohorts.leave(session),
            ToEdge::Digested(cohort, bytes) => return self.cohorts.processed(cohort, bytes),
            ToEdge::Find(session, time) => return self.searches.ask(now, session, time),
        }
        gauge!("tickwire_gateway_sessions").set(self.registrations.len() as f64);
        self.changed(now);
    }

    /// What time brings: asks that were not answered, revisions to cut, beats.
    pub(crate) fn turn(&mut self, now: Millis) {
        self.look_upstream(now);
        self.send_away(now);
        self.coverage.expire(now, &mut self.steps);
        let shrinks = self.log.next_shrink().is_some_and(|at| at <= now);
        if shrinks || self.cut_at.is_some_and(|at| at <= now) {
            self.cut(now);
        }
        if self.beat_at <= now {
            self.beat(now);
            self.tell_open_gaps();
        }
    }

    /// Sends sessions to gateways that have joined.
    fn send_away(&mut self, now: Millis) {
        let sessions = self.registrations.iter().map(|(session, registration)| (*session, &registration.user));
        let away = self.rebalance.turn(now, self.log.view(), self.registrations.len(), sessions);
        if away.is_empty() {
            return;
        }
        counter!("tickwire_gateway_rebalanced_sessions_total").increment(away.len() as u64);
        for (number, shard) in (0..).zip(&mut self.shards) {
            let mine: Vec<u64> = away.iter().filter(|id| id.shard == number).map(|id| id.number).collect();
            if !mine.is_empty() {
                shard.say(FromEdge::SendAway(mine));
            }
        }
    }

    /// Tells clients of an outage of the cluster, or of its end. Done by each turn.
    pub(crate) fn look_upstream(&mut self, now: Millis) {
        let outage = self.outage(now);
        let Some(code) = self.upstream.see(now, outage) else { return };
        let reason = outage.map(|outage| match (outage, &self.stopped) {
            (Outage::NotStored, Some(stopped)) => stopped.to_string(),
            (outage, _) => outage.to_string(),
        });
        warn!(code = code.as_str(), reason, "clients are told of an outage of the cluster, or of its end");
        for shard in &mut self.shards {
            shard.say(FromEdge::Upstream(code, reason.clone()));
        }
    }

    /// What keeps clients from what is new, if anything does.
    fn outage(&mut self, now: Millis) -> Option<Outage> {
        let standing = (self.connection.is_up, self.stopped.is_none());
        let since = self.upstream.waits_since(now, standing);
        Outage::of(now, standing, &self.coverage, self.heartbeats, since)
    }

    /// Hands the shards what there is, and right behind it what is confirmed as of there.
    fn hand_on(&mut self, now: Millis) {
        if !self.steps.is_empty() {
            let steps = Arc::new(SharedCoverageEvents::new(std::mem::take(&mut self.steps)));
            for step in &steps.steps {
                replay::note(step);
                self.reached.see(step, |delivery| delivery.event.stored);
                if matches!(step, CoverageEvent::Reset { .. }) {
                    self.cohorts.forget_all();
                }
            }
            self.shards.iter_mut().for_each(|shard| shard.steps(&steps));
        }
        self.shards.iter_mut().for_each(ShardQueue::look);
        for asked in self.confirmations.take(now, &mut self.coverage) {
            histogram!("tickwire_gateway_confirm_seconds").record(now.since(asked.at) as f64 / 1000.0);
            if let Some(shard) = self.shards.get_mut(usize::from(asked.session.shard)) {
                shard.say(FromEdge::Confirmed(asked.session.number));
            }
        }
    }
}

fn refused(error: &wire::WireError) {
    counter!("tickwire_gateway_refused_messages_total").increment(1);
    warn!(%error, "a message between nodes was refused");
}

fn limits(config: &GatewayConfig) -> RepairLimits {
    RepairLimits {
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
    crate::edge::shard_queue::describe();
    replay::describe();
    interest::describe();
    crate::edge::backfill::describe();
    crate::backfill::bisection::describe();
    declare_counter!("tickwire_gateway_refused_messages_total", "Messages between nodes that could not be read");
    describe_histogram!("tickwire_gateway_confirm_seconds", "From a request to its confirmation");
    describe_gauge!("tickwire_gateway_sessions", "Sessions that are here");
    declare_counter!(
        "tickwire_gateway_vain_turns_total",
        "Turns of the clock after which something due was still due; any is a bug"
    );
    declare_counter!("tickwire_gateway_rebalanced_sessions_total", "Sessions sent away to gateways that have joined");
}
