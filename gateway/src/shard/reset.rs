//! A new epoch begins: sequences now mean other messages. Sessions are notified of what they lose of the former epoch,
//! and get the new one from its beginning.

use tickwire_core::ids::{Epoch, Millis, Partition};
use tickwire_core::protocol::ServerFrame;

use super::Shard;
use super::flush::worded;
use super::gaps::gap;
use crate::shard::session::Session;
use crate::socket::Socket;
use crate::stats::dropped;

impl<S: Socket> Shard<S> {
    /// Begins `epoch`. The edge covers all of it for subscriptions that were confirmed before.
    pub(super) fn begin_epoch(&mut self, now: Millis, has_former: bool, epoch: Epoch) {
        if has_former {
            self.end_epoch(now, epoch);
            self.forget_reminders(epoch.before);
            let ends = (0..).map(Partition).zip(&self.applied.seqs);
            let gaps: Vec<_> = ends.map(|(p, end)| gap("reset", p, *end, *end)).collect();
            self.notify_all(now, &gaps);
        }
        // Only now: positions that were sent until here are of the former epoch, and must not go back.
        for number in self.sessions.numbers(|session| session.ahead.is_some()) {
            if let Some(session) = self.sessions.get_mut(number) {
                session.ahead = None;
            }
        }
        self.applied.epoch_id = epoch.epoch_id;
        self.applied.seqs.fill(epoch.before);
        self.before = epoch.before;
        if !has_former {
            return;
        }
        // No client may resume from a position of the former epoch, or read gaps of this epoch as gaps of the former.
        for number in self.sessions.numbers(is_concerned) {
            self.send_position(now, number);
        }
        for number in self.sessions.numbers(|session| session.backfill.is_some()) {
            self.continue_backfill(now, number);
        }
    }

    /// What sessions lack of the former epoch is lost. Events that still wait for them are dropped: they would be sent
    /// after the reset, with sequences that then mean other messages.
    fn end_epoch(&mut self, now: Millis, epoch: Epoch) {
        self.cohorts.clear();
        for number in self.sessions.numbers(is_concerned) {
            self.flush(now, number);
            let Self { sessions, accounts, applied, missing, .. } = self;
            let Some(session) = sessions.get_mut(number) else { continue };
            let held = session.outbox.hold_back(applied);
            let mut unsent = session.outbox.len();
            session.outbox.clear_events();
            let mut lost = Vec::new();
            let mut pending = session.outbox.take_notices();
            if let Some(backfill) = &mut session.backfill {
                unsent += backfill.outbox.len();
                pending.extend(backfill.outbox.take_notices());
                lost = backfill.reset(epoch, &applied.seqs);
            }
            let waited = (0..).map(Partition).zip(held.seqs).zip(&applied.seqs).map(|((p, held), end)| (p, held, *end));
            lost.extend(waited.filter(|(_, held, end)| held < end));
            if session.subscriptions.is_empty() {
                lost.clear();
            }
            for (_, notice) in &pending {
                if session.record.notice(now, notice) {
                    missing.push(number);
                }
            }
            let account = &accounts[session.account];
            let notices = pending.into_iter().map(|(subscription, notice)| {
                ServerFrame::Notice(worded(notice, subscription, &session.subscriptions, account))
            });
            let notices: Vec<ServerFrame> = notices.collect();
            dropped("reset", unsent as u64);
            if !notices.is_empty() {
                self.reply_all(now, number, &notices);
            }
            let gaps = lost.into_iter().map(|(p, from, to)| gap("reset", p, from, to)).collect();
            self.notify_gaps(now, number, gaps);
        }
    }
}

/// Whether a new epoch changes anything for a session: it has subscriptions, it waits for the end of a backfill, or it
/// has events of ended subscriptions that must be dropped.
fn is_concerned<S>(session: &Session<S>) -> bool {
    !session.subscriptions.is_empty() || session.backfill.is_some() || session.outbox.has_output()
}
