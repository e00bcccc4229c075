//! The metrics of watched users: the counts of their sessions, asked from time to time like those for
//! `/v1/users/{user}`. So delivery does nothing for them, and other users cost nothing. The last seconds of a session
//! that has ended are missing in the sums.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::Label;
use tickwire_core::ids::UserId;
use tickwire_node::clock::wall_clock;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::shard::inquiry::SessionCounts;
use crate::status::users::Users;

/// The time between two questions about a user: shorter than that between two scrapes.
const INTERVAL: Duration = Duration::from_secs(2);

/// Measures the watched users.
#[derive(Debug)]
pub(crate) struct WatchedUsers {
    users: Arc<Users>,
    watched: Vec<WatchedUser>,
}

/// A watched user.
#[derive(Debug)]
struct WatchedUser {
    user: UserId,
    /// The counts of the sessions when they were last asked, by number.
    known: BTreeMap<u64, SessionCounts>,
}

/// What was added since the last question.
#[derive(Debug, Default, PartialEq, Eq)]
struct Growth {
    events: u64,
    bytes: u64,
    /// By reason.
    dropped: [(&'static str, u64); 4],
    conflated: u64,
    gaps: u64,
}

impl WatchedUsers {
    /// Watches these users. Their metrics are shown from 0 on.
    pub(crate) fn new(users: Arc<Users>, watched: Vec<UserId>) -> Self {
        let watched = watched.into_iter().map(|user| WatchedUser { user, known: BTreeMap::new() });
        let watched: Vec<WatchedUser> = watched.collect();
        for WatchedUser { user, .. } in &watched {
            metrics::USER_LAST_SEEN.with(user.as_str().to_owned()).set(0.0);
        }
        Self { users, watched }
    }

    /// Asks about each user from time to time, until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut times = interval(INTERVAL);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(times.tick()).await.is_some() {
            for watched in &mut self.watched {
                let Some(counts) = self.users.counts(&watched.user).await else { continue };
                watched.publish(counts.sessions);
            }
        }
    }
}

impl WatchedUser {
    fn publish(&mut self, sessions: BTreeMap<u64, SessionCounts>) {
        let growth = growth(&self.known, &sessions);
        let user = || self.user.as_str().to_owned();
        metrics::USER_SESSIONS.with(user()).set(sessions.len() as f64);
        let waiting: usize = sessions.values().map(|counts| counts.waiting).sum();
        metrics::USER_WAITING_EVENTS.with(user()).set(waiting as f64);
        if !sessions.is_empty() {
            metrics::USER_LAST_SEEN.with(user()).set(wall_clock().as_secs_f64());
        }
        metrics::USER_EVENTS.with(user()).increment(growth.events);
        metrics::USER_BYTES.with(user()).increment(growth.bytes);
        metrics::USER_CONFLATED_EVENTS.with(user()).increment(growth.conflated);
        metrics::USER_GAPS.with(user()).increment(growth.gaps);
        for (reason, events) in growth.dropped {
            let labels = vec![Label::new("user", user()), Label::new("reason", reason)];
            metrics::USER_DROPPED_EVENTS.labelled(labels).increment(events);
        }
        self.known = sessions;
    }
}

/// What the sessions have more than when they were asked before. A session that is new had nothing.
fn growth(before: &BTreeMap<u64, SessionCounts>, now: &BTreeMap<u64, SessionCounts>) -> Growth {
    let mut growth = Growth { dropped: reasons(|_| 0), ..Growth::default() };
    for (number, counts) in now {
        let known = before.get(number);
        // The count of dropped events falls if a resume delivers some of them.
        let more = |count: fn(&SessionCounts) -> u64| count(counts).saturating_sub(known.map_or(0, count));
        growth.events += more(|counts| counts.sent.events);
        growth.bytes += more(|counts| counts.sent.bytes);
        growth.conflated += more(|counts| counts.missed.conflated);
        growth.gaps += more(|counts| counts.missed.gaps);
        for (sum, (_, more)) in growth.dropped.iter_mut().zip(reasons(more)) {
            sum.1 += more;
        }
    }
    growth
}

/// A number for each reason of drops.
fn reasons(count: impl Fn(fn(&SessionCounts) -> u64) -> u64) -> [(&'static str, u64); 4] {
    [
        ("slow_consumer", count(|counts| counts.missed.slow_consumer)),
        ("throttled", count(|counts| counts.missed.throttled)),
        ("quota", count(|counts| counts.missed.quota)),
        ("expired", count(|counts| counts.missed.expired)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Missed, Sent};

    fn counts(events: u64, throttled: u64) -> SessionCounts {
        SessionCounts {
            is_open: true,
            is_resumed: false,
            sent: Sent { events, bytes: events * 100 },
            waiting: 0,
            missed: Missed { throttled, ..Missed::default() },
            notices: 0,
        }
    }

    #[test]
    fn sums_grow_by_what_sessions_got_since_the_last_question() {
        let before = BTreeMap::from([(1, counts(10, 2)), (2, counts(5, 0))]);
        // Session 2 has ended, and session 3 is new.
        let now = BTreeMap::from([(1, counts(14, 3)), (3, counts(7, 1))]);
        let expected = Growth { events: 11, bytes: 1_100, ..Growth::default() };
        let found = growth(&before, &now);
        assert_eq!(found.dropped, [("slow_consumer", 0), ("throttled", 2), ("quota", 0), ("expired", 0)]);
        assert_eq!(Growth { dropped: expected.dropped, ..found }, expected);
        // A resume delivers what was counted as dropped.
        assert_eq!(growth(&now, &BTreeMap::from([(1, counts(14, 0))])).dropped[1].1, 0);
    }
}
