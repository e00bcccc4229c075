//! Whether the connections are up, and how long to wait before the next attempt if not.

use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::backoff::Backoff;
use tokio::sync::watch;

/// The pauses between attempts to connect, before chance shortens them.
pub(crate) const BACKOFF: Backoff = Backoff { first: 20, most: 4_000 };

/// The pause after this attempt, minus up to a half, so that many nodes do not reconnect at the same moment.
pub(crate) fn backoff(attempt: usize) -> Duration {
    let attempt = u32::try_from(attempt.max(1)).unwrap_or(u32::MAX);
    Duration::from_millis(BACKOFF.after(attempt)).mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// The state of both connections. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHealth {
    client: Arc<watch::Sender<bool>>,
    link: Arc<watch::Sender<bool>>,
    both: Arc<watch::Sender<bool>>,
    /// How often one of them was lost or replaced. What was on its way is then lost as well.
    losses: Arc<watch::Sender<u64>>,
}

impl Default for ConnectionHealth {
    fn default() -> Self {
        let down = || Arc::new(watch::Sender::new(false));
        Self { client: down(), link: down(), both: down(), losses: Arc::default() }
    }
}

impl ConnectionHealth {
    pub(crate) fn set_client(&self, up: bool) {
        self.client.send_replace(up);
        self.fold();
        if !up {
            self.note_loss();
        }
    }

    pub(crate) fn set_link(&self, up: bool) {
        self.link.send_replace(up);
        self.fold();
        if !up {
            self.note_loss();
        }
    }

    /// Another connection has taken the place of our own one.
    pub(crate) fn link_replaced(&self) {
        self.note_loss();
    }

    fn note_loss(&self) {
        self.losses.send_modify(|losses| *losses += 1);
    }

    /// Whether our own connection is up.
    pub(crate) fn link(&self) -> watch::Receiver<bool> {
        self.link.subscribe()
    }

    /// Whether both are up.
    pub(crate) fn both(&self) -> watch::Receiver<bool> {
        self.both.subscribe()
    }

    /// Notifies when one of them is lost or replaced.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    fn fold(&self) {
        // Both are read while the result is locked, so that the last caller writes the current state.
        self.both.send_if_modified(|both| {
            let now = *self.client.borrow() && *self.link.borrow();
            std::mem::replace(both, now) != now
        });
    }
}
