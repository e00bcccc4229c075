//! A session's life in its shard: it arrives, is welcomed, is sent heartbeats, and ends with a code.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use metrics::counter;
use rand::Rng;
use tickwire_core::codes::CloseCode;
use tickwire_core::frames::{Goaway, Heartbeat, Notice, ServerFrame, Welcome};
use tokio::sync::Notify;

use super::Shard;
use crate::arrival::Arrival;
use crate::messages::ToEdge;
use crate::outbox::Outbox;
use crate::session::{Session, Stage};
use crate::socket::{Ended, Socket};
use crate::stats::dropped;

/// How long a session may wait for its welcome before it is told to try elsewhere.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to read its close frame.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// After so many heartbeats without any sign of life a client is given up.
const SILENT_HEARTBEATS: u32 = 3;

/// Over how long a drain spreads the return of its clients, in milliseconds.
const DRAIN_SPREAD_MS: u32 = 2_000;

impl Shard {
    pub(super) fn arrive(&mut self, now: Instant, arrival: Arrival) {
        let Ok(socket) = Socket::unpark(arrival.socket) else { return };
        self.last_session += 1;
        let number = self.last_session;
        let attention = now + JOIN_TIMEOUT;
        let session = Session {
            user: arrival.user.clone(),
            stage: Stage::Joining,
            socket,
            outbox: Outbox::new(self.settings.config.outbox_bytes),
            subscriptions: BTreeMap::new(),
            last_subscription: 0,
            requests: VecDeque::new(),
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
        self.begin_care(now);
        self.sessions.insert(number, session);
        self.ask(ToEdge::Join(self.id(number), arrival.user));
        if self.draining {
            self.close(now, number, CloseCode::Draining);
        }
    }

    pub(super) fn confirmed(&mut self, now: Instant, number: u64) {
        match self.sessions.get(&number).map(|session| session.stage) {
            Some(Stage::Joining) => self.welcome(now, number),
            Some(Stage::Open) => self.grant(now, number),
            // It left while it was being confirmed.
            Some(Stage::Closing) | None => {}
        }
    }

    pub(super) fn welcome(&mut self, now: Instant, number: u64) {
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

    /// Looks after a session whose time has come.
    pub(super) fn attend(&mut self, now: Instant, number: u64) {
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

    pub(super) fn heartbeat(&mut self, now: Instant, number: u64) {
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

    pub(super) fn position(&self, number: u64) -> CompactString {
        let position = self.sessions.get(&number).map(|session| session.outbox.hold_back(&self.applied));
        compact_str::format_compact!("{}", position.as_ref().unwrap_or(&self.applied))
    }

    pub(super) fn remind(&mut self, number: u64, at: Instant) {
        if let Some(session) = self.sessions.get_mut(&number) {
            self.attention.remove(&(session.attention, number));
            session.attention = at;
            self.attention.insert((at, number));
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

    pub(super) fn end(&mut self, now: Instant, number: u64, ended: Ended) {
        match ended {
            Ended::Gone => self.remove(number),
            Ended::Refused(code) => self.close(now, number, code),
        }
    }

    /// Lets go of what waits for a client, counted, and closes.
    pub(super) fn give_up(&mut self, now: Instant, number: u64, code: CloseCode) {
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
    pub(super) fn close(&mut self, now: Instant, number: u64, code: CloseCode) {
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

    pub(super) fn remove(&mut self, number: u64) {
        let Some(session) = self.sessions.remove(&number) else { return };
        for held in session.subscriptions.values() {
            self.index.remove(number, held.number, &held.subscription.filter);
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
