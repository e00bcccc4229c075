//! Searches for where in the stream a time stands: a few at a time, each for all who ask for the same time, the others in
//! the order of asking. Each ends by its deadline, and one that panics has found nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use metrics::counter;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tickwire_node::declare_counter;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::error;

use crate::messages::SessionId;

/// How many searches may be under way.
const SEARCHES: usize = 64;

/// Where a time stands, for those who asked; `None` if nobody could say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) sessions: BTreeSet<SessionId>,
    pub(super) seq: Option<Seq>,
}

/// Searches, and who waits for them. A session waits for one at most.
#[derive(Debug, Default)]
pub(super) struct Searches {
    times: HashMap<SessionId, Timestamp>,
    waiting: BTreeMap<Timestamp, BTreeSet<SessionId>>,
    /// Times that are to be searched for when another search has ended.
    queue: VecDeque<Timestamp>,
    running: JoinSet<Option<Seq>>,
    searched: HashMap<Id, Timestamp>,
}

impl Searches {
    /// A session asks where a time stands, which is found by `search`.
    pub(super) fn ask<F>(&mut self, session: SessionId, time: Timestamp, search: impl Fn(Timestamp) -> F)
    where
        F: Future<Output = Option<Seq>> + Send + 'static,
    {
        self.leave(session);
        self.times.insert(session, time);
        let sessions = self.waiting.entry(time).or_default();
        sessions.insert(session);
        let is_known = sessions.len() > 1 || self.is_searched(time);
        if !is_known {
            self.queue.push_back(time);
        }
        self.begin(search);
    }

    /// Begins what may be under way, when some have ended. What nobody waits for any more is not searched for.
    pub(super) fn begin<F>(&mut self, search: impl Fn(Timestamp) -> F)
    where
        F: Future<Output = Option<Seq>> + Send + 'static,
    {
        while self.running.len() < SEARCHES
            && let Some(time) = self.queue.pop_front()
        {
            if self.waiting.contains_key(&time) && !self.is_searched(time) {
                let id = self.running.spawn(search(time)).id();
                self.searched.insert(id, time);
            }
        }
    }

    fn is_searched(&self, time: Timestamp) -> bool {
        self.searched.values().any(|searched| *searched == time)
    }

    /// A session does not wait any more.
    pub(super) fn leave(&mut self, session: SessionId) {
        let Some(time) = self.times.remove(&session) else { return };
        if let Some(sessions) = self.waiting.get_mut(&time) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.waiting.remove(&time);
            }
        }
    }

    /// Waits until a search has ended; `None` if none is under way. Nothing is lost if this is not waited for to its end.
    pub(super) async fn next(&mut self) -> Option<Found> {
        let ended = self.running.join_next_with_id().await?;
        Some(self.ended(ended))
    }

    fn ended(&mut self, ended: Result<(Id, Option<Seq>), JoinError>) -> Found {
        let (id, seq) = match ended {
            Ok(ended) => ended,
            Err(failure) => {
                counter!("tickwire_gateway_failed_searches_total").increment(1);
                error!(%failure, "a search for a time has failed; this is a bug, please report it");
                (failure.id(), None)
            }
        };
        let sessions = self.searched.remove(&id).and_then(|time| self.waiting.remove(&time)).unwrap_or_default();
        for session in &sessions {
            self.times.remove(session);
        }
        Found { sessions, seq }
    }
}

pub(super) fn describe() {
    declare_counter!("tickwire_gateway_failed_searches_total", "Searches for a time that have panicked");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    fn session(number: u64) -> SessionId {
        SessionId { shard: 0, number }
    }

    fn found(sessions: &[u64], seq: Option<u64>) -> Found {
        Found { sessions: sessions.iter().map(|number| session(*number)).collect(), seq: seq.map(Seq) }
    }

    async fn position(time: Timestamp) -> Option<Seq> {
        Some(Seq(time.0 as u64))
    }

    #[tokio::test]
    async fn who_asks_for_the_same_time_is_told_together_and_who_left_is_not() {
        let mut searches = Searches::default();
        for (number, time) in [(1, 10), (2, 20), (3, 10), (4, 10)] {
            searches.ask(session(number), Timestamp(time), position);
        }
        searches.leave(session(3));
        let mut both = [searches.next().await.unwrap(), searches.next().await.unwrap()];
        both.sort_by_key(|found| found.seq);
        assert_eq!(both, [found(&[1, 4], Some(10)), found(&[2], Some(20))]);
        assert!(searches.next().await.is_none() && searches.times.is_empty() && searches.searched.is_empty());
    }

    #[tokio::test]
    async fn a_search_that_panics_has_found_nothing_and_the_others_go_on() {
        let mut searches = Searches::default();
        let search = |time: Timestamp| async move {
            assert_ne!(time, Timestamp(10), "at work");
            position(time).await
        };
        searches.ask(session(1), Timestamp(10), search);
        assert_eq!(searches.next().await, Some(found(&[1], None)));
        searches.ask(session(1), Timestamp(20), search);
        assert_eq!(searches.next().await, Some(found(&[1], Some(20))));
    }

    #[tokio::test]
    async fn more_than_may_be_under_way_wait_and_are_not_told_that_nothing_was_found() {
        let mut searches = Searches::default();
        for number in 0..2 * SEARCHES as u64 {
            searches.ask(session(number), Timestamp(number as i64), |_| pending());
        }
        assert_eq!((searches.running.len(), searches.queue.len()), (SEARCHES, SEARCHES));
        searches.leave(session(SEARCHES as u64));
        searches.running.abort_all();
        for _ in 0..SEARCHES {
            assert_eq!(searches.next().await.map(|found| found.seq), Some(None));
        }
        searches.begin(|_| ready(Some(Seq(7))));
        let mut told = 0;
        while let Some(Found { sessions, seq }) = searches.next().await {
            assert_eq!(seq, Some(Seq(7)));
            told += sessions.len();
        }
        assert_eq!(told, SEARCHES - 1);
    }
}
