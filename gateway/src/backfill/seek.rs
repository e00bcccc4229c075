//! Schedules the searches for the last sequence before a time. A few run at once, each for all sessions that ask
//! for the same time; the others wait in the order of the requests. A search that NATS does not answer is repeated
//! after a growing pause. It is given up after a long time without an answer; only time with NATS connected counts.
//! Pure: the driver of the edge makes the searches.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use tickwire_core::backoff::Backoff;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Millis;

use crate::messages::SessionId;

/// How many searches may run at once.
const SEARCHES: usize = 64;

/// The pauses after searches that were not answered.
const BACKOFF: Backoff = Backoff { first: 50, most: 2_000 };

/// Times to search for, and the sessions that wait for them. A session waits for one at most.
#[derive(Debug)]
pub(crate) struct Searches {
    give_up_after: u64,
    times: HashMap<SessionId, Timestamp>,
    searches: BTreeMap<Timestamp, Search>,
    /// The scheduled searches: when, and in which order.
    due: BTreeSet<(Millis, u64, Timestamp)>,
    /// The order number of the next scheduled search.
    next: u64,
    running: usize,
}

/// The search for one time.
#[derive(Debug)]
struct Search {
    sessions: BTreeSet<SessionId>,
    /// How long it was not answered, in milliseconds: its attempts, and the pauses before them.
    unanswered_ms: u64,
    /// How many attempts in a row were not answered.
    attempts: u32,
    state: SearchState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchState {
    /// It is scheduled for this time, with this order number.
    Due(Millis, u64),
    /// It runs since this time.
    Running(Millis),
}

impl Searches {
    /// No searches yet. `give_up_after` is how long a search may go unanswered, in milliseconds.
    pub(crate) fn new(give_up_after: u64) -> Self {
        Self {
            give_up_after,
            times: HashMap::new(),
            searches: BTreeMap::new(),
            due: BTreeSet::new(),
            next: 0,
            running: 0,
        }
    }

    /// A session asks for the last sequence before a time.
    pub(crate) fn ask(&mut self, now: Millis, session: SessionId, time: Timestamp) {
        self.leave(session);
        self.times.insert(session, time);
        match self.searches.entry(time) {
            Entry::Occupied(mut search) => drop(search.get_mut().sessions.insert(session)),
            Entry::Vacant(free) => {
                let state = schedule(&mut self.due, &mut self.next, now, time);
                free.insert(Search { sessions: BTreeSet::from([session]), unanswered_ms: 0, attempts: 0, state });
            }
        }
    }

    /// The next search to begin, if one is due and may run.
    pub(crate) fn begin(&mut self, now: Millis) -> Option<Timestamp> {
        if self.running == SEARCHES {
            return None;
        }
        let next = self.due.first().filter(|(at, ..)| *at <= now).copied()?;
        self.due.remove(&next);
        let (_, _, time) = next;
        let search = self.searches.get_mut(&time)?;
        search.state = SearchState::Running(now);
        self.running += 1;
        Some(time)
    }

    /// When [`Self::begin`] must be called next, if nothing changes.
    pub(crate) fn next_turn(&self) -> Option<Millis> {
        self.due.first().filter(|_| self.running < SEARCHES).map(|(at, ..)| *at)
    }

    /// A session no longer waits. A search without sessions is not made.
    pub(crate) fn leave(&mut self, session: SessionId) {
        let Some(time) = self.times.remove(&session) else { return };
        let Some(search) = self.searches.get_mut(&time) else { return };
        search.sessions.remove(&session);
        if let SearchState::Due(at, order) = search.state
            && search.sessions.is_empty()
        {
            self.due.remove(&(at, order, time));
            self.searches.remove(&time);
        }
    }

    /// The search for this time was answered. Returns the sessions that wait for it.
    pub(crate) fn found(&mut self, time: Timestamp) -> BTreeSet<SessionId> {
        let Some(search) = self.searches.remove(&time) else { return BTreeSet::new() };
        match search.state {
            SearchState::Running(_) => self.running -= 1,
            SearchState::Due(at, order) => drop(self.due.remove(&(at, order, time))),
        }
        for session in &search.sessions {
            self.times.remove(session);
        }
        search.sessions
    }

    /// The search for this time was not answered; `counts` is whether NATS was connected. If the search is given up,
    /// returns the sessions to inform.
    pub(crate) fn unanswered(&mut self, now: Millis, time: Timestamp, counts: bool) -> BTreeSet<SessionId> {
        let Some(search) = self.searches.get_mut(&time) else { return BTreeSet::new() };
        let SearchState::Running(since) = search.state else { return BTreeSet::new() };
        if counts {
            let paused = BACKOFF.after(search.attempts);
            search.unanswered_ms = search.unanswered_ms.saturating_add(now.since(since)).saturating_add(paused);
        }
        search.attempts = search.attempts.saturating_add(1);
        if search.sessions.is_empty() || search.unanswered_ms >= self.give_up_after {
            return self.found(time);
        }
        self.running -= 1;
        let due = now.plus(BACKOFF.after(search.attempts));
        search.state = schedule(&mut self.due, &mut self.next, due, time);
        BTreeSet::new()
    }
}

/// Schedules a search for its time, after those that are due at the same time.
fn schedule(due: &mut BTreeSet<(Millis, u64, Timestamp)>, next: &mut u64, at: Millis, time: Timestamp) -> SearchState {
    let order = *next;
    *next += 1;
    due.insert((at, order, time));
    SearchState::Due(at, order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVE_UP: u64 = 10_000;

    fn session(number: u64) -> SessionId {
        SessionId { shard: 0, number }
    }

    fn sessions(numbers: &[u64]) -> BTreeSet<SessionId> {
        numbers.iter().map(|number| session(*number)).collect()
    }

    /// Searches for these times. Each is asked for by a session with the same number.
    fn asked(times: impl IntoIterator<Item = i64>) -> Searches {
        let mut searches = Searches::new(GIVE_UP);
        for time in times {
            searches.ask(Millis(0), session(time as u64), Timestamp(time));
        }
        searches
    }

    fn begun(searches: &mut Searches, now: u64) -> Vec<i64> {
        std::iter::from_fn(|| searches.begin(Millis(now))).map(|time| time.0).collect()
    }

    fn is_empty(searches: &Searches) -> bool {
        let Searches { times, searches, due, running, .. } = searches;
        times.is_empty() && searches.is_empty() && due.is_empty() && *running == 0
    }

    #[test]
    fn sessions_that_ask_for_the_same_time_share_a_search_until_they_leave() {
        let mut searches = Searches::new(GIVE_UP);
        for (number, time) in [(1, 10), (2, 20), (3, 10), (4, 10)] {
            searches.ask(Millis(0), session(number), Timestamp(time));
        }
        searches.leave(session(3));
        assert_eq!(begun(&mut searches, 0), [10, 20]);
        // A session that asks while a search runs gets its result.
        searches.ask(Millis(0), session(5), Timestamp(20));
        assert_eq!(begun(&mut searches, 0), [0; 0]);
        assert_eq!(searches.found(Timestamp(10)), sessions(&[1, 4]));
        assert_eq!(searches.found(Timestamp(20)), sessions(&[2, 5]));
        assert!(is_empty(&searches));
    }

    #[test]
    fn session_that_leaves_and_asks_again_during_a_search_gets_one_answer() {
        let mut searches = asked([10]);
        assert_eq!(begun(&mut searches, 0), [10]);
        searches.leave(session(10));
        searches.ask(Millis(0), session(10), Timestamp(10));
        assert_eq!(begun(&mut searches, 0), [0; 0]);
        assert_eq!(searches.found(Timestamp(10)), sessions(&[10]));
        assert_eq!((begun(&mut searches, 0), searches.found(Timestamp(10))), (Vec::new(), sessions(&[])));
    }

    #[test]
    fn searches_beyond_the_limit_wait_in_the_order_of_requests() {
        let all = 2 * SEARCHES as i64;
        let mut searches = asked(0..all);
        let (first, rest): (Vec<i64>, Vec<i64>) = (0..all).partition(|time| *time < SEARCHES as i64);
        assert_eq!(begun(&mut searches, 0), first);
        assert_eq!(searches.next_turn(), None, "none may begin");
        searches.leave(session(SEARCHES as u64));
        for time in first {
            assert_eq!(searches.found(Timestamp(time)).len(), 1);
        }
        assert_eq!(searches.next_turn(), Some(Millis(0)));
        assert_eq!(begun(&mut searches, 0), rest[1..]);
    }

    #[test]
    fn unanswered_search_is_repeated_after_a_pause_and_others_go_first() {
        let mut searches = asked([10]);
        assert_eq!(begun(&mut searches, 0), [10]);
        assert_eq!(searches.unanswered(Millis(2_000), Timestamp(10), true), sessions(&[]));
        assert_eq!((searches.next_turn(), begun(&mut searches, 2_049)), (Some(Millis(2_050)), Vec::new()));
        searches.ask(Millis(2_049), session(2), Timestamp(20));
        assert_eq!(begun(&mut searches, 2_050), [20, 10]);
        assert_eq!(searches.found(Timestamp(10)), sessions(&[10]));
        assert_eq!(searches.found(Timestamp(20)), sessions(&[2]));
        assert!(is_empty(&searches));
    }

    /// Runs searches that are not answered for two seconds each. Returns when the search is given up.
    fn given_up(searches: &mut Searches, mut now: u64, counts: bool, until: u64) -> Option<u64> {
        while now < until {
            assert_eq!(begun(searches, now), [10]);
            now += 2_000;
            if searches.unanswered(Millis(now), Timestamp(10), counts) == sessions(&[10]) {
                return Some(now);
            }
            now = searches.next_turn()?.0;
        }
        None
    }

    #[test]
    fn only_time_with_nats_connected_counts_until_a_search_is_given_up() {
        let mut searches = asked([10]);
        assert_eq!(given_up(&mut searches, 0, false, 100 * GIVE_UP), None);
        let since = searches.next_turn().unwrap().0;
        let given_up = given_up(&mut searches, since, true, u64::MAX).unwrap();
        // The pause before the first attempt that counts is included.
        assert!((GIVE_UP - 2_000..GIVE_UP + 4_000).contains(&(given_up - since)), "{}", given_up - since);
        let mut searches = asked([10]);
        assert!(self::given_up(&mut searches, 0, true, u64::MAX).unwrap() >= GIVE_UP);
        assert!(is_empty(&searches));
    }

    #[test]
    fn search_without_waiting_sessions_is_not_made() {
        let mut searches = asked([10, 20]);
        searches.leave(session(20));
        assert_eq!(begun(&mut searches, 0), [10]);
        searches.leave(session(10));
        assert_eq!(searches.unanswered(Millis(2_000), Timestamp(10), true), sessions(&[]));
        assert!(is_empty(&searches) && searches.next_turn().is_none());
    }
}
