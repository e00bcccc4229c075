//! What a shard does beside its work, once in a while: it forgets accounts that hold nobody to anything, lets no slow
//! session keep others from the past, looks for what dead sessions left in the index, a piece at a time, and tells the
//! metrics what the index holds and did.

use tickwire_core::ids::Millis;
use tracing::error;

use super::Shard;
use crate::index::metrics;
use crate::socket::Socket;

/// How often, in milliseconds. A thousand sessions are looked at each time, so that all of a shard's are within a minute
/// or so.
pub(super) const INTERVAL_MS: u64 = 1_000;

impl<S: Socket> Shard<S> {
    pub(super) fn maintain(&mut self, now: Millis) {
        if self.maintain_at > now {
            return;
        }
        self.maintain_at = now.plus(INTERVAL_MS);
        self.accounts.tidy(now);
        self.hurry_past(now);
        let sessions = &self.sessions;
        let swept = self.index.sweep(|number| sessions.get(number).is_some());
        if swept > 0 {
            error!(
                swept,
                shard = self.number,
                "dead sessions had left entries in the index; this is a bug, please report it"
            );
        }
        metrics::swept(swept);
        self.index_published.update(self.index.statistics());
    }
}
