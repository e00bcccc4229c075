//! Sends what waits in outboxes: frames are composed of encoded events, and written with one call each.

use std::task::{Context, Poll};

use tickwire_core::event::Timestamp;
use tickwire_core::filter::long_values::LongValues;
use tickwire_core::ids::Millis;
use tickwire_core::protocol::codes::{CloseCode, NoticeCode};
use tickwire_core::protocol::{ArrayWriter, Encoding, Notice, ServerFrame, encode};

use super::turns::SocketReading;
use super::{Clocks, Shard};
use crate::backfill::request::BackfillTarget;
use crate::delivery::Delivery;
use crate::handling::admits;
use crate::limits::account::Account;
use crate::metrics;
use crate::outbox::{Frame, QueuedEvent, ShedResult};
use crate::shard::backfill::backfill_limits;
use crate::shard::session::{ActiveSubscription, Session, SessionStage, held};
use crate::socket::{HEADER, Ready, Socket, SocketEnd};
use crate::stats::{EventTimes, Stats, count_outcome};
use crate::traced::DeliveryTrace;

impl<S: Socket> Shard<S> {
    /// Sends what waits, as far as the socket and the user's rate allow.
    pub(super) fn flush(&mut self, now: Millis, number: u64) {
        let shard = self.number;
        let Self { settings, sessions, accounts, limits, content, frame, stats, unlimited, missing, .. } = self;
        let Some(session) = sessions.get_mut(number).filter(|session| session.stage == SessionStage::Open) else {
            return;
        };
        session.flush_at = None;
        let account = &mut accounts[session.account];
        let encoding = session.socket.encoding();
        let clocks = settings.clocks;
        let time_of_day = || clocks.time_of_day();
        let mut ended = Ok(());
        while session.socket.unsent() == 0 && ended.is_ok() && session.has_output() {
            let Session { outbox, backfill, subscriptions, has_quotas, .. } = session;
            let quota = |account: &mut Account, waiting: &QueuedEvent| {
                !*has_quotas || take_quota(account, now, subscriptions, waiting)
            };
            match backfill {
                // New events wait for the backfill, which only quotas limit.
                Some(backfill) => {
                    let quota = |_: &mut Account, waiting: &QueuedEvent| quota(account, waiting);
                    let limits = backfill_limits(limits);
                    backfill.outbox.compose((now, time_of_day), (unlimited, quota), encoding, &limits, content);
                    // Events of a subscription's backfill do not move the session's position.
                    content.early |= backfill.of() != BackfillTarget::Session && !content.events.is_empty();
                }
                None => outbox.compose((now, time_of_day), (account, quota), encoding, limits, content),
            }
            for (code, fate) in &content.dropped {
                count_outcome(*code, *fate);
            }
            if content.is_empty() {
                break;
            }
            for (_, notice) in &content.notices {
                if session.record.notice(now, notice) {
                    missing.push(number);
                }
            }
            let begun = settings.is_traced.then(DeliveryTrace::now);
            write_frame(frame, content, subscriptions, account, encoding);
            ended = session.socket.send(frame);
            if let Some(begun) = begun {
                for trace in content.events.iter().filter_map(|waiting| waiting.delivery.trace()) {
                    trace.wrote(format_args!("{}-{shard}-{number}", settings.gateway), begun);
                }
            }
            count_frame(stats, session, content, frame.len() as u64, ended.is_ok());
            // Events of a backfill are old by nature.
            if let (Some(first), None) = (content.events.first(), &session.backfill) {
                stats.wrote_events(|| times_of(&first.delivery, clocks));
            }
        }
        // Events are shared by all sessions, so none is kept in memory here longer than needed.
        content.events.clear();
        if let Err(ended) = ended {
            self.end(now, number, ended);
            return;
        }
        // The rest is sent when the socket is writable again.
        if session.socket.unsent() > 0 {
            return;
        }
        match session.outbox.due() {
            _ if session.backfill.is_some() => self.continue_backfill(now, number),
            // The rest waits for the next turn, even if it is due now.
            Some(due) => self.flush_later(number, due.max(now.plus(1))),
            None => {}
        }
    }

    pub(super) fn flush_later(&mut self, number: u64, due: Millis) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let at = self.flushes.round(due);
        if session.flush_at.is_none_or(|known| at < known) {
            session.flush_at = Some(at);
            self.flushes.set(at, number);
        }
    }

    /// Too much waits for a session: sends what it can, then sheds load.
    pub(super) fn shed_load(&mut self, now: Millis, number: u64) {
        self.flush(now, number);
        let Self { sessions, limits, content, behind, applied, .. } = self;
        let Some(session) = sessions.get_mut(number).filter(|session| session.stage == SessionStage::Open) else {
            return;
        };
        if session.outbox.bytes() <= limits.bytes {
            return;
        }
        let mut limits = *limits;
        if let Some(backfill) = &mut session.backfill {
            let was_behind = backfill.is_behind();
            if backfill.fall_behind() {
                if !was_behind {
                    backfill.come_to(&session.outbox.hold_back(applied));
                }
                session.outbox.clear_events();
                behind.push(number);
                return;
            }
            // New events wait for the backfill, not for the client, so the client is not too slow.
            limits.patience = u64::MAX;
        }
        content.dropped.clear();
        let shed = session.outbox.shed_load(now, session.socket.encoding(), &limits, &mut content.dropped);
        for (code, fate) in &content.dropped {
            count_outcome(*code, *fate);
        }
        if shed == ShedResult::OverLimit {
            self.close(now, number, CloseCode::SlowConsumer);
        }
    }

    /// Waits until this session's socket can be read, if it should be, or written; `None` if the session is gone.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>, number: u64) -> Poll<Option<Ready>> {
        match self.sessions.get_mut(number) {
            Some(session) if session.stage != SessionStage::Joining && session.reading == SocketReading::Awaited => {
                session.socket.poll_ready(cx).map(Some)
            }
            Some(session) => session.socket.poll_writable(cx).map(Some),
            None => Poll::Ready(None),
        }
    }

    /// Has the socket of a session watched from now on. If it is watched already, it may be read from now on.
    pub(super) fn watch(&mut self, number: u64) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        if std::mem::replace(&mut session.is_watched, true) {
            session.socket.watch_again();
        } else {
            self.to_watch.push(number);
        }
    }

    /// The socket is writable again.
    pub(crate) fn writable(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let unsent_before = session.socket.unsent();
        let flushed = session.socket.flush();
        session.liveness.accepted(now, unsent_before - session.socket.unsent());
        match flushed {
            Err(ended) => self.end(now, number, ended),
            Ok(()) if session.socket.unsent() == 0 => {
                let events = u64::from(std::mem::take(&mut session.partially_sent));
                self.stats.deliveries += events;
                session.sent.events += events;
                self.flush(now, number);
                self.send_reminders(now, number);
            }
            Ok(()) => {}
        }
    }

    /// Sends a notice at once.
    pub(super) fn notify(&mut self, now: Millis, number: u64, notice: &Notice) {
        metrics::NOTICES.with(notice.code.to_string()).increment(1);
        if let Some(session) = self.sessions.get_mut(number) {
            session.record.notices += 1;
        }
        self.reply(now, number, &ServerFrame::Notice(notice.clone()));
    }

    /// Sends one frame at once.
    pub(super) fn reply(&mut self, now: Millis, number: u64, frame: &ServerFrame) {
        self.reply_all(now, number, std::slice::from_ref(frame));
    }

    /// Sends frames at once, in one message.
    pub(super) fn reply_all(&mut self, now: Millis, number: u64, frames: &[ServerFrame]) {
        let sent = self.send(number, frames);
        self.check_sent(now, number, sent);
    }

    /// Writes frames in one message; see [`Self::post`].
    pub(super) fn send(&mut self, number: u64, frames: &[ServerFrame]) -> Result<usize, SocketEnd> {
        let Some(session) = self.sessions.get_mut(number) else { return Ok(0) };
        let mut message = std::mem::take(&mut self.frame);
        write_message(&mut message, frames, session.socket.encoding());
        let sent = self.post(number, &mut message);
        self.frame = message;
        sent
    }

    /// Sends an encoded message, unless the session is closing. Returns how many bytes wait for the socket afterwards.
    pub(super) fn post(&mut self, number: u64, message: &mut [u8]) -> Result<usize, SocketEnd> {
        let Some(session) = self.sessions.get_mut(number).filter(|session| session.stage != SessionStage::Closing)
        else {
            return Ok(0);
        };
        self.stats.frames += 1;
        self.stats.bytes += message.len() as u64;
        session.sent.bytes += message.len() as u64;
        let sent = session.socket.send(message);
        let unsent = session.socket.unsent();
        // A new socket may not be writable yet, even for a notice before the welcome.
        if unsent > 0 && !session.is_watched {
            self.watch(number);
        }
        sent.map(|()| unsent)
    }

    /// Closes a session if sending failed, or if more bytes wait for its socket than allowed.
    pub(super) fn check_sent(&mut self, now: Millis, number: u64, sent: Result<usize, SocketEnd>) {
        match sent {
            Err(ended) => self.end(now, number, ended),
            Ok(unsent) if unsent > self.settings.config.outbox_bytes => {
                self.close(now, number, CloseCode::SlowConsumer);
            }
            Ok(_) => {}
        }
    }
}

/// Writes a message of these frames, after the space for its header.
pub(super) fn write_message(bytes: &mut Vec<u8>, frames: &[ServerFrame], encoding: Encoding) {
    bytes.clear();
    bytes.resize(HEADER, 0);
    let mut array = ArrayWriter::new(bytes, frames.len(), encoding);
    for frame in frames {
        array.object(&encode(frame, encoding));
    }
    array.end();
}

/// Takes an event from a quota. An event that is for several subscriptions is sent if one of them has no quota, or has
/// some of it left.
pub(super) fn take_quota(
    account: &mut Account,
    now: Millis,
    subscriptions: &[ActiveSubscription],
    waiting: &QueuedEvent,
) -> bool {
    let wanting = || wanting(subscriptions, waiting);
    wanting().any(|held| held.subscription.max_events_per_hour.is_none())
        || wanting().any(|ActiveSubscription { name, subscription, .. }| {
            subscription.max_events_per_hour.is_some_and(|most| account.take_quota(now, name, most))
        })
}

/// The subscriptions that an event is for: first the one that it waits for.
fn wanting<'s>(
    subscriptions: &'s [ActiveSubscription],
    waiting: &QueuedEvent,
) -> impl Iterator<Item = &'s ActiveSubscription> {
    let mut long = LongValues::default();
    let others = subscriptions.iter().filter(move |other| {
        other.number != waiting.subscription && admits(&other.subscription.filter, &waiting.delivery.event, &mut long)
    });
    held(subscriptions, waiting.subscription).into_iter().chain(others)
}

/// The names of the subscriptions that an alert is for, sorted. They are found when it is written, so that events that
/// wait need no memory for them.
fn matched_names<'s>(subscriptions: &'s [ActiveSubscription], waiting: &QueuedEvent) -> Vec<&'s str> {
    let mut names: Vec<&str> = wanting(subscriptions, waiting).map(|held| held.name.as_str()).collect();
    names.sort_unstable();
    names
}

/// Counts a frame that was given to the socket. Its events count as deliveries once the socket has taken all of it.
pub(super) fn count_frame<S: Socket>(
    stats: &mut Stats,
    session: &mut Session<S>,
    content: &Frame,
    bytes: u64,
    is_accepted: bool,
) {
    stats.frames += 1;
    stats.bytes += bytes;
    session.sent.bytes += bytes;
    stats.early += u64::from(content.early);
    stats.promoted += content.promoted;
    let events = content.events.len() as u32;
    if session.socket.unsent() > 0 || !is_accepted {
        session.partially_sent = events;
    } else {
        stats.deliveries += u64::from(events);
        session.sent.events += u64::from(events);
    }
}

/// How long an event was on its way until now.
fn times_of(delivery: &Delivery, clocks: Clocks) -> EventTimes {
    EventTimes {
        stored: seconds_between(delivery.event.stored, clocks.time_of_day()),
        arrived: delivery.arrived.map(|arrived| (clocks.monotonic)().saturating_sub(arrived)),
    }
}

/// The time between two times of day, in seconds. The clocks of NATS and of this host may differ.
fn seconds_between(stored: Timestamp, now: Timestamp) -> f64 {
    now.0.saturating_sub(stored.0).max(0) as f64 / 1000.0
}

/// Writes a frame, after the space for its header.
pub(super) fn write_frame(
    bytes: &mut Vec<u8>,
    content: &Frame,
    subscriptions: &[ActiveSubscription],
    account: &Account,
    encoding: Encoding,
) {
    bytes.clear();
    bytes.resize(HEADER, 0);
    let len = usize::from(content.early) + content.notices.len() + content.events.len();
    let mut array = ArrayWriter::new(bytes, len, encoding);
    if content.early {
        array.object(&encode(&ServerFrame::Early, encoding));
    }
    for (subscription, notice) in &content.notices {
        let notice = worded(notice.clone(), *subscription, subscriptions, account);
        array.object(&encode(&ServerFrame::Notice(notice), encoding));
    }
    for waiting in &content.events {
        let object = waiting.object(encoding);
        match waiting.conflated {
            _ if waiting.alert && content.again => array.alert_again(object, &matched_names(subscriptions, waiting)),
            _ if waiting.alert => array.alert(object, &matched_names(subscriptions, waiting)),
            _ if content.again => array.again(object),
            0 => array.object(object),
            conflated => array.conflated(object, conflated),
        }
    }
    array.end();
}

/// Adds the subscription's name to a notice, and a message for a code that needs one.
pub(super) fn worded(
    mut notice: Notice,
    subscription: u32,
    subscriptions: &[ActiveSubscription],
    account: &Account,
) -> Notice {
    metrics::NOTICES.with(notice.code.to_string()).increment(1);
    notice.subscription = held(subscriptions, subscription).map(|held| held.name.clone());
    if notice.code == NoticeCode::Throttled.as_str() {
        let shared = match account.sessions {
            1 => String::new(),
            sessions => format!(", shared by {sessions} sessions"),
        };
        notice.msg = Some(format!("{} events a second{shared}", account.rate));
    }
    notice
}
