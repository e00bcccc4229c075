//! What became of the last writes to each stream: whoever publishes to JetStream and waits for its answer notes it here.
//! From that follows whether NATS stores at all, which nothing else shows: a server whose disk is full goes on to answer
//! all questions.

use crate::clock::Clock;
use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tickwire_core::ids::Millis;

/// JetStream's own error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JetStreamRefusal {
    /// Its number, which is the same whatever the words are.
    pub code: ErrorCode,
    /// Its words, with its numbers.
    pub text: String,
}

/// Why something was not stored, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// JetStream has refused it.
    Refused(JetStreamRefusal),
    /// Nobody has acknowledged it, or this happened on the way.
    Unanswered(String),
}

/// Writes of which none has succeeded since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// When the first of them began.
    pub since: Millis,
    /// When the one that was begun last began.
    pub began: Millis,
    /// When the last of them ended.
    pub last: Millis,
    /// How many there were.
    pub tries: u32,
    /// Where the last of them was to go.
    pub subject: String,
    /// How the last of them ended.
    pub failure: Failure,
}

/// The state of all streams that are written to. Clones share it.
#[derive(Debug, Clone)]
pub struct Writes {
    clock: Clock,
    // Held only to read or write a map of a few streams.
    failing: Arc<Mutex<BTreeMap<String, Failing>>>,
}

impl Default for Writes {
    fn default() -> Self {
        Self { clock: Clock::start(), failing: Arc::default() }
    }
}

impl Writes {
    /// The time that writes are noted by.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// A write to `subject`, which `stream` takes, began at this time and has ended so.
    pub fn note<E: Error + 'static>(&self, stream: &str, subject: &str, began: Millis, ended: Result<(), &E>) {
        let (now, mut failing) = (self.now(), self.lock());
        let Err(error) = ended else {
            // What began before the others failed tells of a time that is over.
            if failing.get(stream).is_some_and(|failing| began >= failing.since) {
                failing.remove(stream);
            }
            return;
        };
        let failing = failing.entry(stream.to_owned()).or_insert_with(|| Failing {
            since: began,
            began,
            last: now,
            tries: 0,
            subject: String::new(),
            failure: Failure::Unanswered(String::new()),
        });
        failing.tries = failing.tries.saturating_add(1);
        failing.began = failing.began.max(began);
        failing.last = now;
        (failing.subject, failing.failure) = (subject.to_owned(), Failure::of(error));
    }

    /// The writes to `stream` that have failed since the last that succeeded.
    pub fn failing(&self, stream: &str) -> Option<Failing> {
        self.lock().get(stream).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    /// What an error means, whatever it is wrapped in.
    pub fn of<E: Error + 'static>(error: &E) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(refusal) = error.downcast_ref::<jetstream::Error>() {
                return Self::Refused(JetStreamRefusal { code: refusal.error_code(), text: refusal.to_string() });
            }
            cause = error.source();
        }
        Self::Unanswered(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(JetStreamRefusal { text, .. }) => f.write_str(text),
            Self::Unanswered(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::context::{PublishError, PublishErrorKind};
    use async_nats::jetstream::kv::{UpdateError, UpdateErrorKind};

    fn refused() -> jetstream::Error {
        serde_json::from_str(r#"{"code":503,"err_code":10023,"description":"insufficient resources"}"#).unwrap()
    }

    #[test]
    fn jetstreams_own_error_is_found_in_whatever_it_is_wrapped_in() {
        let refusal = JetStreamRefusal {
            code: ErrorCode::INSUFFICIENT_RESOURCES,
            text: "insufficient resources (code 503, error code 10023)".to_owned(),
        };
        let publish = PublishError::with_source(PublishErrorKind::Other, refused());
        assert_eq!(Failure::of(&publish), Failure::Refused(refusal.clone()));
        let update = UpdateError::with_source(UpdateErrorKind::Other, publish);
        assert_eq!(Failure::of(&update), Failure::Refused(refusal));
        let late = PublishError::new(PublishErrorKind::TimedOut);
        assert_eq!(Failure::of(&late), Failure::Unanswered("timed out: didn't receive ack in time".to_owned()));
    }

    #[test]
    fn writes_fail_from_the_first_that_failed_to_the_first_that_began_later_and_was_stored() {
        let writes = Writes::default();
        let late = PublishError::new(PublishErrorKind::TimedOut);
        let failed = |at| writes.note("S", "s.1", Millis(at), Err(&late));
        let stored = |at| writes.note("S", "s.1", Millis(at), Ok::<(), &PublishError>(()));
        stored(1);
        assert_eq!(writes.failing("S"), None);
        failed(1_000);
        failed(2_000);
        stored(999);
        let failing = writes.failing("S").unwrap();
        assert_eq!((failing.since, failing.tries, failing.subject.as_str()), (Millis(1_000), 2, "s.1"));
        assert_eq!(failing.began, Millis(2_000));
        assert_eq!(writes.failing("T"), None);
        stored(2_500);
        assert_eq!(writes.failing("S"), None);
        failed(3_000);
        assert_eq!(writes.failing("S").map(|failing| failing.since), Some(Millis(3_000)));
    }
}
