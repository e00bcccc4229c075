//! Alerts that come again to a session, since its user has not acknowledged them. They are due when a subscription is
//! active, up to where its new events begin. During a backfill they wait, since it may have them. The
//! [reader](crate::reminders) reads them, and they are sent as fast as the client reads, after what waits in the outbox.

use std::sync::Arc;

use tickwire_core::event::Kind;
use tickwire_core::filter::long_values::LongValues;
use tickwire_core::ids::{Millis, Seq};
use tickwire_core::protocol::Notice;
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::position::Position;
use tokio::sync::mpsc::error::TrySendError;

use super::Shard;
use super::flush::{count_frame, take_quota, write_frame};
use crate::backfill::request::BackfillTarget;
use crate::handling::admits;
use crate::metrics;
use crate::outbox::QueuedEvent;
use crate::reminders::{ReadFailure, ReminderAnswer, ReminderRequest, UnackedAlerts};
use crate::shard::session::{ActiveSubscription, Session, SessionStage, held};
use crate::socket::Socket;

impl<S: Socket> Shard<S> {
    /// These subscriptions of a session are active, without a backfill.
    pub(super) fn owe_reminders(&mut self, number: u64, subscriptions: &[u32]) {
        let through = self.backfill_end(number).seqs;
        self.owe_reminders_through(number, subscriptions, through);
    }

    /// The subscriptions of the session's backfill are active, and it is known where the backfill begins.
    pub(super) fn owe_reminders_before_backfill(&mut self, number: u64) {
        let Some(session) = self.sessions.get(number) else { return };
        let Some(backfill) = &session.backfill else { return };
        let (epoch_id, seqs, _) = backfill.ranges();
        let mut begin = Position { epoch_id, seqs };
        let subscriptions: Vec<u32> = match backfill.of() {
            BackfillTarget::Session => {
                session.raise(&mut begin);
                session.subscriptions.iter().map(|held| held.number).collect()
            }
            BackfillTarget::Subscription(subscription) => vec![subscription],
        };
        self.owe_reminders_through(number, &subscriptions, begin.seqs);
    }

    fn owe_reminders_through(&mut self, number: u64, subscriptions: &[u32], through: Vec<Seq>) {
        if self.settings.config.again_window.is_zero() {
            return;
        }
        let Some(session) = self.sessions.get_mut(number) else { return };
        let through: Arc<[Seq]> = through.into();
        for subscription in subscriptions {
            let active = held(&session.subscriptions, *subscription);
            if active.is_some_and(|held| held.subscription.filter.kinds.contains(&Kind::Alert)) {
                session.reminders.get_or_insert_with(Box::default).owe(*subscription, &through);
            }
        }
    }

    /// Asks for the alerts of a session's user, if some are due.
    pub(super) fn ask_for_reminders(&mut self, now: Millis, number: u64) {
        let is_draining = self.draining;
        let Some(session) = self.sessions.get_mut(number).filter(|session| session.backfill.is_none()) else { return };
        let Some(reminders) = &mut session.reminders else { return };
        if is_draining || !reminders.begin_reading() {
            return;
        }
        let user = session.user.clone();
        let request = ReminderRequest { session: self.id(number), user };
        // If nobody reads any more, this gateway stops.
        if let Err(TrySendError::Full(_)) = self.settings.reminders.try_send(request) {
            self.fail_reminders(now, number, ReadFailure::Unavailable);
        }
    }

    /// The alerts were read that a session has asked for, or not.
    pub(crate) fn take_reminders(&mut self, now: Millis, answer: ReminderAnswer) {
        let ReminderAnswer { session: number, result } = answer;
        match result {
            Ok(unacked) if unacked.alerts.is_empty() || unacked.epoch_id == self.applied.epoch_id => {
                self.remind(now, number, &unacked);
            }
            // Their sequences mean other events here.
            Ok(_) => self.fail_reminders(now, number, ReadFailure::Unavailable),
            Err(failure) => self.fail_reminders(now, number, failure),
        }
        self.ask_for_reminders(now, number);
    }

    fn fail_reminders(&mut self, now: Millis, number: u64, failure: ReadFailure) {
        let Some(session) = self.sessions.get_mut(number).filter(|session| session.stage == SessionStage::Open) else {
            return;
        };
        if session.reminders.as_mut().is_some_and(|reminders| reminders.fail()) {
            let msg = format!("unacknowledged alerts do not come again: {}", failure.text());
            self.notify(now, number, &Notice { msg: Some(msg), ..Notice::new(NoticeCode::AgainFailed) });
        }
    }

    /// Sends a session what comes again to it of these alerts.
    fn remind(&mut self, now: Millis, number: u64, unacked: &UnackedAlerts) {
        let clocks = self.settings.clocks;
        let Self { sessions, accounts, .. } = self;
        let Some(session) = sessions.get_mut(number).filter(|session| session.stage == SessionStage::Open) else {
            return;
        };
        let Session { reminders: Some(reminders), subscriptions, account, .. } = session else { return };
        let subscriptions: &[ActiveSubscription] = subscriptions;
        let account = &mut accounts[*account];
        let cut = if reminders.is_awaited() { unacked.cut as u64 } else { 0 };
        let chosen = reminders.choose(&unacked.alerts, |number, event, long| {
            held(subscriptions, number).is_some_and(|held| admits(&held.subscription.filter, event, long))
        });
        let (mut expired, mut withheld) = (0, 0);
        for (subscription, delivery) in chosen {
            if delivery.is_expired(|| clocks.time_of_day()) {
                expired += 1;
                continue;
            }
            let mut long = LongValues::default();
            let alert = subscriptions
                .iter()
                .any(|held| held.subscription.alert && admits(&held.subscription.filter, &delivery.event, &mut long));
            let waiting = QueuedEvent { delivery, since: now, subscription, conflated: 0, alert, exempt: false };
            if take_quota(account, now, subscriptions, &waiting) {
                reminders.enqueue(waiting);
            } else {
                withheld += 1;
            }
        }
        for (outcome, count) in [("expired", expired), ("limit", cut), ("quota", withheld)] {
            if count > 0 {
                metrics::REMINDERS.with(outcome).increment(count);
            }
        }
        if cut + withheld > 0 {
            let msg = format!(
                "{} unacknowledged alerts do not come again: {cut} beyond gateway.again_max or gateway.outbox_bytes, \
                 {withheld} beyond quotas",
                cut + withheld
            );
            self.notify(now, number, &Notice { msg: Some(msg), ..Notice::new(NoticeCode::AgainLimit) });
        }
        self.send_reminders(now, number);
    }

    /// Sends what waits to come again, as far as the socket takes it.
    pub(super) fn send_reminders(&mut self, now: Millis, number: u64) {
        let Self { sessions, accounts, content, frame, stats, .. } = self;
        let Some(session) = sessions.get_mut(number).filter(|session| session.stage == SessionStage::Open) else {
            return;
        };
        let encoding = session.socket.encoding();
        let mut ended = Ok(());
        while session.socket.unsent() == 0
            && ended.is_ok()
            && session.reminders.as_mut().is_some_and(|reminders| reminders.fill(content, encoding))
        {
            metrics::REMINDERS.with("sent").increment(content.events.len() as u64);
            write_frame(frame, content, &session.subscriptions, &accounts[session.account], encoding);
            ended = session.socket.send(frame);
            count_frame(stats, session, content, frame.len() as u64, ended.is_ok());
        }
        // Events are shared by all sessions, so none is kept in memory here longer than needed.
        content.events.clear();
        if let Err(ended) = ended {
            self.end(now, number, ended);
        }
    }

    /// A new epoch begins after this sequence.
    pub(super) fn forget_reminders(&mut self, before: Seq) {
        for number in self.sessions.numbers(|session| session.reminders.is_some()) {
            if let Some(reminders) = self.sessions.get_mut(number).and_then(|session| session.reminders.as_mut()) {
                reminders.begin_epoch(before);
            }
        }
    }
}

impl<S> Session<S> {
    /// The session is given an alert, which does not come again to it then.
    pub(crate) fn note_alert(&mut self, seq: Seq) {
        self.reminders.get_or_insert_with(Box::default).note_given(seq);
    }
}
