//! What a shard does beside its work, once in a while: it looks for what dead sessions left in the index, a piece at a
//! time, and tells the metrics what the index holds and did.

use std::time::{Duration, Instant};

use tracing::error;

use super::Shard;
use crate::index::metrics;

/// How often. A thousand sessions are looked at each time, so that all of a shard's are within a minute or so.
const INTERVAL: Duration = Duration::from_secs(1);

impl Shard {
    /// Begins with the first session.
    pub(super) fn begin_care(&mut self, now: Instant) {
        self.care_at.get_or_insert(now + INTERVAL);
    }

    pub(super) fn care(&mut self, now: Instant) {
        if self.care_at.is_none_or(|at| at > now) {
            return;
        }
        self.care_at = Some(now + INTERVAL);
        let sessions = &self.sessions;
        let swept = self.index.sweep(|number| sessions.contains_key(&number));
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
