//! What is wrong with one stream, from looks at it and from what became of writes to it, and what a router does about it.
//! Pure: the time comes in.
//!
//! * A refusal by JetStream counts at once: it names its cause. A write that nobody acknowledges may have met a stream
//!   that changes its leader, which is over in seconds and which looks show as well, since nobody answers them either. So
//!   such writes count when a look is answered although they have failed for a while, and looks were answered since before
//!   the last of them began.
//! * Clients have events whatever becomes of buckets and dead letters. These are made anew or mended before anybody is
//!   told, which is why they have longer.
//! * What is missing is made anew, and what was edited is put back, as every node that starts does it. The stream of
//!   events is missing for a while before: a look may be answered by a server that does not know it yet, and those who
//!   wait for it are to be told what has happened.

use super::kept::{ExpectedStream, StreamSettings};
use crate::writes::{Failing, Failure};
use async_nats::jetstream::ErrorCode;
use tickwire_core::ids::Millis;
use tickwire_core::storage::{StorageFault, StorageProblem};

/// How long writes have failed without an answer when a look is answered, in milliseconds. A server that stands still
/// answers none: one look fails, or what was written last is stored when it goes on.
const UNANSWERED: u64 = 1_500;

/// How many of them there must be.
const TRIES: u32 = 2;

/// After so many milliseconds without a further write, one that failed says nothing any more: twice the longest time between
/// two tries as it ships (`membership.tick_interval`).
const RECENT: u64 = 10_000;

/// How long anything may be wrong that does not stop events before it is told, in milliseconds.
const PATIENCE: u64 = 5_000;

/// How long the stream of events is missing before it is made anew, in milliseconds.
const EVENTS_MISSING: u64 = 3_000;

/// How long anything else is, in milliseconds: two looks.
const MISSING: u64 = 1_000;

/// How long an edit that was put back is told at least, in milliseconds: it is over within milliseconds, and all are to
/// hear of it.
const EDITED: u64 = 2_000;

/// What a router is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Make the stream.
    Make,
    /// Put back what was edited.
    PutBack,
}

/// What is known of one stream.
#[derive(Debug)]
pub struct StreamHealth {
    kept: ExpectedStream,
    sight: Option<StreamSettings>,
    /// Since when the last look has shown the same fault.
    since: Millis,
    /// Since when every look was answered.
    answered_since: Option<Millis>,
    /// When the last one was.
    answered: Millis,
    /// When the last edit was seen, and what it was.
    edited: Option<(Millis, String)>,
}

impl StreamHealth {
    /// Nothing is known yet.
    pub fn new(kept: ExpectedStream) -> Self {
        Self { kept, sight: None, since: Millis(0), answered_since: None, answered: Millis(0), edited: None }
    }

    /// The stream.
    pub fn kept(&self) -> &ExpectedStream {
        &self.kept
    }

    /// A look at it; `None` if nobody has answered.
    pub fn see(&mut self, now: Millis, sight: Option<StreamSettings>) {
        let Some(sight) = sight else {
            self.answered_since = None;
            return;
        };
        self.answered_since.get_or_insert(now);
        self.answered = now;
        let differs = |known: &StreamSettings| (seen(known), replicas(known)) != (seen(&sight), replicas(&sight));
        if self.sight.as_ref().is_none_or(differs) {
            self.since = now;
        }
        self.sight = Some(sight);
        if let Some((StorageFault::Edited, since, what)) = self.shown() {
            self.edited = Some((since, what));
        }
    }

    /// What is wrong, if it is to be told.
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
        if waits && ms < PATIENCE {
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

    /// What is to be done now.
    pub fn mend(&self, now: Millis) -> Option<Remedy> {
        match self.sight.as_ref().map(seen)? {
            Some(StorageFault::Missing) => {
                let enough = if self.kept.stops_events() { EVENTS_MISSING } else { MISSING };
                let is_sure = self.answered_since.is_some_and(|answered| now.since(answered) >= enough);
                (is_sure && now.since(self.since) >= enough).then_some(Remedy::Make)
            }
            Some(StorageFault::Edited) => Some(Remedy::PutBack),
            _ => None,
        }
    }

    /// The last sequence that a look has shown.
    pub fn last(&self) -> Option<u64> {
        match self.sight {
            Some(StreamSettings::There { last, .. }) => Some(last),
            _ => None,
        }
    }

    /// What the last look has shown.
    fn shown(&self) -> Option<(StorageFault, Millis, String)> {
        let (sight, name) = (self.sight.as_ref()?, self.kept.name());
        let fault = seen(sight)?;
        let what = match (fault, sight) {
            (StorageFault::Missing, _) => {
                format!("the stream {name} does not exist; if it was deleted, routers make it anew, empty")
            }
            (StorageFault::Sealed, _) => {
                format!(
                    "the stream {name} is sealed, which cannot be undone: delete it, and routers make it anew, empty"
                )
            }
            (StorageFault::Full, StreamSettings::There { full: Some(limit), .. }) => {
                format!("the stream {name} has reached {limit} and refuses what is new (discard: new): raise the limit")
            }
            (_, StreamSettings::There { edits, .. }) => {
                format!("the stream {name} was edited: {} differ from what tickwire needs; put back", edits.join(", "))
            }
            (_, StreamSettings::Missing) => return None,
        };
        Some((fault, self.since, what))
    }

    /// What JetStream has refused with its own words.
    fn refused(&self, failing: Option<&Failing>) -> Option<(StorageFault, Millis, String)> {
        let failing = failing?;
        let Failure::Refused(refusal) = &failing.failure else { return None };
        let (name, subject) = (self.kept.name(), &failing.subject);
        let refused = format!("what is published to {subject} is refused: {}", refusal.text);
        let (fault, what) = match refusal.code {
            ErrorCode::STREAM_SEALED => (
                StorageFault::Sealed,
                format!("{refused}; the stream {name} is sealed, which cannot be undone: delete it"),
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
                    "{refused}; the server has used up its storage: look at its disk, raise max_file_store, and restart \
                     nats-server if it goes on"
                ),
            ),
            ErrorCode::STREAM_STORE_FAILED => (StorageFault::NotStoring, format!("{refused}; {DISK}")),
            _ => return None,
        };
        Some((fault, failing.since, what))
    }

    /// Writes that fail while questions are answered.
    fn unanswered(&self, failing: Option<&Failing>) -> Option<(StorageFault, Millis, String)> {
        let Failing { since, began, tries, subject, failure, .. } = failing?;
        let answered_since = self.answered_since?;
        let lasted = self.answered.since(answered_since.max(*since));
        if *tries < TRIES || *began < answered_since || lasted < UNANSWERED {
            return None;
        }
        let what = format!("{tries} writes have failed, the last one to {subject}: {failure}; {DISK}");
        Some((StorageFault::NotStoring, *since, what))
    }

    /// What was edited, and put back, a moment ago.
    fn edited(&self, now: Millis) -> Option<(StorageFault, Millis, String)> {
        let (at, what) = self.edited.as_ref()?;
        (now.since(*at) < EDITED).then(|| (StorageFault::Edited, *at, what.clone()))
    }

    fn replicas(&self) -> Option<String> {
        let found = self.sight.as_ref().and_then(replicas)?;
        let (name, wanted) = (self.kept.name(), self.kept.replicas());
        Some(format!(
            "the stream {name} has {found} replicas where stream.replicas is {wanted}: the next node that starts sets it"
        ))
    }
}

/// What to do about a server that does not store.
const DISK: &str =
    "look at the disk and the log of nats-server; one whose disk was full stores nothing until it is restarted";

/// What a look shows at once.
fn seen(sight: &StreamSettings) -> Option<StorageFault> {
    match sight {
        StreamSettings::Missing => Some(StorageFault::Missing),
        StreamSettings::There { is_sealed: true, .. } => Some(StorageFault::Sealed),
        StreamSettings::There { edits, .. } if !edits.is_empty() => Some(StorageFault::Edited),
        StreamSettings::There { full: Some(_), .. } => Some(StorageFault::Full),
        StreamSettings::There { .. } => None,
    }
}

/// How many copies there are, if not as many as configured.
fn replicas(sight: &StreamSettings) -> Option<usize> {
    match sight {
        StreamSettings::Missing => None,
        StreamSettings::There { replicas, .. } => *replicas,
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
