//! Finds the last sequence before a time: it asks the NATS server that leads the stream for a few messages, and looks
//! only at their sequences and times. After a change of the leader, one answer may know more than another.
//!
//! A direct get, which any replica answers, would be cheaper. But its answer is the bare message, which the server sends
//! to any subject that the request names, whatever the permissions of the asker. So gateways may not make direct gets.
//!
//! Each search is a task that ends by its deadline. A search that panics counts as not answered.

use std::collections::HashMap;
use std::time::Duration;

use crate::metrics;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::stored::{self, MessageSelector};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{error, warn};

/// How long a search may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// The last time that the server can compare with. It counts nanoseconds in 64 bits, and a later time overflows to one
/// long ago.
const LAST: Timestamp = Timestamp(9_223_372_036_854);

/// The searches that run.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    running: JoinSet<Option<Seq>>,
    times: HashMap<Id, Timestamp>,
}

impl Finder {
    /// Starts a search for a time.
    pub(crate) fn begin(&mut self, time: Timestamp, search: impl Future<Output = Option<Seq>> + Send + 'static) {
        let id = self.running.spawn(search).id();
        self.times.insert(id, time);
    }

    /// Waits until a search has ended. Returns the time and its position; `None` if no search runs. Cancel safe:
    /// nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<(Timestamp, Option<Seq>)> {
        loop {
            let (id, seq) = ended(self.running.join_next_with_id().await?);
            if let Some(time) = self.times.remove(&id) {
                return Some((time, seq));
            }
        }
    }
}

fn ended(ended: Result<(Id, Option<Seq>), JoinError>) -> (Id, Option<Seq>) {
    ended.unwrap_or_else(|failure| {
        metrics::TIME_SEARCH_PANICS.increment(1);
        error!(reason = %failure, "search for a time panicked; this is a bug, please report it");
        (failure.id(), None)
    })
}

/// The sequence of the last message that was stored before `time`, by the server that leads the stream. Missing
/// messages after it may be newer. If the stream does not reach back that far, the result is 0, so that the removed
/// messages show as a gap. `None` if no server answered in time.
pub(crate) async fn find(nats: Nats, stream: String, time: Timestamp) -> Option<Seq> {
    let server = TimeIndex { nats: &nats, stream: &stream };
    let found = timeout(DEADLINE, server.before(time)).await;
    let found = found.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
    found.inspect_err(|reason| warn!(reason, %time, "search for a time failed, it is repeated")).ok()
}

/// The server that answers for the stream.
#[derive(Debug)]
struct TimeIndex<'n> {
    nats: &'n Nats,
    stream: &'n str,
}

/// A message of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexedMessage {
    seq: u64,
    at: Timestamp,
}

impl TimeIndex<'_> {
    async fn before(&self, time: Timestamp) -> Result<Seq, String> {
        let oldest = self.ask(MessageSelector::from(Seq(1))).await?;
        let Some(oldest) = oldest.filter(|oldest| oldest.at < time) else { return Ok(Seq(0)) };
        let first = self.ask(MessageSelector::since(&start_time(time))).await?;
        // A server that ignores the time answers with the oldest message, so the search covers the whole stream.
        let mut search = match first.filter(|first| first.at >= time) {
            Some(newer) => Bisection { time, before: oldest.seq, newer: newer.seq, has_missing: false },
            None => match self.ask(MessageSelector::LastOf(names::ALL)).await? {
                Some(last) if last.at < time => return Ok(Seq(last.seq)),
                Some(last) => Bisection { time, before: oldest.seq, newer: last.seq, has_missing: true },
                None => return Err("the stream has lost its last message meanwhile".to_owned()),
            },
        };
        while let Some(seq) = search.next() {
            search.take(seq, self.ask(MessageSelector::from(Seq(seq))).await?);
        }
        Ok(Seq(search.before))
    }

    /// The message with which the server answers; `None` if there is none.
    async fn ask(&self, wanted: MessageSelector<'_>) -> Result<Option<IndexedMessage>, String> {
        let got = stored::get(&self.nats.jetstream, self.stream, wanted).await.map_err(|error| error.to_string())?;
        Ok(got.map(|message| IndexedMessage { seq: message.seq.0, at: Timestamp(message.stored) }))
    }
}

/// A time for the server.
fn start_time(time: Timestamp) -> String {
    time.min(LAST).to_string()
}

/// The search for the last message before a time. Usually it is just before the first message from that time on. If
/// messages are missing there, the search bisects.
#[derive(Debug)]
struct Bisection {
    time: Timestamp,
    /// A message that was stored before the time.
    before: u64,
    /// No message from here on was stored before it.
    newer: u64,
    /// Whether messages are missing just before `newer`.
    has_missing: bool,
}

impl Bisection {
    /// The sequence from which the next message must be asked for; `None` if the search is done.
    fn next(&self) -> Option<u64> {
        let range = self.newer.saturating_sub(self.before);
        (range > 1).then(|| if self.has_missing { self.before + range / 2 } else { self.newer - 1 })
    }

    /// Takes the answer: the first message from `seq` on.
    fn take(&mut self, seq: u64, first: Option<IndexedMessage>) {
        match first.filter(|first| (seq..self.newer).contains(&first.seq)) {
            Some(first) if first.at < self.time => self.before = first.seq,
            Some(first) => self.newer = first.seq,
            None => (self.newer, self.has_missing) = (seq, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn search_that_panics_finds_nothing_and_others_continue() {
        let mut finder = Finder::default();
        finder.begin(Timestamp(10), async { panic!("at work") });
        assert_eq!(finder.next().await, Some((Timestamp(10), None)));
        finder.begin(Timestamp(20), async { Some(Seq(20)) });
        assert_eq!(finder.next().await, Some((Timestamp(20), Some(Seq(20)))));
        assert!(finder.next().await.is_none() && finder.times.is_empty());
    }

    #[test]
    fn last_message_before_a_time_is_found_with_any_messages_missing() {
        // The stream has these of the messages 1 to 60, which were stored ten milliseconds apart.
        let streams: [&[u64]; 7] = [
            &[1, 2, 3, 4, 5],
            &[1, 60],
            &[5, 6, 20, 21, 22, 60],
            &[1, 2, 3, 58, 59, 60],
            &[7, 9, 11, 13, 15, 31],
            &[30, 31, 32],
            &[1],
        ];
        for stream in streams {
            for time in (0..620).map(Timestamp) {
                let at = |seq: u64| Timestamp(seq as i64 * 10);
                let first = |seq| {
                    let seq = *stream.iter().find(|there| **there >= seq)?;
                    Some(IndexedMessage { seq, at: at(seq) })
                };
                let before = stream.iter().copied().rfind(|seq| at(*seq) < time);
                let newer = stream.iter().copied().find(|seq| at(*seq) >= time);
                let (Some(before), Some(newer)) = (before, newer) else { continue };
                let mut search = Bisection { time, before: stream[0], newer, has_missing: false };
                let mut asks = 0;
                while let Some(seq) = search.next() {
                    search.take(seq, first(seq));
                    asks += 1;
                }
                assert_eq!(search.before, before, "{stream:?} {time:?}");
                assert!(asks <= if newer == before + 1 { 1 } else { 8 }, "{stream:?} {time:?}: {asks}");
                // A server that ignores times has named no message from the time on, so the last one stands for it.
                let newer = stream.last().copied().unwrap();
                let mut search = Bisection { time, before: stream[0], newer, has_missing: true };
                while let Some(seq) = search.next() {
                    search.take(seq, first(seq));
                }
                assert_eq!(search.before, before, "{stream:?} {time:?}");
            }
        }
    }

    #[test]
    fn search_ends_soon_even_if_the_server_contradicts_itself() {
        for seq in [0, 3, 50, 99, 100, u64::MAX] {
            let mut search = Bisection { time: Timestamp(5), before: 1, newer: 100, has_missing: false };
            let mut asks = 0;
            while let Some(asked) = search.next() {
                search.take(asked, Some(IndexedMessage { seq, at: Timestamp(i64::from(asks)) }));
                asks += 1;
                assert!(asks < 20, "{seq}: {search:?}");
            }
        }
    }

    #[test]
    fn time_beyond_the_range_of_the_server_is_capped() {
        let asked = |time: &str| start_time(time.parse().unwrap());
        assert_eq!(asked("2026-11-23T14:30:00Z"), "2026-11-23T14:30:00.000Z");
        for later in ["2262-04-11T23:47:16.854Z", "2262-04-12T00:00:00Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(asked(later), "2262-04-11T23:47:16.854Z", "{later}");
        }
    }
}
