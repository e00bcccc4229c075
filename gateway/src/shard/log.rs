//! Writes the log lines of each session, which show why a user missed events. All of them are in the span `session`,
//! which names the session, its user, address, gateway and shard. The number of lines is bounded: `budget` says which
//! are written, and the lines about missed events have a limit of their own.
//!
//! Each line creates its span. A span that is kept would add much to the memory of an idle session.

mod budget;

use tickwire_core::ids::Millis;
use tickwire_core::protocol::codes::CloseCode;
use tickwire_core::protocol::position::Position;
use tracing::{Span, debug, info, info_span};

use super::Shard;
use crate::metrics;
use crate::record::Missed;
use crate::shard::session::{Session, SessionStage};
use crate::socket::Socket;

pub(super) use budget::LineBudget;

/// For how long missed events of a session are counted into one line, in milliseconds.
const LOG_INTERVAL_MS: u64 = 5_000;

/// For how many sessions a shard writes such a line in one run of its maintenance.
const MOST_LINES: usize = 50;

/// Writes a line about what a session misses. `before` and `after` are further fields of the line.
macro_rules! info_missed {
    ($missed:ident, [$($before:tt)*], [$($after:tt)*], $message:literal) => {{
        let (first, last) = $missed.range.unzip();
        info!(
            $($before)*
            dropped = $missed.dropped(),
            slow_consumer = $missed.slow_consumer,
            throttled = $missed.throttled,
            quota = $missed.quota,
            expired = $missed.expired,
            conflated = $missed.conflated,
            delayed = $missed.delayed,
            gaps = $missed.gaps,
            first = first.map(|seq| seq.0),
            last = last.map(|seq| seq.0),
            $($after)*
            $message
        );
    }};
}

impl<S: Socket> Shard<S> {
    fn span(&self, number: u64, session: &Session<S>) -> Span {
        info_span!(
            "session",
            session = format_args!("{}-{}-{number}", self.settings.gateway, self.number),
            user = session.user.as_str(),
            peer = %session.record.peer,
            gateway = %self.settings.gateway,
            shard = self.number,
        )
    }

    /// A session was welcomed.
    pub(super) fn log_opened(&self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get(number) else { return };
        if !self.lines.admits(now, &session.user, false) {
            return;
        }
        self.span(number, session).in_scope(|| info!(waited_ms = now.since(session.record.arrived), "session opened"));
    }

    /// A session resumes at the position of an earlier one.
    pub(super) fn log_resume(&mut self, now: Millis, number: u64, from: &Position) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        session.record.resumed = true;
        let Some(session) = self.sessions.get(number) else { return };
        if !self.lines.admits(now, &session.user, false) {
            return;
        }
        let behind = self.applied.seqs.iter().max().zip(from.seqs.iter().max());
        let behind = behind.map_or(0, |(applied, from)| applied.0.saturating_sub(from.0));
        let subscriptions = session.subscriptions.len();
        let span = self.span(number, session);
        span.in_scope(|| info!(position = %from, behind, subscriptions, "session resumes"));
    }

    /// A backfill has ended: the session got what it lacked, or was notified of gaps.
    pub(super) fn log_caught_up(&self, now: Millis, number: u64, since: Millis, complete: bool) {
        let Some(session) = self.sessions.get(number) else { return };
        if !self.lines.admits(now, &session.user, !complete) {
            return;
        }
        let lasted = now.since(since);
        self.span(number, session).in_scope(|| info!(complete, duration_ms = lasted, "session caught up"));
    }

    /// A subscription is active.
    pub(super) fn log_subscription(&self, number: u64, subscription: u32) {
        let Some(session) = self.sessions.get(number) else { return };
        let held = session.subscriptions.iter().find(|held| held.number == subscription);
        let Some(held) = held.filter(|_| tracing::enabled!(tracing::Level::DEBUG)) else { return };
        let filter = serde_json::to_string(&held.subscription.filter).unwrap_or_default();
        let span = self.span(number, session);
        span.in_scope(|| debug!(subscription = held.name.as_str(), filter, "subscription active"));
    }

    /// Logs what sessions miss: at most one line for a session in [`LOG_INTERVAL_MS`].
    pub(super) fn log_missed(&mut self, now: Millis) {
        let mut lines = 0;
        let mut numbers = std::mem::take(&mut self.missing);
        numbers.retain(|number| {
            let Some(session) = self.sessions.get_mut(*number) else { return false };
            let due = if lines < MOST_LINES { session.record.take_unlogged(now, LOG_INTERVAL_MS) } else { None };
            let Some((since, missed)) = due else { return session.record.has_unlogged() };
            lines += 1;
            let Some(session) = self.sessions.get(*number) else { return false };
            self.span(*number, session).in_scope(|| {
                info_missed!(missed, [lasted_ms = now.since(since),], [], "session misses events");
            });
            false
        });
        // Sessions that began to miss events meanwhile are already in `missing`.
        self.missing.extend(numbers);
    }

    /// Logs and counts how many lines were not written.
    pub(super) fn log_suppressed(&self) {
        let lines = self.lines.take_suppressed();
        if lines > 0 {
            metrics::SUPPRESSED_SESSION_LINES.increment(lines);
            info!(shard = self.number, lines, "lines about sessions not written");
        }
    }

    /// A session has ended: by the gateway with a code, or by its client without one. `unsent` events still waited
    /// for it.
    pub(super) fn log_closed(
        &self,
        now: Millis,
        number: u64,
        session: &Session<S>,
        code: Option<CloseCode>,
        unsent: u64,
    ) {
        let (record, missed) = (&session.record, session.record.missed());
        if !self.lines.admits(now, &session.user, missed != Missed::default()) {
            return;
        }
        let reason = code.map_or("the client left, or its connection broke", CloseCode::text);
        self.span(number, session).in_scope(|| {
            info_missed!(
                missed,
                [
                    code = code.map(CloseCode::code),
                    reason,
                    duration_ms = now.since(record.arrived),
                    welcomed = session.stage != SessionStage::Joining,
                    resumed = record.resumed,
                    events = session.sent.events,
                    bytes = session.sent.bytes,
                    unsent,
                ],
                [notices = record.notices,],
                "session closed"
            );
        });
    }
}
