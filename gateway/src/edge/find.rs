//! Where in the stream a time stands: two questions to the server, one for the first message from that time on, one for
//! the oldest that is kept. What these messages hold does not matter, whatever it is.
//!
//! Each search is a task that ends by its deadline. One that panics has found nothing.

use std::collections::HashMap;
use std::time::Duration;

use metrics::counter;
use serde_json::json;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tickwire_node::declare_counter;
use tickwire_node::direct::Answer;
use tickwire_node::link::{LinkError, Message};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{error, warn};

/// How long the server may take for an answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// The last moment that the server can compare with: it counts nanoseconds in 64 bits, and takes a later one for one
/// long ago.
const LAST: Timestamp = Timestamp(9_223_372_036_854);

/// How many bytes of an answer may wait; one message is taken whatever its size.
const ANSWER_BYTES: usize = 1024;

/// The searches that are under way.
#[derive(Debug, Default)]
pub(super) struct Finder {
    running: JoinSet<Option<Seq>>,
    times: HashMap<Id, Timestamp>,
}

impl Finder {
    /// Begins a search for a time.
    pub(super) fn begin(&mut self, time: Timestamp, search: impl Future<Output = Option<Seq>> + Send + 'static) {
        let id = self.running.spawn(search).id();
        self.times.insert(id, time);
    }

    /// Waits until a search has ended: the time, and where it stands. `None` if none is under way. Nothing is lost if this
    /// is not waited for to its end.
    pub(super) async fn next(&mut self) -> Option<(Timestamp, Option<Seq>)> {
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

pub(super) fn describe() {
    declare_counter!("tickwire_gateway_failed_searches_total", "Searches for a time that have panicked");
}

/// The sequence up to which everything was stored before `time`. If the stream does not reach back so far, that is 0, so
/// that what is gone shows as a gap. `None` if nobody could say.
pub(super) async fn find(nats: Nats, stream: String, time: Timestamp) -> Option<Seq> {
    let first_from_then = first_from(time);
    let oldest = json!({ "seq": 1, "next_by_subj": ">" });
    let found = match ask(&nats, &stream, &first_from_then).await? {
        Some(seq) => seq,
        // Nothing was stored since then.
        None => return Some(Seq(u64::MAX)),
    };
    let is_oldest = ask(&nats, &stream, &oldest).await? == Some(found);
    Some(if is_oldest { Seq(0) } else { Seq(found.0.saturating_sub(1)) })
}

fn first_from(time: Timestamp) -> serde_json::Value {
    json!({ "start_time": time.min(LAST).to_string(), "next_by_subj": ">" })
}

/// The sequence of the message that the server answers; `Some(None)` if there is none, `None` if that is not known.
async fn ask(nats: &Nats, stream: &str, question: &serde_json::Value) -> Option<Option<Seq>> {
    let answer = match timeout(DEADLINE, request(nats, stream, question)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            warn!(%error, %question, "a time cannot be found in the stream");
            return None;
        }
        Err(_) => {
            warn!(%question, "a time was not found in the stream within {DEADLINE:?}");
            return None;
        }
    };
    match Answer::read(&answer) {
        Answer::Message(got) => Some(Some(Seq(got.seq))),
        Answer::Nothing => Some(None),
        other => {
            warn!(answer = ?other, %question, "the server does not say where a time stands");
            None
        }
    }
}

async fn request(nats: &Nats, stream: &str, question: &serde_json::Value) -> Result<Message, LinkError> {
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
    fn no_time_is_asked_for_that_the_server_cannot_count() {
        let asked = |time: &str| first_from(time.parse().unwrap())["start_time"].as_str().unwrap().to_owned();
        assert_eq!(asked("2026-11-23T14:30:00Z"), "2026-11-23T14:30:00.000Z");
        for later in ["2262-04-11T23:47:16.854Z", "2262-04-12T00:00:00Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(asked(later), "2262-04-11T23:47:16.854Z", "{later}");
        }
    }
}
