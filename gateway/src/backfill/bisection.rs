//! Finds the last sequence before a time: it asks the NATS server for a few messages, and looks only at their
//! sequences and times. Any server with a replica of the stream may answer, so one answer may know more than another.
//!
//! Each search is a task that ends by its deadline. A search that panics counts as not answered.

use std::collections::HashMap;
use std::time::Duration;

use crate::metrics;
use serde_json::json;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tickwire_node::direct::DirectAnswer;
use tickwire_node::link::{LinkError, NatsMessage};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{error, warn};

/// How long a search may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// The last time that the server can compare with. It counts nanoseconds in 64 bits, and a later time overflows to one
/// long ago.
const LAST: Timestamp = Timestamp(9_223_372_036_854);

/// How many bytes of an answer may wait. The first message is accepted with any size.
const ANSWER_BYTES: usize = 1024;

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

/// The sequence of the last message that was stored before `time`, on any server with a replica of the stream. Missing
/// messages after it may be newer. If the stream does not reach back that far, the result is 0, so that the removed
/// messages show as a gap. `None` if no server answered in time.
pub(crate) async fn find(nats: Nats, stream: String, time: Timestamp) -> Option<Seq> {
    let server = TimeIndex { nats: &nats, stream: &stream };
    let found = timeout(DEADLINE, server.before(time)).await;
    let found = found.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
    found.inspect_err(|reason| warn!(reason, %time, "search for a time failed, it is repeated")).ok()
}

/// The servers that answer for the stream.
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
        let Some(oldest) = self.ask(&from(1)).await?.filter(|oldest| oldest.at < time) else { return Ok(Seq(0)) };
        let Some(newer) = self.ask(&first_from(time)).await? else {
            let last = self.ask(&json!({ "last_by_subj": ">" })).await?;
            return match last.filter(|last| last.at < time) {
                Some(last) => Ok(Seq(last.seq)),
                None => Err("one server has messages that another does not have yet".to_owned()),
            };
        };
        let mut search = Bisection { time, before: oldest.seq, newer: newer.seq, has_missing: false };
        while let Some(seq) = search.next() {
            search.take(seq, self.ask(&from(seq)).await?);
        }
        Ok(Seq(search.before))
    }

    /// The message with which the server answers; `None` if there is none.
    async fn ask(&self, question: &serde_json::Value) -> Result<Option<IndexedMessage>, String> {
        let answer = request(self.nats, self.stream, question).await.map_err(|error| error.to_string())?;
        match DirectAnswer::read(&answer) {
            DirectAnswer::Message(got) => {
                let at = got.stored.parse().map_err(|error| format!("stored at {:?}: {error}", got.stored))?;
                Ok(Some(IndexedMessage { seq: got.seq, at }))
            }
            DirectAnswer::Nothing => Ok(None),
            other => Err(format!("the server answers {other:?} to {question}")),
        }
    }
}

/// The first message from a sequence on.
fn from(seq: u64) -> serde_json::Value {
    json!({ "seq": seq, "next_by_subj": ">" })
}

/// The first message from a time on.
fn first_from(time: Timestamp) -> serde_json::Value {
    json!({ "start_time": time.min(LAST).to_string(), "next_by_subj": ">" })
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

async fn request(nats: &Nats, stream: &str, question: &serde_json::Value) -> Result<NatsMessage, LinkError> {
    let inbox = nats.link.new_inbox();
    let mut answers = nats.link.subscribe("searches", &inbox, None, ANSWER_BYTES)?;
    nats.link.publish(nats.api(&names::direct_get(stream)), Some(&inbox), question.to_string().as_bytes())?;
    answers.next().await.ok_or(LinkError::Closed)
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
        let asked = |time: &str| first_from(time.parse().unwrap())["start_time"].as_str().unwrap().to_owned();
        assert_eq!(asked("2026-11-23T14:30:00Z"), "2026-11-23T14:30:00.000Z");
        for later in ["2262-04-11T23:47:16.854Z", "2262-04-12T00:00:00Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(asked(later), "2262-04-11T23:47:16.854Z", "{later}");
        }
    }
}
