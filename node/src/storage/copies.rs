//! The copies of a stream on the servers of a NATS cluster: which of them are gone or behind. Pure: the time is passed
//! in.
//!
//! While a majority of the copies works, nothing stops when a server is gone, so nothing else tells of it. The next
//! server that ends may stop everything.
//!
//! Under load a copy is behind by some operations at any moment, and over a long line at every moment. So a router does
//! not count it at once, but when it comes no nearer for a while, or is far behind for as long.

use async_nats::jetstream::stream::{Info, PeerInfo};
use std::collections::BTreeMap;
use std::time::Duration;
use tickwire_core::ids::Millis;

/// For how long a server may be silent: a copy answers the leader of its stream every second.
const SILENT: Duration = Duration::from_secs(5);

/// How long a copy must be gone or behind before it counts, in milliseconds: longer than an election, and several
/// reads.
const LASTING: u64 = 10_000;

/// From how many operations on a copy is far behind: the most that a cluster does in about a second.
const FAR: u64 = 10_000;

/// A copy, as the leader of its stream knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// It has everything that counts as stored.
    Current,
    /// It lacks something.
    Behind,
    /// Its server gives no sign of it.
    Gone,
}

impl CopyState {
    /// Judges what the leader answers.
    pub fn of(copy: &PeerInfo) -> Self {
        if copy.current {
            Self::Current
        } else if copy.offline || copy.active.is_zero() || copy.active > SILENT {
            Self::Gone
        } else {
            Self::Behind
        }
    }
}

/// The copies of a stream beside that of its leader. `None` if the stream has no leader: then any server answers, and
/// does not know the others.
pub fn copies_of(info: &Info) -> Option<&[PeerInfo]> {
    match &info.cluster {
        None => Some(&[]),
        Some(cluster) => cluster.leader.as_ref().map(|_| cluster.replicas.as_slice()),
    }
}

/// The copies of one stream that are gone or behind, over several reads.
#[derive(Debug, Default)]
pub(super) struct CopiesBehind {
    by_server: BTreeMap<String, Behind>,
    count: usize,
}

/// A copy that was not current in the last read.
#[derive(Debug, Clone, Copy)]
struct Behind {
    /// Since when it was never current, and came no nearer.
    since: Millis,
    /// How many operations it was behind.
    lag: u64,
}

impl CopiesBehind {
    /// Records what a read shows of the copies.
    pub(super) fn record(&mut self, now: Millis, copies: &[PeerInfo]) {
        let known = std::mem::take(&mut self.by_server);
        for copy in copies {
            let state = CopyState::of(copy);
            if state == CopyState::Current {
                continue;
            }
            let lag = copy.lag.unwrap_or_default();
            let since = match known.get(&copy.name) {
                Some(before) if state == CopyState::Gone || lag >= before.lag.min(FAR) => before.since,
                _ => now,
            };
            self.by_server.insert(copy.name.clone(), Behind { since, lag });
        }
        self.count = self.by_server.values().filter(|behind| now.since(behind.since) >= LASTING).count();
    }

    /// How many were gone or behind for long, as of the last read.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::stream::{ClusterInfo, Config};

    fn current(name: &str) -> PeerInfo {
        PeerInfo { name: name.to_owned(), current: true, active: Duration::from_millis(20), ..PeerInfo::default() }
    }

    fn behind(name: &str, lag: u64) -> PeerInfo {
        PeerInfo { current: false, lag: Some(lag), ..current(name) }
    }

    fn silent(name: &str, for_ms: u64) -> PeerInfo {
        PeerInfo { active: Duration::from_millis(for_ms), ..behind(name, 7) }
    }

    /// What is counted after each of these reads, which are a second apart, of a stream with this copy and another one.
    fn counts(reads: impl IntoIterator<Item = PeerInfo>) -> Vec<usize> {
        let mut seen = CopiesBehind::default();
        let count = |(second, copy): (u64, PeerInfo)| {
            seen.record(Millis(1_000 * second), &[current("n-2"), copy]);
            seen.count()
        };
        (0..).zip(reads).map(count).collect()
    }

    #[test]
    fn copy_is_gone_when_its_server_is_offline_or_silent() {
        let offline = PeerInfo { offline: true, ..behind("n-1", 7) };
        let copies = [current("n-1"), behind("n-1", 7), silent("n-1", 5_000), silent("n-1", 5_001), offline];
        let states = copies.each_ref().map(CopyState::of);
        assert_eq!(
            states,
            [CopyState::Current, CopyState::Behind, CopyState::Behind, CopyState::Gone, CopyState::Gone]
        );
        // A new leader has not heard of it since its election.
        assert_eq!(CopyState::of(&silent("n-1", 0)), CopyState::Gone);
    }

    #[test]
    fn server_that_knows_no_leader_says_nothing_of_the_copies() {
        let info = |cluster: Option<ClusterInfo>| -> Info {
            let time = "2026-11-27T12:00:00Z";
            let config = Config { name: "EVENTS".to_owned(), ..Config::default() };
            let state = serde_json::json!({ "messages": 0, "bytes": 0, "first_seq": 1, "first_ts": time, "last_seq": 0,
                "last_ts": time, "consumer_count": 0 });
            let info = serde_json::json!({ "config": config, "created": time, "state": state, "ts": time });
            let mut info: Info = serde_json::from_value(info).unwrap();
            info.cluster = cluster;
            info
        };
        let replicas = vec![behind("n-1", 7), current("n-2")];
        let led = ClusterInfo { leader: Some("n-0".to_owned()), replicas: replicas.clone(), ..ClusterInfo::default() };
        assert_eq!(copies_of(&info(Some(led.clone()))), Some(replicas.as_slice()));
        assert_eq!(copies_of(&info(Some(ClusterInfo { leader: None, ..led }))), None);
        assert_eq!(copies_of(&info(None)), Some(&[][..]));
    }

    #[test]
    fn copy_that_is_gone_counts_after_ten_seconds_until_it_is_current() {
        let mut found = counts((0..12).map(|second| silent("n-1", 1_000 * second)).chain([current("n-1")]));
        assert_eq!(found.split_off(10), [1, 1, 0]);
        assert_eq!(found, [0; 10]);
    }

    #[test]
    fn copy_that_is_a_little_behind_under_load_does_not_count() {
        // Its line is long: it is never current, but follows.
        assert_eq!(counts((0..60).map(|second| behind("n-1", 3 + second % 4))), [0; 60]);
    }

    #[test]
    fn copy_that_takes_nothing_counts_even_if_it_lacks_little() {
        assert_eq!(counts((0..60).map(|second| behind("n-1", 1 + second / 5)))[10..], [1; 50]);
    }

    #[test]
    fn copy_that_comes_nearer_counts_while_it_is_far_behind() {
        let found = counts((0..36).map(|second| behind("n-1", 70_000 - 2_000 * second)));
        // It is 10,000 operations behind after 30 seconds.
        assert_eq!((&found[..10], &found[10..31], &found[31..]), (&[0; 10][..], &[1; 21][..], &[0; 5][..]));
    }

    #[test]
    fn moment_without_a_read_ends_nothing_and_counts_for_nothing() {
        let mut seen = CopiesBehind::default();
        seen.record(Millis(0), &[behind("n-1", 1)]);
        // An election: nobody answers for longer than a copy may be behind.
        assert_eq!(seen.count(), 0);
        seen.record(Millis(15_000), &[current("n-1")]);
        assert_eq!(seen.count(), 0);
        for second in 16..=26 {
            seen.record(Millis(1_000 * second), &[silent("n-1", 6_000)]);
        }
        assert_eq!(seen.count(), 1);
        seen.record(Millis(60_000), &[silent("n-1", 40_000)]);
        assert_eq!(seen.count(), 1);
        // An operator has removed the server from the cluster.
        seen.record(Millis(61_000), &[current("n-3")]);
        assert_eq!(seen.count(), 0);
    }
}
