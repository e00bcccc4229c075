//! The edge: the only owner of this gateway's coverage and interest. It takes batches from routers, passes coverage
//! events to the shards, sends the interest of the sessions to the routers, repairs gaps, and confirms subscriptions.
//!
//! [`Edge`] does no I/O: it takes inputs and the time, puts messages for the shards into their queues, and messages for
//! the routers into a list. [`Driver`] waits, and sends.
//!
//! * `inputs` receives batches, answers and requests in turn, so that a flood of one does not block the others;
//! * `sections` decodes what routers send, and offers it to the coverage, as far as `horizon` has seen the stream;
//! * `shard_queue` passes events to one shard, and skips them while the shard is too far behind;
//! * `interest` sends deltas, snapshots and beats to the routers;
//! * `replay` asks routers for gaps, and reports what was repaired or lost;
//! * `backfill` does the same for the cohorts of `backfill::cohorts`, and for their searches of a time;
//! * `rebalance` sends sessions to gateways that have joined;
//! * `status` is what `/v1/cluster` shows of it;
//! * `upstream` decides when clients are notified that NATS or the routers fail.

mod backfill;
mod driver;
mod horizon;
mod inputs;
mod interest;
mod rebalance;
pub(crate) mod replay;
mod sections;
mod shard_queue;
mod status;
mod upstream;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use tickwire_core::coverage::confirmations::Confirmations;
use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::coverage::{Coverage, CoverageEvent, RepairLimits};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Millis, NodeRef, Revision, UserId};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::View;
use tickwire_core::protocol::codes::NoticeCode;
#[cfg(test)]
use tickwire_core::protocol::position::Position;
use tickwire_core::wire;
use tickwire_node::admin::Check;
use tickwire_node::clock::millis;
use tickwire_node::config::{Config, GatewayConfig};
use tickwire_node::storage::Stopped;
use tracing::{info, warn};

use crate::backfill::cohorts::Cohorts;
use crate::backfill::seek::Searches;
use crate::byte_queue::ByteSender;
use crate::delivery::Delivery;
use crate::edge::horizon::Horizon;
use crate::edge::rebalance::Rebalance;
use crate::edge::shard_queue::ShardQueue;
use crate::edge::upstream::{HeartbeatTiming, NatsState, Outage, Upstream};
use crate::messages::{FromEdge, SessionId, SharedCoverageEvents, ToEdge, ToShard};
use crate::metrics;

#[cfg(test)]
pub(crate) use crate::backfill::bisection::DEADLINE as SEARCH_DEADLINE;
pub(crate) use crate::edge::driver::Driver;
pub use crate::edge::horizon::StreamSight;
pub(crate) use crate::edge::inputs::Inputs;
#[cfg(test)]
pub(crate) use crate::edge::inputs::{FloodTurns, FloodableQueue, TURN_REQUESTS};
pub(crate) use crate::edge::status::EdgeStatus;
#[cfg(test)]
pub(crate) use crate::edge::upstream::AWAY_MS;

/// How much longer than `gateway.confirm_timeout` a confirmation waits for replays that it would make outdated, in
/// milliseconds. Answers to replays usually arrive within that time.
const CONFIRM_PATIENCE: u64 = 2_000;

/// The state of the edge.
#[derive(Debug)]
pub struct Edge {
    gateway: NodeRef,
    connection: NatsConnection,
    shards: Vec<ShardQueue>,
    log: InterestLog,
    coverage: Coverage<Arc<Delivery>>,
    horizon: Horizon,
    reached: GatewayCoverage,
    confirmations: Confirmations<AwaitedConfirmation>,
    registrations: HashMap<SessionId, Registration, FixedState>,
    cohorts: Cohorts,
    searches: Searches,
    rebalance: Rebalance,
    upstream: Upstream,
    /// Why NATS does not store events, as routers report it.
    stopped: Stopped,
    /// Messages to send to routers.
    outgoing: Vec<Outgoing>,
    coverage_events: Vec<CoverageEvent<Arc<Delivery>>>,
    /// When the next revision is cut, if the interest has changed.
    cut_at: Option<Millis>,
    beat_at: Millis,
    beat_interval: u64,
    delta_window: u64,
    heartbeats: HeartbeatTiming,
    ready: Check,
    /// The size of a message that the server did not accept. It is cleared when a message of that size is accepted.
    too_large: Option<usize>,
}

/// The connection to NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatsConnection {
    /// Whether there is one.
    pub is_up: bool,
    /// The largest message that the server accepts, in bytes.
    pub max_payload: usize,
}

/// A message to routers.
#[derive(Debug)]
pub struct Outgoing {
    /// Where it is published.
    pub subject: Cow<'static, str>,
    /// What is published.
    pub payload: Vec<u8>,
    /// The number of the ask, if this is a request for a replay: the driver names the subject of its answers. The ask is
    /// repeated if this is not sent.
    pub ask: Option<u64>,
}

/// What the edge knows of a session.
#[derive(Debug)]
struct Registration {
    user: UserId,
    /// When it arrived.
    at: Millis,
    /// Whether a rebalance has sent it away.
    is_sent_away: bool,
    /// The highest revision that the session waits for. It keeps confirmations in the order of the session's requests.
    asked: Revision,
}

/// A confirmation that a shard waits for.
#[derive(Debug)]
struct AwaitedConfirmation {
    session: SessionId,
    at: Millis,
}

/// What an edge begins with.
#[derive(Debug)]
pub struct EdgeSetup<'c> {
    /// The gateway.
    pub gateway: NodeRef,
    /// Its configuration.
    pub config: &'c Config,
    /// How many partitions the stream has.
    pub partitions: u16,
    /// The members of the cluster.
    pub view: View,
    /// The connection to NATS.
    pub connection: NatsConnection,
    /// The shards, by number.
    pub shards: Vec<ByteSender<ToShard>>,
    /// The readiness check for the operator.
    pub ready: Check,
}

impl Edge {
    /// An edge that has received nothing yet.
    #[must_use]
    pub fn new(setup: EdgeSetup<'_>) -> Self {
        let EdgeSetup { gateway, config, partitions, view, connection, shards, ready } = setup;
        let queue = |(number, shard)| ShardQueue::new(number, shard, config.gateway.shard_bytes);
        Self {
            log: InterestLog::new(gateway.clone(), view, millis(config.gateway.shrink_delay), Bounds::default()),
            gateway,
            connection,
            shards: shards.into_iter().enumerate().map(queue).collect(),
            coverage: Coverage::new(partitions, limits(&config.gateway)),
            horizon: Horizon::default(),
            reached: GatewayCoverage::default(),
            confirmations: Confirmations::new(millis(config.gateway.confirm_timeout), CONFIRM_PATIENCE),
            registrations: HashMap::default(),
            cohorts: Cohorts::new(limits(&config.gateway)),
            searches: Searches::new(millis(config.gateway.give_up_after)),
            rebalance: Rebalance::new(
                config.gateway.rebalance_rate,
                millis(config.gateway.rebalance_cooldown),
                config.gateway.admission_rate,
            ),
            upstream: Upstream::default(),
            stopped: None,
            outgoing: Vec::new(),
            coverage_events: Vec::new(),
            cut_at: Some(Millis(0)),
            beat_at: Millis(0),
            beat_interval: millis(config.membership.beat_interval),
            delta_window: millis(config.gateway.delta_window),
            heartbeats: HeartbeatTiming {
                interval: millis(config.membership.tick_interval),
                report_delay: millis(config.router.checkpoint_interval),
            },
            ready,
            too_large: None,
        }
    }

    /// The members of the cluster have changed.
    pub fn take_view(&mut self, now: Millis, view: &View) {
        self.rebalance.take_view(now, &self.gateway, self.log.view(), view);
        self.log.set_view(view.clone());
        self.interest_changed(now);
    }

    /// The state of the connection to NATS, and why the server does not store events, as routers report it.
    /// [`Self::check_upstream`] notifies clients of it.
    pub fn set_nats_state(&mut self, connection: NatsConnection, stopped: Stopped) {
        (self.connection, self.stopped) = (connection, stopped);
    }

    /// The next time in the stream to search for now, if NATS is connected.
    pub(crate) fn next_search(&mut self, now: Millis) -> Option<Timestamp> {
        self.connection.is_up.then(|| self.searches.begin(now)).flatten()
    }

    /// Whether the stream is to be looked at now. The result must be passed to [`Self::take_look`].
    pub fn begin_look(&mut self, now: Millis) -> bool {
        self.connection.is_up && self.horizon.begin_look(now)
    }

    /// A look at the stream has ended; `None` if NATS has not answered.
    pub fn take_look(&mut self, now: Millis, sight: Option<StreamSight>) {
        self.horizon.take_look(now, sight);
    }

    /// The messages to send now. A request that cannot be sent must be reported to [`Self::unsent`].
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// Processes the consequences of an input. Must be called after every input.
    pub fn settle(&mut self, now: Millis) {
        self.repair(now);
        self.backfill(now);
        self.deliver(now);
        // A cohort that has ended or advanced may let others begin, or ask for more.
        while self.deliver_backfill() {
            self.backfill(now);
        }
    }

    /// When [`Self::turn`] must be called next.
    #[must_use]
    pub fn next_turn(&self) -> Millis {
        let confirmed = self.confirmations.next_deadline(&self.coverage);
        let due = [self.coverage.next_expiry(), confirmed, self.cut_at, Some(self.beat_at)];
        let due = due.into_iter().chain([
            self.log.next_shrink(),
            self.upstream.next_check(),
            self.cohorts.next_turn(),
            self.rebalance.next_turn(),
            self.searches.next_turn().filter(|_| self.connection.is_up),
        ]);
        due.flatten().min().unwrap_or(self.beat_at)
    }

    /// The interest has changed. A new revision is cut after the delta window, so that it includes further changes.
    fn interest_changed(&mut self, now: Millis) {
        let soon = now.plus(self.delta_window);
        self.cut_at.get_or_insert(soon);
    }

    /// Takes a request of a shard.
    pub fn take_request(&mut self, now: Millis, request: ToEdge) {
        match request {
            ToEdge::Join(session, user) => {
                let revision = self.log.add_user(&user);
                self.registrations
                    .insert(session, Registration { user, at: now, is_sent_away: false, asked: revision });
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
            ToEdge::Backfill(session, ranges) => return self.take_backfill(now, session, *ranges),
            ToEdge::LeaveCohorts(session) => return self.cohorts.leave(session),
            ToEdge::ChunkProcessed(cohort, bytes) => return self.cohorts.processed(cohort, bytes),
            ToEdge::Find(session, time) => return self.searches.ask(now, session, time),
        }
        metrics::SESSIONS.set(self.registrations.len() as f64);
        self.interest_changed(now);
    }

    /// Does what is due: expires unanswered asks, cuts a revision, sends a beat.
    pub fn turn(&mut self, now: Millis) {
        self.check_upstream(now);
        self.send_away(now);
        self.coverage.expire(now, &mut self.coverage_events);
        let shrinks = self.log.next_shrink().is_some_and(|at| at <= now);
        if shrinks || self.cut_at.is_some_and(|at| at <= now) {
            self.cut(now);
        }
        if self.beat_at <= now {
            self.beat(now);
            self.publish_gap_metrics();
        }
    }

    /// Notifies clients of an outage of the cluster, or of its end. Each turn calls this.
    pub fn check_upstream(&mut self, now: Millis) {
        let outage = self.outage(now);
        let Some(code) = self.upstream.update(now, outage) else { return };
        let reason = outage.map(|outage| match (outage, &self.stopped) {
            (Outage::NotStored, Some(stopped)) => stopped.to_string(),
            (outage, _) => outage.to_string(),
        });
        match code {
            NoticeCode::UpstreamRestored => info!(code = code.as_str(), "upstream notice sent to clients"),
            _ => warn!(code = code.as_str(), reason, "upstream notice sent to clients"),
        }
        for shard in &mut self.shards {
            shard.send(FromEdge::Upstream(code, reason.clone()));
        }
    }

    /// Up to where every partition is complete.
    #[cfg(test)]
    pub(crate) fn position(&self) -> Option<Position> {
        self.coverage.position()
    }

    /// Why clients do not get new events, if there is a reason.
    fn outage(&mut self, now: Millis) -> Option<Outage> {
        let nats = NatsState { is_connected: self.connection.is_up, is_stored: self.stopped.is_none() };
        let since = self.upstream.silence_since(now, nats);
        Outage::of(now, nats, &self.coverage, self.heartbeats, since)
    }

    /// Passes coverage events to the shards, and after them the confirmations that hold from there.
    fn deliver(&mut self, now: Millis) {
        if !self.coverage_events.is_empty() {
            let coverage_events = Arc::new(SharedCoverageEvents::new(std::mem::take(&mut self.coverage_events)));
            for coverage_event in &coverage_events.events {
                replay::note(coverage_event);
                self.reached.record(coverage_event, |delivery| delivery.event.stored);
                if matches!(coverage_event, CoverageEvent::Reset { .. }) {
                    self.cohorts.clear();
                }
            }
            self.shards.iter_mut().for_each(|shard| shard.coverage_events(&coverage_events));
        }
        self.shards.iter_mut().for_each(ShardQueue::check);
        for asked in self.confirmations.take(now, &mut self.coverage) {
            metrics::CONFIRM_SECONDS.record(now.since(asked.at) as f64 / 1000.0);
            if let Some(shard) = self.shards.get_mut(usize::from(asked.session.shard)) {
                shard.send(FromEdge::Confirmed(asked.session.number));
            }
        }
    }
}

fn refused(error: &wire::WireError) {
    metrics::REFUSED_MESSAGES.increment(1);
    warn!(%error, "unreadable message from another node refused");
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
