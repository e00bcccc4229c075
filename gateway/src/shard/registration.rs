//! Keeps the [registry](crate::registry) up to date: when a session begins, ends, or changes its subscriptions.

use super::Shard;
use crate::registry::{NamedSubscriptions, RegisteredSession};
use crate::socket::Socket;

impl<S: Socket> Shard<S> {
    /// A session has begun.
    pub(super) fn register(&self, number: u64) {
        let Some(session) = self.sessions.get(number) else { return };
        let registered = RegisteredSession {
            address: session.record.peer,
            opened: (self.settings.clocks.wall)(),
            encoding: session.socket.encoding(),
            subscriptions: NamedSubscriptions::new(),
        };
        self.settings.registry.open(&session.user, self.id(number), registered);
    }

    /// A session has other subscriptions than before.
    pub(super) fn update_registration(&self, number: u64) {
        let Some(session) = self.sessions.get(number) else { return };
        self.settings.registry.set_subscriptions(&session.user, self.id(number), session.shown());
    }

    /// A session closes or has ended.
    pub(super) fn unregister(&self, number: u64) {
        let Some(session) = self.sessions.get(number) else { return };
        self.settings.registry.close(&session.user, self.id(number));
    }
}
