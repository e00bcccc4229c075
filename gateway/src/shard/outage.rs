//! Notices of outages: between the gateway and NATS, or behind it.

use tickwire_core::ids::Millis;
use tickwire_core::protocol::Notice;
use tickwire_core::protocol::codes::NoticeCode;

use super::Shard;
use crate::shard::session::SessionStage;
use crate::socket::Socket;

impl<S: Socket> Shard<S> {
    /// Notifies sessions that an outage has begun or ended. Sessions that wait for their welcome get the notice too,
    /// because the outage is what they wait for. The end is sent to all that got the beginning.
    pub(super) fn notify_upstream(&mut self, now: Millis, code: NoticeCode, reason: Option<String>) {
        let notice = Notice { msg: reason, ..Notice::new(code) };
        if code == NoticeCode::UpstreamLost {
            self.outage = Some(notice);
            for number in self.sessions.numbers(|session| session.stage != SessionStage::Closing) {
                self.notify_outage(now, number);
            }
        } else {
            self.outage = None;
            for number in self.sessions.numbers(|session| session.outage_notified) {
                if let Some(session) =
                    self.sessions.get_mut(number).filter(|session| session.stage != SessionStage::Closing)
                {
                    session.outage_notified = false;
                    self.notify(now, number, &notice);
                }
            }
        }
    }

    /// Notifies a session of the outage, if there is one and it has no notice of it yet.
    pub(super) fn notify_outage(&mut self, now: Millis, number: u64) {
        let Some(notice) = self.outage.clone() else { return };
        let Some(session) = self.sessions.get_mut(number) else { return };
        if !std::mem::replace(&mut session.outage_notified, true) {
            self.notify(now, number, &notice);
        }
    }
}
