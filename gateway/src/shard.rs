//! A delivery shard: it owns its sessions, its part of the index and its timers, on a thread of its own. Nothing here
//! is locked, and nothing here waits.
//!
//! Events come in as steps, find their sessions by the index, wait in outboxes, and leave in frames. `commands.rs`
//! is the other direction: what clients ask for.

mod commands;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use metrics::counter;
use rand::Rng;
use tickwire_core::codes::CloseCode;
use tickwire_core::coverage::Step;
use tickwire_core::event::Kinds;
use tickwire_core::frames::{Gap, Goaway, Heartbeat, Notice, ServerFrame, Welcome, encode, write_array};
use tickwire_core::ids::{Incarnation, NodeId, Partition, Seq};
use tickwire_core::position::Position;
use tickwire_node::config::GatewayConfig;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::arrival::Arrival;
use crate::delivery::Delivery;
use crate::index::Index;
use crate::messages::{SessionId, ToEdge, ToShard};
use crate::outbox::Outbox;
use crate::session::{Session, Stage};
use crate::socket::{Ended, HEADER, Socket};
use crate::stats::{Stats, dropped};

/// How long a session may wait for its welcome before it is told to try elsewhere.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to read its close frame.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// After so many heartbeats without any sign of life a client is given up.
const SILENT_HEARTBEATS: u32 = 3;

/// Over how long a drain spreads the return of its clients, in milliseconds.
const DRAIN_SPREAD_MS: u32 = 2_000;

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

    /// The socket broke.
    pub(crate) fn gone(&mut self, number: u64) {
        self.remove(number);
    }

    /// Tells every client to go, and when to come back.
    pub(crate) fn drain(&mut self, now: Instant) {
        self.draining = true;
        let numbers: Vec<u64> = self.sessions.keys().copied().collect();
        for number in numbers {
            self.flush(now, number);
            let reconnect_ms = rand::rng().random_range(0..DRAIN_SPREAD_MS);
            let goaway = Goaway { reason: CompactString::const_new("drain"), reconnect_ms };
            self.reply(now, number, &ServerFrame::Goaway(goaway));
            self.close(now, number, CloseCode::Draining);
        }
    }

    fn arrive(&mut self, now: Instant, arrival: Arrival) {
        let Ok(socket) = Socket::unpark(arrival.socket) else { return };
        self.last_session += 1;
        let number = self.last_session;
        let attention = now + JOIN_TIMEOUT;
        let session = Session {
            user: arrival.user.clone(),
            stage: Stage::Joining,
            socket,
            outbox: Outbox::new(self.settings.config.outbox_bytes),
            subscriptions: std::collections::BTreeMap::new(),
            requests: std::collections::VecDeque::new(),
            refused: 0,
            heard: now,
            attention,
            flush_at: None,
            touched: false,
            rewatch: Rc::new(Notify::new()),
            _place: arrival.place,
        };
        self.attention.insert((attention, number));
        self.index.sit(&session.user, number);
        self.sessions.insert(number, session);
        self.ask(ToEdge::Join(self.id(number), arrival.user));
        if self.draining {
            self.close(now, number, CloseCode::Draining);
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

    fn confirmed(&mut self, now: Instant, number: u64) {
        match self.sessions.get(&number).map(|session| session.stage) {
            Some(Stage::Joining) => self.welcome(now, number),
            Some(Stage::Open) => self.grant(now, number),
            // It left while it was being confirmed.
            Some(Stage::Closing) | None => {}
        }
    }

    fn welcome(&mut self, now: Instant, number: u64) {
        let heartbeat = self.settings.config.heartbeat_interval;
        let id = self.id(number);
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.stage = Stage::Open;
        session.heard = now;
        self.welcomed.push((number, session.socket.tcp(), Rc::clone(&session.rewatch)));
        let welcome = Welcome {
            session: compact_str::format_compact!("{}-{}-{}", self.settings.gateway, id.shard, id.number),
            user: session.user.clone(),
            gateway: self.settings.gateway.clone(),
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
            resumed: false,
        };
        self.reply(now, number, &ServerFrame::Welcome(welcome));
        self.remind(number, now + heartbeat);
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
            Step::Gap { partition, from, upto } => {
                self.set_applied(*partition, *upto);
                self.tell_gap(
                    now,
                    &Gap { reason: CompactString::const_new("lost"), p: *partition, from: *from, to: *upto },
                );
            }
            Step::Reset { incarnation } => {
                let former = std::mem::replace(&mut self.applied.incarnation, *incarnation);
                if former == Incarnation(0) {
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

    /// Looks after a session whose time has come.
    fn attend(&mut self, now: Instant, number: u64) {
        let Some(session) = self.sessions.get(&number) else { return };
        if session.attention > now {
            return;
        }
        let heartbeat = self.settings.config.heartbeat_interval;
        match session.stage {
            Stage::Joining => self.close(now, number, CloseCode::Unavailable),
            Stage::Closing => self.remove(number),
            Stage::Open if now.duration_since(session.heard) > heartbeat * SILENT_HEARTBEATS => {
                self.give_up(now, number, CloseCode::Unresponsive);
            }
            Stage::Open => {
                self.remind(number, now + heartbeat);
                self.heartbeat(now, number);
            }
        }
    }

    fn heartbeat(&mut self, now: Instant, number: u64) {
        self.flush(now, number);
        let Some(session) = self.sessions.get_mut(&number) else { return };
        // A blocked socket has enough to do; its client knows the connection by the frames it is still reading.
        if session.socket.unsent() > 0 {
            return;
        }
        let position = self.position(number);
        self.reply(now, number, &ServerFrame::Heartbeat(Heartbeat { position }));
        if let Some(session) = self.sessions.get_mut(&number)
            && let Err(ended) = session.socket.ping()
        {
            self.end(now, number, ended);
        }
    }

    fn position(&self, number: u64) -> CompactString {
        let position = self.sessions.get(&number).map(|session| session.outbox.hold_back(&self.applied));
        compact_str::format_compact!("{}", position.as_ref().unwrap_or(&self.applied))
    }

    fn remind(&mut self, number: u64, at: Instant) {
        if let Some(session) = self.sessions.get_mut(&number) {
            self.attention.remove(&(session.attention, number));
            session.attention = at;
            self.attention.insert((at, number));
        }
    }

    fn end(&mut self, now: Instant, number: u64, ended: Ended) {
        match ended {
            Ended::Gone => self.remove(number),
            Ended::Refused(code) => self.close(now, number, code),
        }
    }

    /// Lets go of what waits for a client, counted, and closes.
    fn give_up(&mut self, now: Instant, number: u64, code: CloseCode) {
        let waiting = self.sessions.get(&number).map_or(0, |session| session.outbox.len() as u64);
        dropped("closed", waiting);
        if code == CloseCode::SlowConsumer {
            let notice = Notice {
                code: CompactString::const_new("slow_consumer"),
                msg: Some(code.text().to_owned()),
                dropped: waiting,
            };
            self.send(number, &ServerFrame::Notice(notice)).ok();
        }
        self.close(now, number, code);
    }

    /// Says goodbye. The session takes no events any more, and goes when the client has read it, or time is up.
    fn close(&mut self, now: Instant, number: u64, code: CloseCode) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if session.stage == Stage::Closing {
            return;
        }
        counter!("tickwire_gateway_closes_total", "code" => code.code().to_string()).increment(1);
        session.stage = Stage::Closing;
        let said = session.socket.close(code);
        session.rewatch.notify_one();
        if said.is_err() {
            self.remove(number);
        } else {
            self.remind(number, now + CLOSE_GRACE);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(session) = self.sessions.remove(&number) else { return };
        for (name, held) in &session.subscriptions {
            self.index.remove(number, name, &held.filter);
        }
        self.index.rise(&session.user, number);
        self.attention.remove(&(session.attention, number));
        if let Some(at) = session.flush_at {
            self.flushes.remove(&(at, number));
        }
        session.rewatch.notify_one();
        self.ask(ToEdge::Leave(self.id(number), session.filters()));
    }
}

fn pop_due(timers: &mut BTreeSet<(Instant, u64)>, now: Instant) -> Option<u64> {
    timers.first().filter(|(at, _)| *at <= now)?;
    timers.pop_first().map(|(_, number)| number)
}
