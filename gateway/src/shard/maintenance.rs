//! The regular maintenance of a shard: it removes accounts that limit no user, stops slow sessions from blocking their
//! cohorts, checks a part of the index for entries of ended sessions, and updates the metrics of the index.

use tickwire_core::ids::Millis;
use tracing::error;

use super::Shard;
use crate::index::metrics;
use crate::socket::Socket;

/// The interval, in milliseconds. A thousand sessions are checked each time, so that all of a shard's are checked
/// within about a minute.
pub(super) const INTERVAL_MS: u64 = 1_000;

impl<S: Socket> Shard<S> {
    pub(super) fn maintain(&mut self, now: Millis) {
        if self.maintain_at > now {
            return;
        }
        self.maintain_at = now.plus(INTERVAL_MS);
        self.accounts.tidy(now);
        self.release_slow_sessions(now);
        self.log_missed(now);
        self.log_suppressed();
        let sessions = &self.sessions;
        let entries = self.index.sweep(|number| sessions.get(number).is_some());
        if entries > 0 {
            error!(
                entries,
                shard = self.number,
                "entries of ended sessions found in the index; this is a bug, please report it"
            );
        }
        metrics::count_stale_entries(entries);
        self.index_published.update(self.index.statistics());
    }
}
