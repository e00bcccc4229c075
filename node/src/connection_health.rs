//! Whether the connections are up.

use std::sync::Arc;
use tokio::sync::watch;

/// The state of both connections. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHealth {
    client: Arc<watch::Sender<bool>>,
    link: Arc<watch::Sender<bool>>,
    both: Arc<watch::Sender<bool>>,
}

impl Default for ConnectionHealth {
    fn default() -> Self {
        let down = || Arc::new(watch::Sender::new(false));
        Self { client: down(), link: down(), both: down() }
    }
}

impl ConnectionHealth {
    pub(crate) fn set_client(&self, up: bool) {
        self.client.send_replace(up);
        self.fold();
    }

    pub(crate) fn set_link(&self, up: bool) {
        self.link.send_replace(up);
        self.fold();
    }

    /// Whether our own connection is up.
    pub(crate) fn link(&self) -> watch::Receiver<bool> {
        self.link.subscribe()
    }

    /// Whether both are up.
    pub(crate) fn both(&self) -> watch::Receiver<bool> {
        self.both.subscribe()
    }

    fn fold(&self) {
        // Both are read while the result is locked, so that the last caller writes the current state.
        self.both.send_if_modified(|both| {
            let now = *self.client.borrow() && *self.link.borrow();
            std::mem::replace(both, now) != now
        });
    }
}
