//! Searches for where in the stream a time stands: a few at a time, each for all who ask for the same time, the others in
//! the order of asking. Pure: who drives this makes the searches.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tickwire_core::event::Timestamp;

use crate::messages::SessionId;

/// How many searches may be under way.
const SEARCHES: usize = 64;

/// Times that are searched for, and who waits for them. A session waits for one at most.
#[derive(Debug, Default)]
pub(super) struct Searches {
    times: HashMap<SessionId, Timestamp>,
    waiting: BTreeMap<Timestamp, BTreeSet<SessionId>>,
    /// Times that are to be searched for when another search has ended.
    queue: VecDeque<Timestamp>,
    under_way: BTreeSet<Timestamp>,
}

impl Searches {
    /// A session asks where a time stands.
    pub(super) fn ask(&mut self, session: SessionId, time: Timestamp) {
        self.leave(session);
        self.times.insert(session, time);
        let sessions = self.waiting.entry(time).or_default();
        sessions.insert(session);
        let is_known = sessions.len() > 1 || self.under_way.contains(&time);
        if !is_known {
            self.queue.push_back(time);
        }
    }

    /// The next search to begin, if it may be under way. What nobody waits for any more is not searched for.
    pub(super) fn begin(&mut self) -> Option<Timestamp> {
        while self.under_way.len() < SEARCHES
            && let Some(time) = self.queue.pop_front()
        {
            if self.waiting.contains_key(&time) && self.under_way.insert(time) {
                return Some(time);
            }
        }
        None
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

    /// The search for this time has ended. Returns who waits for it.
    pub(super) fn ended(&mut self, time: Timestamp) -> BTreeSet<SessionId> {
        self.under_way.remove(&time);
        let sessions = self.waiting.remove(&time).unwrap_or_default();
        for session in &sessions {
            self.times.remove(session);
        }
        sessions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64) -> SessionId {
        SessionId { shard: 0, number }
    }

    fn sessions(numbers: &[u64]) -> BTreeSet<SessionId> {
        numbers.iter().map(|number| session(*number)).collect()
    }

    fn begun(searches: &mut Searches) -> Vec<i64> {
        std::iter::from_fn(|| searches.begin()).map(|time| time.0).collect()
    }

    #[test]
    fn who_asks_for_the_same_time_is_told_together_and_who_left_is_not() {
        let mut searches = Searches::default();
        for (number, time) in [(1, 10), (2, 20), (3, 10), (4, 10)] {
            searches.ask(session(number), Timestamp(time));
        }
        searches.leave(session(3));
        assert_eq!(begun(&mut searches), [10, 20]);
        // Who asks while a search is under way gets what it finds.
        searches.ask(session(5), Timestamp(20));
        assert_eq!(begun(&mut searches), [0; 0]);
        assert_eq!(searches.ended(Timestamp(10)), sessions(&[1, 4]));
        assert_eq!(searches.ended(Timestamp(20)), sessions(&[2, 5]));
        assert!(searches.times.is_empty() && searches.waiting.is_empty() && searches.under_way.is_empty());
    }

    #[test]
    fn who_leaves_and_asks_again_while_the_search_is_under_way_is_told_once() {
        let mut searches = Searches::default();
        searches.ask(session(1), Timestamp(10));
        assert_eq!(begun(&mut searches), [10]);
        searches.leave(session(1));
        searches.ask(session(1), Timestamp(10));
        assert_eq!(begun(&mut searches), [0; 0]);
        assert_eq!(searches.ended(Timestamp(10)), sessions(&[1]));
        assert_eq!((begun(&mut searches), searches.ended(Timestamp(10))), (Vec::new(), sessions(&[])));
    }

    #[test]
    fn more_than_may_be_under_way_wait_in_the_order_of_asking() {
        let mut searches = Searches::default();
        let all = 2 * SEARCHES as i64;
        for number in 0..all {
            searches.ask(session(number as u64), Timestamp(number));
        }
        let (first, rest): (Vec<i64>, Vec<i64>) = (0..all).partition(|time| *time < SEARCHES as i64);
        assert_eq!(begun(&mut searches), first);
        searches.leave(session(SEARCHES as u64));
        for time in first {
            assert_eq!(searches.ended(Timestamp(time)).len(), 1);
        }
        assert_eq!(begun(&mut searches), rest[1..]);
    }
}
