//! Backfill, for sessions that resume or ask for the past with `since`: sessions are put into cohorts, routers are
//! asked for what a cohort lacks, and the answers are passed to the shards in chunks.

use std::sync::Arc;

use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Millis, Seq};
use tickwire_core::replay::Purpose;

use super::Edge;
use crate::backfill::cohorts::CohortProgress;
use crate::messages::BackfillRanges;
use crate::messages::{BackfillChunk, FromEdge, SessionId};
use crate::metrics;

impl Edge {
    pub(super) fn take_backfill(&mut self, now: Millis, session: SessionId, ranges: BackfillRanges) {
        // The ranges of another epoch are ignored: the shard gets the `Reset` too, and asks again in the new epoch.
        if self.coverage.epoch().is_some_and(|epoch| epoch.epoch_id == ranges.epoch_id) {
            self.cohorts.add(now, session, ranges, self.log.view_id());
        }
    }

    /// Passes the last sequence before a time to those that asked. `None` means that NATS did not answer; then the
    /// search is repeated.
    pub(crate) fn take_found(&mut self, now: Millis, time: Timestamp, seq: Option<Seq>) {
        let sessions = match seq {
            Some(_) => self.searches.found(time),
            None => {
                metrics::UNANSWERED_TIME_SEARCHES.increment(1);
                self.searches.unanswered(now, time, self.connection.is_up)
            }
        };
        for session in sessions {
            if let Some(shard) = self.shards.get_mut(usize::from(session.shard)) {
                shard.send(FromEdge::Found(session.number, time, seq));
            }
        }
    }

    /// Begins the cohorts that are due, and asks for what they lack.
    pub(super) fn backfill(&mut self, now: Millis) {
        for (cohort, sessions) in self.cohorts.begin(now, self.log.revision()) {
            metrics::COHORTS.increment(1);
            for (number, shard) in (0..).zip(&mut self.shards) {
                let mine = sessions.iter().filter(|session| session.shard == number).map(|session| session.number);
                shard.send(FromEdge::CohortFormed(cohort, mine.collect()));
            }
        }
        self.cohorts.pause(self.coverage.routers_busy());
        let mut asks = Vec::new();
        for (ask, sought) in self.cohorts.asks(now) {
            let request = super::replay::request(&self.gateway, &ask, self.log.revision(), sought, Purpose::Backfill);
            asks.push((ask, request));
        }
        for (ask, request) in asks {
            self.ask(now, &ask, request);
        }
    }

    /// Passes the shards what was received for cohorts. Returns whether there was anything.
    pub(super) fn deliver_backfill(&mut self) -> bool {
        let progress = self.cohorts.take(self.shards.len());
        let is_any = !progress.is_empty();
        for CohortProgress { cohort, coverage_events, ends } in progress {
            let events = |coverage_event: &CoverageEvent<_>| {
                if let CoverageEvent::Apply { events, .. } = coverage_event { events.len() } else { 0 }
            };
            let count: usize = coverage_events.events.iter().map(events).sum();
            metrics::BACKFILL_EVENTS.increment(count as u64);
            let chunk = (!coverage_events.events.is_empty())
                .then(|| Arc::new(BackfillChunk { cohort, events: coverage_events }));
            for shard in &mut self.shards {
                if let Some(chunk) = &chunk {
                    shard.send(FromEdge::Chunk(Arc::clone(chunk)));
                }
                if ends {
                    shard.send(FromEdge::CohortEnded(cohort));
                }
            }
        }
        is_any
    }
}
