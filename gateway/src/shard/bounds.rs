//! What a shard may hold of each session. The simulator checks it after each turn.

use super::Shard;
use crate::shard::session::SessionStage;
use crate::socket::Socket;

/// By how much the outbox of a backfill may exceed its bound before the shard notices, in bytes.
const BITE_BYTES: usize = 64 * 1024;

/// What the notices of a frame may add to the bytes of its events.
const NOTICE_BYTES: usize = 1_024;

impl<S: Socket> Shard<S> {
    /// Panics if more is held of a session than is configured.
    pub(crate) fn check_bounds(&self) {
        let config = &self.settings.config;
        for number in self.sessions.numbers(|session| session.stage != SessionStage::Closing) {
            let Some(session) = self.sessions.get(number) else { continue };
            let (given, most_given) = session.reminders.as_ref().map_or((0, 0), |reminders| reminders.remembered());
            let held = [
                ("given alerts", given, most_given),
                ("events", session.outbox.bytes(), config.outbox_bytes),
                ("unsent", session.socket.unsent(), config.outbox_bytes + NOTICE_BYTES),
                ("requests", session.requests.len(), config.max_subscriptions),
                ("subscriptions", session.subscriptions.len(), config.max_subscriptions),
                ("filters", session.asked_bytes(), config.max_filter_bytes),
                (
                    "past",
                    session.backfill.as_ref().map_or(0, |backfill| backfill.outbox.bytes()),
                    config.outbox_bytes + BITE_BYTES,
                ),
            ];
            for (what, held, most) in held {
                assert!(held <= most, "session {number} holds {held} of {what}, and {most} at most");
            }
        }
        assert!(self.edge.waiting() <= super::turns::EDGE_BYTES * 2, "{} bytes wait for the edge", self.edge.waiting());
    }
}
