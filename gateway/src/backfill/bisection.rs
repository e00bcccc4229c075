//! Where in the stream a time stands: a few questions to the server for messages, of which only their sequence and their
//! time matter, whatever they hold. Any server that keeps the stream answers each, so that one may know more than another.
//!
//! Each search is a task that ends by its deadline. One that panics was not answered.

use std::collections::HashMap;
use std::time::Duration;

use metrics::counter;
use serde_json::json;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tickwire_node::declare_counter;
use tickwire_node::direct::DirectAnswer;
use tickwire_node::link::{LinkError, NatsMessage};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{error, warn};

/// How long a search may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// The last moment that the server can compare with: it counts nanoseconds in 64 bits, and takes a later one for one
/// long ago.
const LAST: Timestamp = Timestamp(9_223_372_036_854);

/// How many bytes of an answer may wait; one message is taken whatever its size.
const ANSWER_BYTES: usize = 1024;

/// The searches that are under way.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    running: JoinSet<Option<Seq>>,
    times: HashMap<Id, Timestamp>,
}

impl Finder {
    /// Begins a search for a time.
    pub(crate) fn begin(&mut self, time: Timestamp, search: impl Future<Output = Option<Seq>> + Send + 'static) {
        let id = self.running.spawn(search).id();
        self.times.insert(id, time);
    }

    /// Waits until a search has ended: the time, and where it stands. `None` if none is under way. Nothing is lost if this
    /// is not waited for to its end.
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
        counter!("tickwire_gateway_failed_searches_total").increment(1);
        error!(%failure, "a search for a time has failed; this is a bug, please report it");
        (failure.id(), None)
    })
}

pub(crate) fn describe() {
    declare_counter!("tickwire_gateway_failed_searches_total", "Searches for a time that have panicked");
}

/// The sequence of the last message that was stored before `time`, as any server that keeps the stream has it; what is
/// missing behind that may be newer. If the stream does not reach back so far, that is 0, so that what is gone shows as a
/// gap. `None` if nobody could say in time.
pub(crate) async fn find(nats: Nats, stream: String, time: Timestamp) -> Option<Seq> {
    let server = TimeIndex { nats: &nats, stream: &stream };
    let found = timeout(DEADLINE, server.before(time)).await;
    let found = found.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
    found.inspect_err(|reason| warn!(reason, %time, "a time cannot be found in the stream; searching again")).ok()
}

/// Whoever answers for the stream.
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
                None => Err("one server has messages that another one does not have yet".to_owned()),
            };
        };
        let mut search = Bisection { time, before: oldest.seq, newer: newer.seq, is_torn: false };
        while let Some(seq) = search.next() {
            search.take(seq, self.ask(&from(seq)).await?);
        }
        Ok(Seq(search.before))
    }

    /// The message that the server answers; `None` if there is none.
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

/// The search for the last message before a time. As a rule it stands just before the first one from that time on; where
/// messages are missing, it is looked for in halves.
#[derive(Debug)]
struct Bisection {
    time: Timestamp,
    /// A message that was stored before the time.
    before: u64,
    /// No message from here on was.
    newer: u64,
    /// Whether one is missing just before that.
    is_torn: bool,
}

impl Bisection {
    /// From where on the next message is to be asked for; `None` when it is found.
    fn next(&self) -> Option<u64> {
        let range = self.newer.saturating_sub(self.before);
        (range > 1).then(|| if self.is_torn { self.before + range / 2 } else { self.newer - 1 })
    }

    /// The first message from `seq` on.
    fn take(&mut self, seq: u64, first: Option<IndexedMessage>) {
        match first.filter(|first| (seq..self.newer).contains(&first.seq)) {
            Some(first) if first.at < self.time => self.before = first.seq,
            Some(first) => self.newer = first.seq,
            None => (self.newer, self.is_torn) = (seq, true),
        }
    }
}

async fn request(nats: &Nats, stream: &str, question: &serde_json::Value) -> Result<NatsMessage, LinkError> {
    let inbox = nats.link.new_inbox();
    let mut answers = nats.link.subscribe("searches", &inbox, None, ANSWER_BYTES)?;
    nats.link.publish(names::direct_get(stream), Some(&inbox), question.to_string().as_bytes())?;
    answers.next().await.ok_or(LinkError::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_search_that_panics_has_found_nothing_and_the_others_go_on() {
        let mut finder = Finder::default();
        finder.begin(Timestamp(10), async { panic!("at work") });
        assert_eq!(finder.next().await, Some((Timestamp(10), None)));
        finder.begin(Timestamp(20), async { Some(Seq(20)) });
        assert_eq!(finder.next().await, Some((Timestamp(20), Some(Seq(20)))));
        assert!(finder.next().await.is_none() && finder.times.is_empty());
    }

    #[test]
    fn the_last_message_before_a_time_is_found_wherever_messages_are_missing() {
        // Of messages 1 to 60, stored ten milliseconds apart, these are there.
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
                let mut search = Bisection { time, before: stream[0], newer, is_torn: false };
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
    fn a_server_that_contradicts_itself_ends_no_search_late() {
        for seq in [0, 3, 50, 99, 100, u64::MAX] {
            let mut search = Bisection { time: Timestamp(5), before: 1, newer: 100, is_torn: false };
            let mut asks = 0;
            while let Some(asked) = search.next() {
                search.take(asked, Some(IndexedMessage { seq, at: Timestamp(i64::from(asks)) }));
                asks += 1;
                assert!(asks < 20, "{seq}: {search:?}");
            }
        }
    }

    #[test]
    fn no_time_is_asked_for_that_the_server_cannot_count() {
        let asked = |time: &str| first_from(time.parse().unwrap())["start_time"].as_str().unwrap().to_owned();
        assert_eq!(asked("2026-11-23T14:30:00Z"), "2026-11-23T14:30:00.000Z");
        for later in ["2262-04-11T23:47:16.854Z", "2262-04-12T00:00:00Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(asked(later), "2262-04-11T23:47:16.854Z", "{later}");
        }
    }
}
