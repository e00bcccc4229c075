//! The lifecycle of a session in its shard: it arrives, is welcomed, gets heartbeats, and ends with a code.

use std::collections::VecDeque;
use std::net::IpAddr;

use compact_str::CompactString;
use rand::Rng;
use tickwire_core::ids::Millis;
use tickwire_core::protocol::codes::{CloseCode, NoticeCode};
use tickwire_core::protocol::{Goaway, Heartbeat, ServerFrame, Welcome};
use tickwire_node::clock::millis;
use tokio::sync::OwnedSemaphorePermit;

use super::Shard;
use super::flush::worded;
use crate::auth::USUAL_WEIGHT;
use crate::auth::{Identity, TokenTerm};
use crate::limits::budget::Budget;
use crate::messages::ToEdge;
use crate::metrics;
use crate::outbox::Outbox;
use crate::record::{Record, Sent};
use crate::shard::backfill::BACKFILL_HEARTBEAT_MS;
use crate::shard::liveness::{Liveness, LivenessVerdict};
use crate::shard::malformed_frames::MalformedFrames;
use crate::shard::session::{Session, SessionStage};
use crate::shard::turns::SocketReading;
use crate::socket::{Socket, SocketEnd};
use crate::stats::dropped;

/// How long a session may wait for its welcome before it is closed to try elsewhere, in milliseconds.
const JOIN_TIMEOUT_MS: u64 = 10_000;

/// How often a session is checked before its welcome, in milliseconds. Its socket is not read until then, so only this
/// check frees the place of a client that has left.
const JOIN_LOOK_MS: u64 = 1_000;

/// How long a session may wait for its welcome during an outage, in milliseconds.
const OUTAGE_JOIN_TIMEOUT_MS: u64 = 60_000;

/// When a new session is notified of an outage, in milliseconds after its arrival. Most get their welcome before that.
const OUTAGE_NOTICE_MS: u64 = 100;

/// When a client without a sign of life is checked again, in milliseconds.
const SECOND_LOOK_MS: u64 = 1_000;

/// How long a client may take to read its close frame, in milliseconds.
const CLOSE_GRACE_MS: u64 = 5_000;

/// The longest time that a client that is sent away waits before it connects elsewhere, in milliseconds. Each client
/// gets a random time.
const RECONNECT_JITTER_MS: u32 = 1_000;

impl<S: Socket> Shard<S> {
    /// Starts the session of an authenticated client. `place` is its place among the sessions of this gateway, and
    /// `takes_saved` says whether it gets the saved subscriptions of its user.
    pub(crate) fn arrive(
        &mut self,
        now: Millis,
        socket: S,
        identity: Identity,
        peer: IpAddr,
        place: OwnedSemaphorePermit,
        takes_saved: bool,
    ) {
        let Identity { user, plan, weight, expires } = identity;
        let account = self.accounts.join(&user, self.settings.config.rate_of(plan.as_deref()));
        let is_one_too_many = self.accounts[account].sessions > self.settings.config.user_sessions;
        let session = Session {
            user: user.clone(),
            account,
            weight,
            stage: SessionStage::Joining,
            socket,
            reading: SocketReading::Awaited,
            commands: Budget::default(),
            outbox: Outbox::new(),
            subscriptions: Vec::new(),
            last_subscription: 0,
            filter_bytes: 0,
            has_quotas: false,
            outage_notified: false,
            is_watched: false,
            requests: VecDeque::new(),
            backfill: None,
            ahead: None,
            partially_sent: 0,
            sent: Sent::default(),
            saved: takes_saved.then(Box::default),
            reminders: None,
            record: Record::new(now, peer),
            malformed_frames: MalformedFrames::default(),
            liveness: Liveness::new(now),
            term: expires.map(|expires| TokenTerm::new((self.settings.clocks.wall)(), expires)),
            beat_at: now,
            attention: now,
            flush_at: None,
            touched: false,
            _place: place,
        };
        let number = self.sessions.insert(session);
        self.weighted += usize::from(weight != USUAL_WEIGHT);
        let first = if self.outage.is_some() { OUTAGE_NOTICE_MS } else { JOIN_LOOK_MS };
        self.set_timer(number, now.plus(first));
        self.index.register(&user, number);
        self.register(number);
        self.ask(ToEdge::Join(self.id(number), user));
        if self.draining {
            self.close(now, number, CloseCode::Draining);
        } else if is_one_too_many {
            self.close(now, number, CloseCode::TooManySessions);
        }
    }

    pub(super) fn confirmed(&mut self, now: Millis, number: u64) {
        match self.sessions.get(number).map(|session| session.stage) {
            Some(SessionStage::Joining) => self.welcome(now, number),
            Some(SessionStage::Open) => self.grant(now, number),
            // It ended before the confirmation.
            Some(SessionStage::Closing) | None => {}
        }
    }

    pub(super) fn welcome(&mut self, now: Millis, number: u64) {
        if self.is_over(number) {
            return self.close(now, number, CloseCode::TokenExpired);
        }
        let heartbeat = self.settings.config.heartbeat_interval;
        let id = self.id(number);
        let subscriptions = self.hold_saved(now, number);
        let Some(session) = self.sessions.get_mut(number) else { return };
        session.stage = SessionStage::Open;
        session.liveness = Liveness::new(now);
        session.beat_at = now.plus(millis(heartbeat));
        let welcome = Welcome {
            session: compact_str::format_compact!("{}-{}-{}", self.settings.gateway, id.shard, id.number),
            user: session.user.clone(),
            gateway: self.settings.gateway.clone(),
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
            max_frame_bytes: Some(self.settings.config.max_frame_bytes as u64),
            subscriptions,
        };
        self.watch(number);
        self.log_opened(now, number);
        self.reply(now, number, &ServerFrame::Welcome(welcome));
        self.notify_outage(now, number);
        // During a drain the timer for its turn to leave must stay.
        if !self.draining {
            self.set_next_timer(now, number);
        }
    }

    /// Serves a session whose timer is due.
    pub(super) fn on_timer(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get(number) else { return };
        match session.stage {
            SessionStage::Closing => self.remove(now, number),
            SessionStage::Open if self.draining => self.send_away(now, number, "drain", CloseCode::Draining),
            SessionStage::Joining if self.draining => self.close(now, number, CloseCode::Draining),
            SessionStage::Joining => self.check_joining(now, number, now.since(session.beat_at)),
            SessionStage::Open => self.look_after(now, number),
        }
    }

    /// Serves an open session: checks its token and its liveness, and sends a heartbeat if one is due.
    fn look_after(&mut self, now: Millis, number: u64) {
        if !self.check_token(now, number) {
            return;
        }
        if self.sessions.get(number).and_then(Session::saved_due).is_some_and(|due| due <= now) {
            self.apply_saved(now, number);
        }
        let (heartbeat, patience) = (self.heartbeat_ms(), millis(self.settings.config.slow_deadline));
        let Some(session) = self.sessions.get_mut(number) else { return };
        if session.beat_at <= now {
            let pause = if session.backfill.is_some() { heartbeat.min(BACKFILL_HEARTBEAT_MS) } else { heartbeat };
            session.beat_at = now.plus(pause);
            // Unread bytes are a sign of life, whatever the reason that they are not read yet.
            if session.reading != SocketReading::Awaited {
                session.liveness.received(now);
            }
            match session.liveness.check(now, heartbeat, patience, session.socket.unsent() > 0) {
                LivenessVerdict::Alive => self.heartbeat(now, number),
                LivenessVerdict::CheckAgain => session.beat_at = now.plus(SECOND_LOOK_MS.min(heartbeat)),
                LivenessVerdict::Stalled => return self.close(now, number, CloseCode::SlowConsumer),
                LivenessVerdict::Silent => return self.close(now, number, CloseCode::Unresponsive),
            }
        }
        self.set_next_timer(now, number);
    }

    /// Sets the timer for what is due first: the next heartbeat of the session, its token, or its saved subscriptions.
    pub(super) fn set_next_timer(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get(number).filter(|session| session.stage == SessionStage::Open) else {
            return;
        };
        let (beat_at, saved_due) = (session.beat_at, session.saved_due());
        let due = [self.term_due(now, number), saved_due].into_iter().flatten().fold(beat_at, Millis::min);
        self.set_timer(number, due);
    }

    pub(super) fn heartbeat(&mut self, now: Millis, number: u64) {
        self.flush(now, number);
        let Some(session) = self.sessions.get_mut(number) else { return };
        // A blocked socket gets no heartbeat: its client still receives frames, so it knows that the connection works.
        if session.socket.unsent() > 0 {
            return;
        }
        self.send_position(now, number);
        let Some(session) = self.sessions.get_mut(number).filter(|session| session.stage == SessionStage::Open) else {
            return;
        };
        // If the ping must wait in the socket, the bytes that are sent before it are signs of life.
        session.liveness.pinged(now);
        if let Err(ended) = session.socket.ping() {
            self.end(now, number, ended);
        }
    }

    /// Checks a session that has `waited` for its welcome, in milliseconds. During an outage it may wait longer, and
    /// gets the notice.
    fn check_joining(&mut self, now: Millis, number: u64, waited: u64) {
        let patience = if self.outage.is_some() { OUTAGE_JOIN_TIMEOUT_MS } else { JOIN_TIMEOUT_MS };
        if self.sessions.get_mut(number).is_some_and(|session| session.socket.is_gone()) {
            return self.gone(now, number);
        }
        if self.is_over(number) {
            return self.close(now, number, CloseCode::TokenExpired);
        }
        if waited >= patience {
            return self.close(now, number, CloseCode::Unavailable);
        }
        self.set_timer(number, now.plus(JOIN_LOOK_MS.min(patience - waited)));
        self.notify_outage(now, number);
    }

    /// Sends a heartbeat, with the position if the client has one here.
    pub(super) fn send_position(&mut self, now: Millis, number: u64) {
        let has_position = self.sessions.get(number).is_some_and(Session::has_position);
        let position = has_position.then(|| self.position(number));
        self.reply(now, number, &ServerFrame::Heartbeat(Heartbeat { position }));
    }

    pub(super) fn position(&self, number: u64) -> CompactString {
        let Some(session) = self.sessions.get(number) else { return compact_str::format_compact!("{}", self.applied) };
        let mut position = session.outbox.hold_back(&self.applied);
        session.raise(&mut position);
        // Waiting events of an earlier epoch do not limit the position in this one. The backfill limits it to what the
        // client has received of the earlier epoch.
        position.seqs.iter_mut().for_each(|seq| *seq = self.before.max(*seq));
        if let Some(backfill) = &session.backfill {
            backfill.hold_back(&mut position);
        }
        compact_str::format_compact!("{position}")
    }

    pub(super) fn set_timer(&mut self, number: u64, at: Millis) {
        if let Some(session) = self.sessions.get_mut(number) {
            session.attention = self.attention.round(at);
            self.attention.set(session.attention, number);
        }
    }

    fn heartbeat_ms(&self) -> u64 {
        millis(self.settings.config.heartbeat_interval)
    }

    /// The socket is broken.
    pub(crate) fn gone(&mut self, now: Millis, number: u64) {
        self.remove(now, number);
    }

    /// Sends all clients away, one after the other over the drain window, so that they do not all connect elsewhere at
    /// the same moment. Until its turn a session is served as usual.
    pub(crate) fn drain(&mut self, now: Millis) {
        self.draining = true;
        let window = millis(self.settings.config.drain_window);
        let numbers = self.sessions.numbers(|session| session.stage != SessionStage::Closing);
        let count = numbers.len() as u64;
        for (turn, number) in (0..).zip(numbers) {
            self.set_timer(number, now.plus(window * turn / count));
        }
    }

    /// Sends a client what still waits for it, its position, and when to connect elsewhere. Then closes it.
    pub(super) fn send_away(&mut self, now: Millis, number: u64, reason: &'static str, code: CloseCode) {
        if self.sessions.get(number).is_none_or(|session| session.stage != SessionStage::Open) {
            return;
        }
        self.flush(now, number);
        self.send_position(now, number);
        let reconnect_ms = self.random.random_range(0..RECONNECT_JITTER_MS);
        let goaway = Goaway { reason: CompactString::const_new(reason), reconnect_ms };
        self.reply(now, number, &ServerFrame::Goaway(goaway));
        self.close(now, number, code);
    }

    pub(super) fn end(&mut self, now: Millis, number: u64, ended: SocketEnd) {
        match ended {
            SocketEnd::Gone => self.remove(now, number),
            SocketEnd::Refused(code) => self.close(now, number, code),
        }
    }

    /// Sends the close frame. The session takes no more events. It is removed when the client has answered, or after
    /// [`CLOSE_GRACE_MS`].
    ///
    /// Events that still wait are dropped and counted; no position that the client got covers them. Pending notices are
    /// sent. A client that reads too slowly gets a notice of the dropped events as well.
    pub(super) fn close(&mut self, now: Millis, number: u64, code: CloseCode) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        if session.stage == SessionStage::Closing {
            return;
        }
        metrics::CLOSES.with(code.code().to_string()).increment(1);
        let (mut backfill, outbox) = (session.backfill.take(), std::mem::take(&mut session.outbox));
        let mut waiting = 0;
        if let Some(backfill) = &mut backfill {
            self.accounts[session.account].backfill_budget.spend(now, self.backfill_rate.units(backfill.unpaid()));
        }
        if let Some(backfill) = &backfill {
            self.leave_cohort(number, backfill);
        }
        for mut outbox in backfill.map(|backfill| backfill.outbox).into_iter().chain([outbox]) {
            dropped("closed", outbox.len() as u64);
            waiting += outbox.len() as u64;
            if code == CloseCode::SlowConsumer {
                outbox.drop_all(NoticeCode::SlowConsumer);
            }
            for (subscription, notice) in outbox.take_notices() {
                let Some(session) = self.sessions.get_mut(number) else { return };
                session.record.notice(now, &notice);
                let notice = worded(notice, subscription, &session.subscriptions, &self.accounts[session.account]);
                // A failure is ignored here: the close that follows fails as well.
                self.send(number, &[ServerFrame::Notice(notice)]).ok();
            }
        }
        if let Some(session) = self.sessions.get_mut(number).filter(|_| code == CloseCode::SlowConsumer) {
            // The last notice includes the events that waited. A resume delivers them, so they are not missed.
            session.record.keep_for_resume(waiting);
        }
        if let Some(session) = self.sessions.get(number) {
            self.log_closed(now, number, session, Some(code), waiting + u64::from(session.partially_sent));
        }
        self.unregister(number);
        let Some(session) = self.sessions.get_mut(number) else { return };
        session.stage = SessionStage::Closing;
        let closing = session.socket.close(code);
        self.watch(number);
        if closing.is_err() {
            self.remove(now, number);
        } else {
            self.set_timer(number, now.plus(CLOSE_GRACE_MS));
        }
    }

    pub(super) fn remove(&mut self, now: Millis, number: u64) {
        self.unregister(number);
        let filter_bytes = self.sessions.get(number).map_or(0, |session| session.filter_bytes);
        self.count_filters(number, 0, filter_bytes);
        let Some(mut session) = self.sessions.remove(number) else { return };
        if let Some(backfill) = &mut session.backfill {
            self.accounts[session.account].backfill_budget.spend(now, self.backfill_rate.units(backfill.unpaid()));
        }
        for held in &session.subscriptions {
            self.index.remove(number, held.number, &held.subscription.filter);
        }
        self.index.unregister(&session.user, number);
        self.accounts.leave(now, session.account);
        self.weighted -= usize::from(session.weight != USUAL_WEIGHT);
        if let Some(backfill) = &session.backfill {
            self.leave_cohort(number, backfill);
        }
        let past = session.backfill.as_ref().map_or(0, |backfill| backfill.outbox.len());
        let unsent = session.outbox.len() as u64 + past as u64 + u64::from(session.partially_sent);
        match session.stage {
            SessionStage::Closing => dropped("closed", unsent),
            // The client has left, so this is no drop.
            SessionStage::Joining | SessionStage::Open => {
                self.stats.unsent += unsent;
                let past = session.backfill.as_mut().map(|backfill| backfill.outbox.take_notices());
                for (_, notice) in session.outbox.take_notices().into_iter().chain(past.into_iter().flatten()) {
                    session.record.unsent_notice(now, &notice);
                }
                self.log_closed(now, number, &session, None, unsent);
            }
        }
        self.ask(ToEdge::Leave(self.id(number), session.filters()));
    }
}
