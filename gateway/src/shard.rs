//! A delivery shard: a thread that owns its sessions, its part of the index and its timers. Nothing here is locked, and
//! nothing here waits.
//!
//! * `driver` is the thread: it waits for the edge, for sockets and for the clock, and calls the shard;
//! * `lifecycle` starts, serves and ends a [`session`]; `token_term` watches the expiry of its token, and [`liveness`]
//!   whether the client is alive;
//! * events arrive as coverage events, find their sessions by the index, and wait in outboxes (`deliver`); `flush` writes
//!   them as frames, and `gaps` notifies of gaps;
//! * `backfill` begins and ends the backfill of a session, and `cohorts` delivers its events;
//! * `turns` decides which socket is read next, `commands` answers what clients request, `acks` passes on
//!   acknowledgements, and [`malformed_frames`] counts frames that are no valid requests;
//! * `saved` applies the saved subscriptions of users, and `reminders` sends unacknowledged alerts again;
//! * `outage` notifies of outages, `reset` begins a new epoch, and `maintenance` cleans up once a second;
//! * `log` writes the log lines of a session, `registration` keeps the registry up to date, and `inquiry` answers
//!   questions about users;
//! * [`sessions`], [`accounts`] and [`timers`] are the tables of the shard, and `clocks` are the clocks that it reads.

pub(crate) mod accounts;
mod acks;
#[cfg(test)]
mod alert_tests;
pub(crate) mod backfill;
#[cfg(test)]
mod bounds;
mod clocks;
mod cohorts;
mod commands;
mod deliver;
pub(crate) mod driver;
#[cfg(test)]
mod fixture;
mod flush;
mod gaps;
#[cfg(test)]
mod handling_tests;
pub(crate) mod inquiry;
mod lifecycle;
pub(crate) mod liveness;
mod log;
mod maintenance;
pub(crate) mod malformed_frames;
mod outage;
mod registration;
#[cfg(test)]
mod reminder_tests;
mod reminders;
mod reset;
mod saved;
pub(crate) mod session;
pub(crate) mod sessions;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
mod token_term;
pub(crate) mod turns;
mod user_filters;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::Kinds;
use tickwire_core::ids::{EpochId, Millis, NodeId, Partition, Seq};
use tickwire_core::protocol::Notice;
use tickwire_core::protocol::codes::CloseCode;
use tickwire_core::protocol::position::Position;
use tickwire_node::clock::millis;
use tickwire_node::config::GatewayConfig;
use tokio::sync::mpsc::Sender;

use crate::acks::AckRequest;
use crate::auth::Authenticator;
use crate::byte_queue::ByteSender;
use crate::delivery::Delivery;
use crate::index::Index;
use crate::index::metrics::PublishedStatistics;
use crate::limits::account::Account;
use crate::limits::budget::Rate;
use crate::messages::{FromEdge, SessionId, SkippedRange, ToEdge};
use crate::outbox::{Frame, OutboxLimits};
use crate::registry::SessionRegistry;
use crate::reminders::ReminderRequest;
use crate::saved::SavedTable;
use crate::shard::accounts::Accounts;
use crate::shard::cohorts::{Cohort, CohortItem};
use crate::shard::gaps::gap;
use crate::shard::sessions::Sessions;
use crate::shard::timers::Timers;
use crate::shard::turns::CommandRates;
use crate::socket::Socket;
use crate::stats::Stats;

pub(crate) use crate::shard::clocks::Clocks;

/// The resolution of the ends of windows, in milliseconds.
const FLUSH_SLOT_MS: u64 = 4;

/// The resolution of heartbeats and deadlines, in milliseconds.
const ATTENTION_SLOT_MS: u64 = 20;

/// The burst of a user's backfill rate: the longest range times this.
const BACKFILL_BURST: u64 = 2;

/// What every shard of a gateway gets at its start.
#[derive(Clone, Debug)]
pub(crate) struct ShardConfig {
    pub(crate) gateway: NodeId,
    pub(crate) config: GatewayConfig,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) partitions: u16,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) registry: Arc<SessionRegistry>,
    pub(crate) saved: Arc<SavedTable>,
    pub(crate) acks: Sender<AckRequest>,
    pub(crate) reminders: Sender<ReminderRequest>,
    pub(crate) clocks: Clocks,
    /// Whether events may be traced.
    pub(crate) is_traced: bool,
    /// The seed of what is random, such as the pauses of clients that are sent away.
    pub(crate) seed: u64,
}

/// The state of a shard.
#[derive(Debug)]
pub(crate) struct Shard<S> {
    number: u16,
    settings: ShardConfig,
    limits: OutboxLimits,
    edge: ByteSender<ToEdge>,
    sessions: Sessions<S>,
    accounts: Accounts,
    /// The number of sessions with another weight than the default.
    weighted: usize,
    index: Index,
    index_published: PublishedStatistics,
    applied: Position,
    /// The last sequence of the epoch before this one.
    before: Seq,
    /// The notice of the outage, while there is one. New clients get it too.
    outage: Option<Notice>,
    flushes: Timers,
    attention: Timers,
    /// Sessions whose sockets wait to be read, in the order of their turns.
    due: VecDeque<u64>,
    /// When sessions that have used up their rate are read again.
    pauses: Timers,
    /// While too much waits for the edge: when to check it again.
    edge_full_until: Option<Millis>,
    command_rates: CommandRates,
    /// Sessions whose backfill waits for a slot or the budget of their user.
    backfill_retries: Timers,
    backfill_rate: Rate,
    maintain_at: Millis,
    touched: Vec<u64>,
    heavy: Vec<u64>,
    /// The cohorts with sessions in this shard.
    cohorts: BTreeMap<u64, Cohort>,
    /// Sessions with a backfill that dropped new events.
    behind: Vec<u64>,
    /// Sessions with missing events that no log line has reported yet.
    missing: Vec<u64>,
    lines: log::LineBudget,
    /// An account without limits.
    unlimited: Account,
    /// Sessions whose sockets must be watched from now on.
    to_watch: Vec<u64>,
    /// The content of the next frame, and its bytes. Both buffers are reused.
    content: Frame,
    frame: Vec<u8>,
    stats: Stats,
    random: SmallRng,
    draining: bool,
}

impl<S: Socket> Shard<S> {
    pub(crate) fn new(number: u16, settings: ShardConfig, edge: ByteSender<ToEdge>) -> Self {
        let seqs = vec![Seq(0); usize::from(settings.partitions)];
        let config = &settings.config;
        let limits = OutboxLimits {
            bytes: config.outbox_bytes,
            critical: config.critical_rate,
            lanes: config.lanes,
            patience: millis(config.slow_deadline),
        };
        let backfill_rate = Rate::new(config.catch_up_rate, config.replay_range.saturating_mul(BACKFILL_BURST));
        let command_rates = CommandRates::new(config.command_rate, config.command_burst);
        let random = SmallRng::seed_from_u64(settings.seed.wrapping_add(number.into()));
        Self {
            number,
            lines: log::LineBudget::new(settings.registry.shards()),
            settings,
            limits,
            edge,
            sessions: Sessions::default(),
            accounts: Accounts::default(),
            weighted: 0,
            index: Index::default(),
            index_published: PublishedStatistics::default(),
            applied: Position { epoch_id: EpochId(0), seqs },
            before: Seq(0),
            outage: None,
            flushes: Timers::new(FLUSH_SLOT_MS),
            attention: Timers::new(ATTENTION_SLOT_MS),
            due: VecDeque::new(),
            pauses: Timers::new(FLUSH_SLOT_MS),
            edge_full_until: None,
            command_rates,
            backfill_retries: Timers::new(ATTENTION_SLOT_MS),
            backfill_rate,
            maintain_at: Millis(crate::shard::maintenance::INTERVAL_MS),
            touched: Vec::new(),
            heavy: Vec::new(),
            cohorts: BTreeMap::new(),
            behind: Vec::new(),
            missing: Vec::new(),
            unlimited: Account::new(0),
            to_watch: Vec::new(),
            content: Frame::default(),
            frame: Vec::new(),
            stats: Stats::default(),
            random,
            draining: false,
        }
    }

    /// Takes a message from the edge.
    pub(crate) fn take(&mut self, now: Millis, message: FromEdge) {
        match message {
            FromEdge::CoverageEvents(coverage_events) => {
                let mut gaps = Vec::new();
                for coverage_event in &coverage_events.events {
                    if let CoverageEvent::Gap { partition, from, through, reason } = coverage_event {
                        gaps.push(gap(reason.as_str(), *partition, *from, *through));
                        continue;
                    }
                    self.notify_all(now, &std::mem::take(&mut gaps));
                    self.apply(now, coverage_event);
                }
                self.notify_all(now, &gaps);
                self.flush_touched(now);
                self.renew(now);
            }
            FromEdge::Skipped(ranges) => self.skip(now, &ranges),
            FromEdge::Upstream(code, reason) => self.notify_upstream(now, code, reason),
            FromEdge::Confirmed(session) => self.confirmed(now, session),
            FromEdge::SendAway(sessions) => {
                for session in sessions {
                    self.send_away(now, session, "rebalance", CloseCode::Moved);
                }
            }
            FromEdge::CohortFormed(cohort, numbers) => self.joined_cohort(cohort, numbers),
            FromEdge::Chunk(chunk) => self.enqueue_item(chunk.cohort, CohortItem::Chunk { chunk, at: 0, event: 0 }),
            FromEdge::CohortEnded(cohort) => self.enqueue_item(cohort, CohortItem::End),
            FromEdge::Found(session, time, found) => self.found(now, session, time, found),
        }
    }

    /// The sessions whose sockets the caller must watch from now on. Each is returned once.
    pub(crate) fn take_to_watch(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.to_watch)
    }

    /// When [`Self::turn`] must be called next.
    pub(crate) fn next_turn(&self) -> Millis {
        [self.flushes.next(), self.attention.next(), self.next_pause(), self.backfill_retries.next()]
            .into_iter()
            .flatten()
            .fold(self.maintain_at, Millis::min)
    }

    /// Does what is due: flushes outboxes whose windows end, sends heartbeats, closes clients that take too long.
    pub(crate) fn turn(&mut self, now: Millis) {
        while let Some((at, mut numbers)) = self.flushes.pop_due(now) {
            self.sort_by_weight(&mut numbers);
            for number in numbers {
                if self.sessions.get(number).is_some_and(|session| session.flush_at == Some(at)) {
                    self.flush(now, number);
                }
            }
        }
        while let Some((at, numbers)) = self.attention.pop_due(now) {
            for number in numbers {
                if self.sessions.get(number).is_some_and(|session| session.attention == at) {
                    self.on_timer(now, number);
                }
            }
        }
        self.end_pauses(now);
        self.retry_backfills(now);
        self.maintain(now);
    }

    /// Adds the counts to the metrics.
    pub(crate) fn publish_stats(&mut self) {
        self.stats.publish();
    }

    /// Whether no session is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn id(&self, number: u64) -> SessionId {
        SessionId { shard: self.number, number }
    }

    /// Sends a request to the edge. The edge outlives its shards; if it is gone, the process is ending.
    fn ask(&self, request: ToEdge) {
        if !self.edge.send(request) {
            tracing::debug!("request to the ended edge dropped");
        }
    }

    fn apply(&mut self, now: Millis, coverage_event: &CoverageEvent<Arc<Delivery>>) {
        match coverage_event {
            CoverageEvent::Adopt { partition, at } => self.set_applied(*partition, *at),
            CoverageEvent::Apply { partition, through, events, .. } => {
                for (_, delivery) in events {
                    self.deliver(now, delivery);
                }
                self.set_applied(*partition, *through);
            }
            // `take` has sent it, together with its neighbours.
            CoverageEvent::Gap { .. } => {}
            CoverageEvent::Reset { former, epoch } => self.begin_epoch(now, former.is_some(), *epoch),
        }
    }

    /// Takes the ranges that the edge skipped because the shard was too far behind.
    fn skip(&mut self, now: Millis, ranges: &[SkippedRange]) {
        let (lost, empty): (Vec<_>, Vec<_>) = ranges.iter().partition(|range| range.is_lost);
        for SkippedRange { partition, through, .. } in empty {
            self.set_applied(*partition, *through);
        }
        let gaps = lost.into_iter().map(|range| gap("overload", range.partition, range.from, range.through));
        self.notify_all(now, &gaps.collect::<Vec<_>>());
        self.flush_touched(now);
    }

    fn set_applied(&mut self, partition: Partition, seq: Seq) {
        if let Some(applied) = self.applied.seqs.get_mut(usize::from(partition.0)) {
            *applied = seq;
        }
    }
}
