//! Judges one stream by its settings and by the results of writes to it: its problem, and what a router does about it.
//! Pure: the time is passed in.
//!
//! * A refusal by JetStream counts at once: it names its cause. A write without an acknowledgement may have met a
//!   change of the stream's leader, which is over in seconds; reads of the stream are not answered either meanwhile. So
//!   such writes count only when a read of the stream is answered although writes have failed for a while, and all
//!   reads were answered since before the last of these writes began. Writes to a stream that was missing do not count:
//!   it is created again.
//! * Clients get events whatever the state of buckets and dead letters is. These are restored before their problem is
//!   reported, so they have more time.
//! * A missing stream is created again, and edited settings are restored, as every starting node does it. The stream of
//!   events must be missing for a while before: a server that does not know it yet may have answered, and clients that
//!   wait for events must be notified of what has happened.

use crate::storage::expected::{ExpectedStream, StreamSettings};
use crate::writes::{Failing, Failure};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::PublishErrorKind;
use tickwire_core::ids::Millis;
use tickwire_core::storage::{StorageFault, StorageProblem};

/// How long writes must have failed without an answer when a read is answered, in milliseconds. A paused server answers
/// none: one read fails, or the last writes are stored when the server goes on.
const UNANSWERED: u64 = 1_500;

/// How many failed writes are necessary.
const TRIES: u32 = 2;

/// After how many milliseconds without a further write a failed one does not count any more: twice the longest default
/// interval between two writes (`membership.tick_interval`).
const RECENT: u64 = 10_000;

/// How long a problem that does not stop events must last before it is reported, in milliseconds.
const REPORT_DELAY: u64 = 5_000;

/// How long the stream of events must be missing before it is created again, in milliseconds.
const EVENTS_MISSING: u64 = 3_000;

/// The same for other streams, in milliseconds: two reads.
const MISSING: u64 = 1_000;

/// How long a restored edit is reported at least, in milliseconds: it is over within milliseconds, and all nodes should
/// learn of it.
const EDITED: u64 = 2_000;

/// How a router restores a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Create the stream.
    Create,
    /// Restore edited settings.
    Restore,
}

/// The known state of one stream.
#[derive(Debug)]
pub struct StreamHealth {
    kept: ExpectedStream,
    settings: Option<StreamSettings>,
    /// Since when reads have shown the same fault.
    since: Millis,
    /// Since when every read was answered.
    answered_since: Option<Millis>,
    /// The time of the last answered read.
    answered: Millis,
    /// When a read showed last that the stream is missing.
    missing_at: Millis,
    /// The time of the last edit, and its description.
    edited: Option<(Millis, String)>,
}

impl StreamHealth {
    /// Nothing is known yet.
    pub fn new(kept: ExpectedStream) -> Self {
        Self {
            kept,
            settings: None,
            since: Millis(0),
            answered_since: None,
            answered: Millis(0),
            missing_at: Millis(0),
            edited: None,
        }
    }

    /// The stream.
    pub fn kept(&self) -> &ExpectedStream {
        &self.kept
    }

    /// Records a read of the stream; `None` if nobody answered.
    pub fn record(&mut self, now: Millis, settings: Option<StreamSettings>) {
        let Some(settings) = settings else {
            self.answered_since = None;
            return;
        };
        self.answered_since.get_or_insert(now);
        self.answered = now;
        let differs =
            |known: &StreamSettings| (fault_in(known), replicas(known)) != (fault_in(&settings), replicas(&settings));
        if self.settings.as_ref().is_none_or(differs) {
            self.since = now;
        }
        if settings == StreamSettings::Missing {
            self.missing_at = now;
        }
        self.settings = Some(settings);
        if let Some((StorageFault::Edited, since, what)) = self.shown() {
            self.edited = Some((since, what));
        }
    }

    /// The problem to report, if any.
    pub fn trouble(&self, now: Millis, failing: Option<&Failing>) -> Option<StorageProblem> {
        let refused = failing.filter(|failing| now.since(failing.last) < RECENT);
        let (fault, since, what) = self
            .shown()
            .or_else(|| self.refused(refused))
            .or_else(|| self.unanswered(refused))
            .or_else(|| self.edited(now))
            .or_else(|| Some((StorageFault::Replicas, self.since, self.replicas()?)))?;
        let ms = now.since(since);
        let waits = fault == StorageFault::Replicas || !self.kept.stops_events();
        if waits && ms < REPORT_DELAY {
            return None;
        }
        let (stream, keeps) = (self.kept.name().to_owned(), self.kept.keeps.what());
        let lasting = if ms < 1_000 { String::new() } else { format!(", for {} s", ms / 1_000) };
        let text = match fault {
            StorageFault::Edited | StorageFault::Replicas => format!("{what}{lasting}"),
            _ => format!("NATS does not store {keeps}{lasting}: {what}"),
        };
        Some(StorageProblem {
            stream,
            fault,
            stops_events: self.kept.stops_events() && fault != StorageFault::Replicas,
            text,
        })
    }

    /// How to restore the stream now, if that is due.
    pub fn remedy(&self, now: Millis) -> Option<Remedy> {
        match self.settings.as_ref().map(fault_in)? {
            Some(StorageFault::Missing) => {
                let least = if self.kept.stops_events() { EVENTS_MISSING } else { MISSING };
                let is_sure = self.answered_since.is_some_and(|answered| now.since(answered) >= least);
                (is_sure && now.since(self.since) >= least).then_some(Remedy::Create)
            }
            Some(StorageFault::Edited) => Some(Remedy::Restore),
            _ => None,
        }
    }

    /// The last sequence of the stream in the last read.
    pub fn last(&self) -> Option<u64> {
        match self.settings {
            Some(StreamSettings::There { last, .. }) => Some(last),
            _ => None,
        }
    }

    /// The fault in the last read.
    fn shown(&self) -> Option<(StorageFault, Millis, String)> {
        let (settings, name) = (self.settings.as_ref()?, self.kept.name());
        let fault = fault_in(settings)?;
        let what = match (fault, settings) {
            (StorageFault::Missing, _) => {
                format!("the stream {name} does not exist; if it was deleted, routers create it again, empty")
            }
            (StorageFault::Sealed, _) => {
                format!("the stream {name} is sealed, which cannot be undone: {SEALED}")
            }
            (StorageFault::Full, StreamSettings::There { full: Some(limit), .. }) => {
                format!(
                    "the stream {name} has reached {limit} and refuses new messages (discard: new): raise the limit"
                )
            }
            (_, StreamSettings::There { edits, .. }) => {
                format!("the stream {name} was edited: {} differ from what tickwire needs; restored", edits.join(", "))
            }
            (_, StreamSettings::Missing) => return None,
        };
        Some((fault, self.since, what))
    }

    /// A refusal by JetStream, with its text.
    fn refused(&self, failing: Option<&Failing>) -> Option<(StorageFault, Millis, String)> {
        let failing = failing?;
        let Failure::Refused(refusal) = &failing.failure else { return None };
        let (name, subject) = (self.kept.name(), &failing.subject);
        let refused = format!("messages to {subject} are refused: {}", refusal.text);
        let (fault, what) = match refusal.code {
            ErrorCode::STREAM_SEALED => (
                StorageFault::Sealed,
                format!("{refused}; the stream {name} is sealed, which cannot be undone: {SEALED}"),
            ),
            ErrorCode::STREAM_STORE_FAILED if refusal.text.contains("maximum") => {
                (StorageFault::Full, format!("{refused}; raise this limit of the stream {name}"))
            }
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => (
                StorageFault::OverLimit,
                format!("{refused}; raise JetStream's limits of the account, or delete something"),
            ),
            ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED => (
                StorageFault::OverLimit,
                format!(
                    "{refused}; the server has used up its storage: check its disk, raise max_file_store, and restart \
                     nats-server if it goes on"
                ),
            ),
            ErrorCode::STREAM_STORE_FAILED => (StorageFault::NotStoring, format!("{refused}; {DISK}")),
            _ => return None,
        };
        Some((fault, failing.since, what))
    }

    /// Writes that fail while reads are answered.
    fn unanswered(&self, failing: Option<&Failing>) -> Option<(StorageFault, Millis, String)> {
        let Failing { since, began, tries, subject, failure, .. } = failing?;
        // A write that nobody took shows that the stream was missing, and so does one that began meanwhile.
        if matches!(failure, Failure::Unanswered(text) if text.contains(&PublishErrorKind::StreamNotFound.to_string()))
        {
            return None;
        }
        let answered_since = self.answered_since?.max(self.missing_at);
        let lasted = self.answered.since(answered_since.max(*since));
        if *tries < TRIES || *began < answered_since || lasted < UNANSWERED {
            return None;
        }
        let what = format!("{tries} writes have failed, the last one to {subject}: {failure}; {DISK}");
        Some((StorageFault::NotStoring, *since, what))
    }

    /// An edit that was restored a moment ago.
    fn edited(&self, now: Millis) -> Option<(StorageFault, Millis, String)> {
        let (at, what) = self.edited.as_ref()?;
        (now.since(*at) < EDITED).then(|| (StorageFault::Edited, *at, what.clone()))
    }

    fn replicas(&self) -> Option<String> {
        let found = self.settings.as_ref().and_then(replicas)?;
        let (name, wanted) = (self.kept.name(), self.kept.replicas());
        Some(format!(
            "the stream {name} has {found} replicas, but stream.replicas is {wanted}: the next starting node sets it"
        ))
    }
}

/// The advice for a server that does not store.
const DISK: &str =
    "look at the disk and the log of nats-server; after a full disk it stores nothing until it is restarted";

/// The advice for a sealed stream.
const SEALED: &str = "save its content, which can still be read, then delete it; routers create it again, empty";

/// The fault that a read shows at once.
fn fault_in(settings: &StreamSettings) -> Option<StorageFault> {
    match settings {
        StreamSettings::Missing => Some(StorageFault::Missing),
        StreamSettings::There { is_sealed: true, .. } => Some(StorageFault::Sealed),
        StreamSettings::There { edits, .. } if !edits.is_empty() => Some(StorageFault::Edited),
        StreamSettings::There { full: Some(_), .. } => Some(StorageFault::Full),
        StreamSettings::There { .. } => None,
    }
}

/// The number of copies, if it differs from the configured one.
fn replicas(settings: &StreamSettings) -> Option<usize> {
    match settings {
        StreamSettings::Missing => None,
        StreamSettings::There { replicas, .. } => *replicas,
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
