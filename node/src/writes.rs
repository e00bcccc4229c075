//! The results of the last writes to each stream: every part that publishes to JetStream and waits for the answer notes
//! the result here. They show whether NATS stores at all. Nothing else shows this: a server whose disk is full still
//! answers all requests.

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
    /// Its error code, which does not depend on the text.
    pub code: ErrorCode,
    /// Its text, which includes the codes.
    pub text: String,
}

/// Why a message was not stored, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// JetStream has refused it.
    Refused(JetStreamRefusal),
    /// There was no acknowledgement, or another error, which is described.
    Unanswered(String),
}

/// Failed writes, none of which was followed by a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// When the first of them began.
    pub since: Millis,
    /// When the write with the latest begin began.
    pub began: Millis,
    /// When the last of them ended.
    pub last: Millis,
    /// How many there were.
    pub tries: u32,
    /// The subject of the last of them.
    pub subject: String,
    /// The error of the last of them.
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
    /// The time on the clock of these writes.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Notes the result of a write to `subject` of `stream` that began at `began`.
    pub fn note<E: Error + 'static>(&self, stream: &str, subject: &str, began: Millis, ended: Result<(), &E>) {
        let (now, mut failing) = (self.now(), self.lock());
        let Err(error) = ended else {
            // A write that began before the failures says nothing about the time after them.
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

    /// The writes to `stream` that have failed since the last success.
    pub fn failing(&self, stream: &str) -> Option<Failing> {
        self.lock().get(stream).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    /// The failure of an error, however deep JetStream's own error is wrapped.
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
    fn jetstream_error_is_found_in_any_wrapper() {
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
    fn failures_last_until_a_later_write_is_stored() {
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
