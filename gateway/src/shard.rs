//! A delivery shard: it owns its sessions, its part of the index and its timers, on a thread of its own. Nothing here
//! is locked, and nothing here waits.
//!
//! Events come in as steps, find their sessions by the index, wait in outboxes, and leave in frames (`flush`).
//! `turns` is the other direction: whose commands are read next; `commands` answers them. `past` is for those who catch
//! up. `epoch` is how sessions come and go, `term` how long their tokens let them stay, `maintain` what is done once in a while,
//! `reset` what is done when another life of the stream begins.

pub(crate) mod accounts;
pub(crate) mod backfill;
mod commands;
mod flush;
mod gaps;
mod lifecycle;
mod maintenance;
pub(crate) mod mistakes;
pub(crate) mod pulse;
mod reset;
#[cfg(test)]
mod rig;
pub(crate) mod runner;
pub(crate) mod session;
pub(crate) mod sessions;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
mod token_term;
pub(crate) mod turns;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::Kinds;
use tickwire_core::ids::{EpochId, Millis, NodeId, Partition, Seq};
use tickwire_core::protocol::codes::{CloseCode, NoticeCode};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Notice, ServerFrame};
use tickwire_node::clock::millis;
use tickwire_node::config::GatewayConfig;

use crate::byte_queue::Sender;
use crate::delivery::Delivery;
use crate::handshake::auth::Authenticator;
use crate::index::Index;
use crate::index::metrics::PublishedStatistics;
use crate::limits::account::Account;
use crate::limits::budget::Rate;
use crate::messages::{FromEdge, SessionId, SkippedRange, ToEdge};
use crate::outbox::{Frame, OutboxLimits, OutboxLoad};
use crate::shard::accounts::Accounts;
use crate::shard::backfill::{Cohort, CohortItem};
use crate::shard::gaps::gap;
use crate::shard::session::SessionStage;
use crate::shard::sessions::Sessions;
use crate::shard::timers::Timers;
use crate::shard::turns::CommandRates;
use crate::socket::Socket;
use crate::stats::Stats;

/// How finely windows end, in milliseconds.
const FLUSH_SLOT_MS: u64 = 4;

/// How finely heartbeats and deadlines are kept, in milliseconds.
const ATTENTION_SLOT_MS: u64 = 20;

/// So many times the longest range may be read for a user's sessions that catch up, after none was for long enough.
const PAST_BURST: u64 = 2;

/// The weight of a session whose token names none.
pub(crate) const USUAL_WEIGHT: u8 = 1;

/// What every shard of a gateway is given.
#[derive(Clone, Debug)]
pub(crate) struct ShardConfig {
    pub(crate) gateway: NodeId,
    pub(crate) config: GatewayConfig,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) partitions: u16,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) clocks: Clocks,
}

/// What a shard reads of the time beside what it is told: how long its work takes, and the time of day of tokens and
/// events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// The time of day, as the duration since 1970.
    pub(crate) wall: fn() -> Duration,
    /// A time that only ever grows.
    pub(crate) monotonic: fn() -> Duration,
}

/// The state of a shard.
#[derive(Debug)]
pub(crate) struct Shard<S> {
    number: u16,
    settings: ShardConfig,
    limits: OutboxLimits,
    edge: Sender<ToEdge>,
    sessions: Sessions<S>,
    accounts: Accounts,
    /// Sessions of another than the usual weight.
    weighted: usize,
    index: Index,
    index_published: PublishedStatistics,
    applied: Position,
    /// The last sequence of the life of the stream before this one.
    before: Seq,
    /// What clients that come are told, while the cluster does not reach this gateway.
    outage: Option<Notice>,
    flushes: Timers,
    attention: Timers,
    /// Sessions whose sockets wait to be read, in the order of their turns.
    due: VecDeque<u64>,
    /// When those that have used up their rate are read again.
    pauses: Timers,
    /// Too much waits for the edge, which is looked at again then.
    edge_full_until: Option<Millis>,
    command_rates: CommandRates,
    /// Sessions that wait until their users may be given the past again.
    put_off: Timers,
    past_rate: Rate,
    maintain_at: Millis,
    touched: Vec<u64>,
    heavy: Vec<u64>,
    /// The sessions that are given the past together.
    cohorts: BTreeMap<u64, Cohort>,
    /// Sessions that catch up and let new events go.
    behind: Vec<u64>,
    /// An account that nothing is counted for.
    unlimited: Account,
    /// Sessions that were welcomed and whose sockets are to be watched from now on.
    welcomed: Vec<u64>,
    /// What the next frame says, and its bytes: the memory of both is used again.
    content: Frame,
    frame: Vec<u8>,
    stats: Stats,
    draining: bool,
}

impl<S: Socket> Shard<S> {
    pub(crate) fn new(number: u16, settings: ShardConfig, edge: Sender<ToEdge>) -> Self {
        let seqs = vec![Seq(0); usize::from(settings.partitions)];
        let config = &settings.config;
        let limits = OutboxLimits {
            bytes: config.outbox_bytes,
            critical: config.critical_rate,
            lanes: config.lanes,
            patience: millis(config.slow_deadline),
        };
        let past_rate = Rate::new(config.catch_up_rate, config.replay_range.saturating_mul(PAST_BURST));
        let command_rates = CommandRates::new(config.command_rate, config.command_burst);
        Self {
            number,
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
            put_off: Timers::new(ATTENTION_SLOT_MS),
            past_rate,
            maintain_at: Millis(crate::shard::maintenance::INTERVAL_MS),
            touched: Vec::new(),
            heavy: Vec::new(),
            cohorts: BTreeMap::new(),
            behind: Vec::new(),
            unlimited: Account::new(0),
            welcomed: Vec::new(),
            content: Frame::default(),
            frame: Vec::new(),
            stats: Stats::default(),
            draining: false,
        }
    }

    /// Takes what the edge says.
    pub(crate) fn take(&mut self, now: Millis, message: FromEdge) {
        match message {
            FromEdge::Steps(steps) => {
                let mut gaps = Vec::new();
                for step in &steps.steps {
                    if let CoverageEvent::Gap { partition, from, through, reason } = step {
                        gaps.push(gap(reason.as_str(), *partition, *from, *through));
                        continue;
                    }
                    self.tell_all(now, &std::mem::take(&mut gaps));
                    self.step(now, step);
                }
                self.tell_all(now, &gaps);
                self.flush_touched(now);
                self.renew(now);
            }
            FromEdge::LeftOut(ranges) => self.miss(now, &ranges),
            FromEdge::Upstream(code, reason) => self.tell_upstream(now, code, reason),
            FromEdge::Confirmed(session) => self.confirmed(now, session),
            FromEdge::SendAway(sessions) => {
                for session in sessions {
                    self.send_away(now, session, "rebalance", CloseCode::Moved);
                }
            }
            FromEdge::Gathered(cohort, numbers) => self.gathered(cohort, numbers),
            FromEdge::Past(past) => self.enqueue_item(past.cohort, CohortItem::Piece { past, step: 0, event: 0 }),
            FromEdge::PastEnds(cohort) => self.enqueue_item(cohort, CohortItem::End),
            FromEdge::Found(session, time, found) => self.found(now, session, time, found),
        }
    }

    /// The sessions that were welcomed since the last call, for the caller to watch their sockets.
    pub(crate) fn welcomed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.welcomed)
    }

    /// When [`Self::turn`] is next to be called.
    pub(crate) fn next_turn(&self) -> Millis {
        [self.flushes.next(), self.attention.next(), self.next_pause(), self.put_off.next()]
            .into_iter()
            .flatten()
            .fold(self.maintain_at, Millis::min)
    }

    /// Does what is due: windows that end, heartbeats, clients that take too long.
    pub(crate) fn turn(&mut self, now: Millis) {
        while let Some((at, mut numbers)) = self.flushes.pop_due(now) {
            self.order(&mut numbers);
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
        self.end_put_off(now);
        self.maintain(now);
    }

    /// Adds what was counted to the metrics.
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

    /// The edge outlives its shards; if it is gone, the process is ending.
    fn ask(&self, request: ToEdge) {
        if !self.edge.send(request) {
            tracing::debug!("the edge has ended");
        }
    }

    fn step(&mut self, now: Millis, step: &CoverageEvent<Arc<Delivery>>) {
        match step {
            CoverageEvent::Adopt { partition, at } => self.set_applied(*partition, *at),
            CoverageEvent::Apply { partition, through, events, .. } => {
                for (_, delivery) in events {
                    self.deliver(now, delivery);
                }
                self.set_applied(*partition, *through);
            }
            // Told with those that stand beside it.
            CoverageEvent::Gap { .. } => {}
            CoverageEvent::Reset { former, epoch } => self.begin_epoch(now, former.is_some(), *epoch),
        }
    }

    /// The shard was too far behind to be handed this.
    fn miss(&mut self, now: Millis, ranges: &[SkippedRange]) {
        let (lost, empty): (Vec<_>, Vec<_>) = ranges.iter().partition(|range| range.is_lost);
        for SkippedRange { partition, through, .. } in empty {
            self.set_applied(*partition, *through);
        }
        let gaps = lost.into_iter().map(|range| gap("overload", range.partition, range.from, range.through));
        self.tell_all(now, &gaps.collect::<Vec<_>>());
        self.flush_touched(now);
    }

    fn set_applied(&mut self, partition: Partition, seq: Seq) {
        if let Some(applied) = self.applied.seqs.get_mut(usize::from(partition.0)) {
            *applied = seq;
        }
    }

    /// Puts an event into the outboxes of the sessions that it concerns.
    fn deliver(&mut self, now: Millis, delivery: &Arc<Delivery>) {
        self.stats.events += 1;
        let Self { index, sessions, touched, heavy, limits, .. } = self;
        let mut matched = false;
        index.matching(&delivery.event, |subscriber| {
            matched = true;
            let Some(session) =
                sessions.get_mut(subscriber.session).filter(|session| session.stage == SessionStage::Open)
            else {
                return;
            };
            let (number, window, encoding) = (subscriber.subscription, subscriber.window_ms, session.socket.encoding());
            if session.is_given(delivery) {
                return;
            }
            if session.outbox.push(now, delivery, number, window, encoding, limits) == OutboxLoad::Heavy {
                heavy.push(subscriber.session);
            }
            if !std::mem::replace(&mut session.touched, true) {
                touched.push(subscriber.session);
            }
        });
        self.stats.unmatched += u64::from(!matched);
        // One that several subscriptions found stands there several times.
        self.heavy.sort_unstable();
        self.heavy.dedup();
        for number in std::mem::take(&mut self.heavy) {
            self.shed_load(now, number);
        }
    }

    /// The cluster does not reach this gateway, or does again. Those that wait for their welcome are told as well: it is
    /// what they wait for. The end is told to whoever was told of the beginning.
    fn tell_upstream(&mut self, now: Millis, code: NoticeCode, reason: Option<String>) {
        let notice = Notice { msg: reason, ..Notice::new(code) };
        if code == NoticeCode::UpstreamLost {
            self.outage = Some(notice);
            for number in self.sessions.numbers(|session| session.stage != SessionStage::Closing) {
                self.tell_outage(now, number);
            }
        } else {
            self.outage = None;
            for number in self.sessions.numbers(|session| session.knows_outage) {
                if let Some(session) =
                    self.sessions.get_mut(number).filter(|session| session.stage != SessionStage::Closing)
                {
                    session.knows_outage = false;
                    self.notify(now, number, &notice);
                }
            }
        }
    }

    /// Tells a session that the cluster does not reach this gateway, if that is so, and it does not know.
    fn tell_outage(&mut self, now: Millis, number: u64) {
        let Some(notice) = self.outage.clone() else { return };
        let Some(session) = self.sessions.get_mut(number) else { return };
        if !std::mem::replace(&mut session.knows_outage, true) {
            self.notify(now, number, &notice);
        }
    }

    fn notify(&mut self, now: Millis, number: u64, notice: &Notice) {
        counter!("tickwire_gateway_notices_total", "code" => notice.code.to_string()).increment(1);
        self.reply(now, number, &ServerFrame::Notice(notice.clone()));
    }

    fn flush_touched(&mut self, now: Millis) {
        let mut touched = std::mem::take(&mut self.touched);
        self.order(&mut touched);
        for number in touched.drain(..) {
            let Some(session) = self.sessions.get_mut(number) else { continue };
            session.touched = false;
            match session.outbox.due() {
                Some(due) if due <= now => self.flush(now, number),
                Some(due) => self.flush_later(number, due),
                None => {}
            }
        }
        // Its memory is used again.
        self.touched = touched;
    }

    /// Puts sessions of more weight first.
    fn order(&self, numbers: &mut [u64]) {
        if self.weighted > 0 {
            let weight = |number: &u64| self.sessions.get(*number).map_or(0, |session| session.weight);
            numbers.sort_by_key(|number| Reverse(weight(number)));
        }
    }
}
