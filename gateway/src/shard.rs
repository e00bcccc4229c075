//! A delivery shard: it owns its sessions, its part of the index and its timers, on a thread of its own. Nothing here
//! is locked, and nothing here waits.
//!
//! Events come in as steps, find their sessions by the index, wait in outboxes, and leave in frames. `commands` is the
//! other direction: what clients ask for. `life` is how sessions come and go.

mod commands;
mod life;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use metrics::counter;
use tickwire_core::codes::CloseCode;
use tickwire_core::coverage::Step;
use tickwire_core::event::Kinds;
use tickwire_core::frames::{Gap, ServerFrame, encode, write_array};
use tickwire_core::ids::{Incarnation, NodeId, Partition, Seq};
use tickwire_core::position::Position;
use tickwire_node::config::GatewayConfig;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::delivery::Delivery;
use crate::index::Index;
use crate::messages::{SessionId, ToEdge, ToShard};
use crate::session::{Session, Stage};
use crate::socket::{Ended, HEADER};
use crate::stats::Stats;

/// What every shard of a gateway is given.
#[derive(Clone, Debug)]
pub(crate) struct ShardConfig {
    pub(crate) gateway: NodeId,
    pub(crate) config: GatewayConfig,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) partitions: u16,
}

/// The state of a shard.
#[derive(Debug)]
pub(crate) struct Shard {
    number: u16,
    settings: ShardConfig,
    edge: UnboundedSender<ToEdge>,
    sessions: HashMap<u64, Session>,
    last_session: u64,
    index: Index,
    applied: Position,
    flushes: BTreeSet<(Instant, u64)>,
    attention: BTreeSet<(Instant, u64)>,
    touched: Vec<u64>,
    /// Sessions that were welcomed and whose sockets are to be watched from now on.
    welcomed: Vec<(u64, Arc<TcpStream>, Rc<Notify>)>,
    frame: Vec<u8>,
    stats: Stats,
    draining: bool,
}

impl Shard {
    pub(crate) fn new(number: u16, settings: ShardConfig, edge: UnboundedSender<ToEdge>) -> Self {
        let seqs = vec![Seq(0); usize::from(settings.partitions)];
        Self {
            number,
            settings,
            edge,
            sessions: HashMap::new(),
            last_session: 0,
            index: Index::default(),
            applied: Position { incarnation: Incarnation(0), seqs },
            flushes: BTreeSet::new(),
            attention: BTreeSet::new(),
            touched: Vec::new(),
            welcomed: Vec::new(),
            frame: Vec::new(),
            stats: Stats::default(),
            draining: false,
        }
    }

    /// Takes what the edge says.
    pub(crate) fn take(&mut self, now: Instant, message: ToShard) {
        match message {
            ToShard::Steps(steps) => {
                for step in steps.iter() {
                    self.step(now, step);
                }
                self.flush_touched(now);
            }
            ToShard::Confirmed(session) => self.confirmed(now, session),
            ToShard::Arrive(arrival) => self.arrive(now, *arrival),
        }
    }

    /// The sessions that were welcomed since the last call, for the caller to watch their sockets.
    pub(crate) fn welcomed(&mut self) -> Vec<(u64, Arc<TcpStream>, Rc<Notify>)> {
        std::mem::take(&mut self.welcomed)
    }

    /// When [`Self::turn`] is next to be called.
    pub(crate) fn next_turn(&self) -> Option<Instant> {
        let first = |timers: &BTreeSet<(Instant, u64)>| timers.first().map(|(at, _)| *at);
        first(&self.flushes).into_iter().chain(first(&self.attention)).min()
    }

    /// Does what is due: windows that end, heartbeats, clients that take too long.
    pub(crate) fn turn(&mut self, now: Instant) {
        while let Some(number) = pop_due(&mut self.flushes, now) {
            if let Some(session) = self.sessions.get_mut(&number) {
                session.flush_at = None;
            }
            self.flush(now, number);
        }
        while let Some(number) = pop_due(&mut self.attention, now) {
            self.attend(now, number);
        }
    }

    /// Adds what was counted to the metrics.
    pub(crate) fn publish_stats(&mut self) {
        self.stats.publish();
    }

    /// Whether no session is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Whether bytes wait for this session's socket to take them; `None` when the session is gone.
    pub(crate) fn is_blocked(&self, number: u64) -> Option<bool> {
        self.sessions.get(&number).map(|session| session.socket.unsent() > 0)
    }

    /// The socket takes bytes again.
    pub(crate) fn writable(&mut self, now: Instant, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        match session.socket.flush() {
            Err(ended) => self.end(now, number, ended),
            Ok(()) => self.flush(now, number),
        }
    }

    fn id(&self, number: u64) -> SessionId {
        SessionId { shard: self.number, number }
    }

    /// The edge outlives its shards; if it is gone, the process is ending.
    fn ask(&self, request: ToEdge) {
        if self.edge.send(request).is_err() {
            tracing::debug!("the edge has ended");
        }
    }

    fn step(&mut self, now: Instant, step: &Step<Arc<Delivery>>) {
        match step {
            Step::Adopt { partition, at } => self.set_applied(*partition, *at),
            Step::Apply { partition, upto, events, .. } => {
                for (_, delivery) in events {
                    self.deliver(now, delivery);
                }
                self.set_applied(*partition, *upto);
            }
            Step::Gap { partition, from, upto, reason } => {
                self.set_applied(*partition, *upto);
                let reason = CompactString::const_new(reason.as_str());
                self.tell_gap(now, &Gap { reason, p: *partition, from: *from, to: *upto });
            }
            Step::Reset { former, incarnation } => {
                self.applied.incarnation = *incarnation;
                if former.is_none() {
                    return;
                }
                for at in 0..self.settings.partitions {
                    let last = std::mem::take(&mut self.applied.seqs[usize::from(at)]);
                    let gap = Gap { reason: CompactString::const_new("reset"), p: Partition(at), from: last, to: last };
                    self.tell_gap(now, &gap);
                }
            }
        }
    }

    fn set_applied(&mut self, partition: Partition, seq: Seq) {
        if let Some(applied) = self.applied.seqs.get_mut(usize::from(partition.0)) {
            *applied = seq;
        }
    }

    /// Puts an event into the outboxes of the sessions that it concerns.
    fn deliver(&mut self, now: Instant, delivery: &Arc<Delivery>) {
        self.stats.events += 1;
        let (sessions, touched) = (&mut self.sessions, &mut self.touched);
        let mut overflowed = Vec::new();
        let mut matched = false;
        self.index.matching(&delivery.event, |number, window_ms| {
            matched = true;
            let Some(session) = sessions.get_mut(&number).filter(|session| session.stage == Stage::Open) else {
                return;
            };
            let window = Duration::from_millis(window_ms.into());
            let encoding = session.socket.encoding();
            if session.outbox.push(now, delivery, window, encoding).is_err() {
                overflowed.push(number);
            } else if !std::mem::replace(&mut session.touched, true) {
                touched.push(number);
            }
        });
        self.stats.unmatched += u64::from(!matched);
        for number in overflowed {
            self.give_up(now, number, CloseCode::SlowConsumer);
        }
    }

    fn tell_gap(&mut self, now: Instant, gap: &Gap) {
        counter!("tickwire_gateway_gaps_told_total", "reason" => gap.reason.to_string()).increment(1);
        let concerned: Vec<u64> =
            self.sessions.iter().filter(|(_, session)| !session.subscriptions.is_empty()).map(|(at, _)| *at).collect();
        for number in concerned {
            self.flush(now, number);
            self.reply(now, number, &ServerFrame::Gap(gap.clone()));
        }
    }

    fn flush_touched(&mut self, now: Instant) {
        for number in std::mem::take(&mut self.touched) {
            let Some(session) = self.sessions.get_mut(&number) else { continue };
            session.touched = false;
            match session.outbox.due() {
                Some(due) if due <= now => self.flush(now, number),
                Some(due) => self.flush_later(number, due),
                None => {}
            }
        }
    }

    fn flush_later(&mut self, number: u64, due: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if session.flush_at.is_some_and(|at| at <= due) {
            return;
        }
        if let Some(at) = session.flush_at.replace(due) {
            self.flushes.remove(&(at, number));
        }
        self.flushes.insert((due, number));
    }

    /// Sends what waits, as far as the socket takes it.
    fn flush(&mut self, now: Instant, number: u64) {
        let Some(session) = self.sessions.get_mut(&number).filter(|session| session.stage == Stage::Open) else {
            return;
        };
        if let Some(at) = session.flush_at.take() {
            self.flushes.remove(&(at, number));
        }
        let encoding = session.socket.encoding();
        while session.socket.unsent() == 0 {
            let count = session.outbox.next_frame(encoding);
            if count == 0 {
                return;
            }
            self.frame.clear();
            self.frame.resize(HEADER, 0);
            write_array(
                &mut self.frame,
                session.outbox.first(count).map(|delivery| &delivery.object(encoding)[..]),
                encoding,
            );
            let sent = session.socket.send(&mut self.frame);
            session.outbox.sent(now, count, encoding);
            self.stats.sent(count as u64, self.frame.len() as u64);
            if let Err(ended) = sent {
                self.end(now, number, ended);
                return;
            }
        }
        session.rewatch.notify_one();
    }

    /// Sends one frame at once.
    fn reply(&mut self, now: Instant, number: u64, frame: &ServerFrame) {
        match self.send(number, frame) {
            Err(ended) => self.end(now, number, ended),
            Ok(unsent) if unsent > self.settings.config.outbox_bytes => {
                self.give_up(now, number, CloseCode::SlowConsumer);
            }
            Ok(_) => {}
        }
    }

    /// Writes one frame; tells how many bytes wait for the socket then.
    fn send(&mut self, number: u64, frame: &ServerFrame) -> Result<usize, Ended> {
        let Some(session) = self.sessions.get_mut(&number) else { return Ok(0) };
        let encoding = session.socket.encoding();
        self.frame.clear();
        self.frame.resize(HEADER, 0);
        write_array(&mut self.frame, [&encode(frame, encoding)[..]].into_iter(), encoding);
        self.stats.sent(0, self.frame.len() as u64);
        let sent = session.socket.send(&mut self.frame);
        session.rewatch.notify_one();
        sent.map(|()| session.socket.unsent())
    }
}

fn pop_due(timers: &mut BTreeSet<(Instant, u64)>, now: Instant) -> Option<u64> {
    timers.first().filter(|(at, _)| *at <= now)?;
    timers.pop_first().map(|(_, number)| number)
}
