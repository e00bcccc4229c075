//! The bucket of the view, as KV keeps it: a write takes effect only on the revision that it names.

use super::network::{Flight, Seen};
use crate::lease::{LeaseError, LeaseRead, LeaseRecord};
use crate::membership::coordinator::{KvAnswer, KvRequest};
use crate::names;
use std::collections::BTreeMap;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::View;
use tickwire_core::wire::WireError;

/// The content of both keys, each with its revision. `None` was written by a foreign writer.
#[derive(Debug, Clone, Default)]
struct Content {
    last: u64,
    lease: Option<(u64, Option<NodeRef>)>,
    lease_is_foreign: bool,
    view: (u64, View),
    view_is_foreign: bool,
    /// How often writes had been lost or written over.
    damages: u64,
}

#[derive(Debug)]
pub(super) struct Kv {
    now: Content,
    /// The content after each write.
    past: Vec<Content>,
    /// The views that were written and not lost, by their versions.
    written: BTreeMap<u64, View>,
    /// The highest version that was ever written.
    highest: u64,
}

/// Anything that no version of tickwire writes.
pub(super) fn garbage() -> WireError {
    WireError::Empty
}

pub(super) fn unavailable<T>() -> Result<T, LeaseError> {
    Err(LeaseError::Unavailable { key: "a key".to_owned(), reason: "no answer".to_owned() })
}

fn refused(key: &str) -> Result<u64, LeaseError> {
    Err(LeaseError::Refused { key: key.to_owned() })
}

impl KvRequest {
    /// The answer to this request if KV does not answer.
    pub(super) fn unanswered(&self) -> KvAnswer {
        match self {
            Self::ReadLease => KvAnswer::LeaseRead(unavailable()),
            Self::WriteLease { .. } => KvAnswer::LeaseWritten(unavailable()),
            Self::ReadView => KvAnswer::ViewRead(unavailable()),
            Self::WriteView { .. } => KvAnswer::ViewWritten(unavailable()),
        }
    }
}

impl Kv {
    pub(super) fn new() -> Self {
        let now = Content::default();
        Self { past: vec![now.clone()], now, written: BTreeMap::new(), highest: 0 }
    }

    /// The view that stands in the bucket; `None` if it cannot be read.
    pub(super) fn view(&self) -> Option<&View> {
        (!self.now.view_is_foreign).then_some(&self.now.view.1)
    }

    /// The node that has the coordinator's lease.
    pub(super) fn owner(&self) -> Option<&NodeRef> {
        self.now.lease.as_ref().and_then(|(_, owner)| owner.as_ref()).filter(|_| !self.now.lease_is_foreign)
    }

    /// Whether a view of this version was ever written.
    pub(super) fn was_written(&self, version: u64) -> bool {
        version <= self.highest
    }

    /// Applies a request of this node, and returns the answer. A stale answer is that of a server that lags behind by
    /// `lag` writes.
    pub(super) fn apply(&mut self, me: &NodeRef, flight: &Flight, lag: usize) -> (KvAnswer, Seen) {
        let damages = self.past[self.past.len().saturating_sub(lag + 1)].damages;
        (self.answer(me, flight, lag), Seen { is_stale: lag > 0, damages })
    }

    fn answer(&mut self, me: &NodeRef, flight: &Flight, lag: usize) -> KvAnswer {
        let seen = &self.past[self.past.len().saturating_sub(lag + 1)];
        match &flight.request {
            KvRequest::ReadLease => {
                let (revision, owner) = seen.lease.clone().unwrap_or_default();
                let is_foreign = seen.lease_is_foreign;
                let record = seen.lease.as_ref().filter(|_| !is_foreign).map(|_| LeaseRecord { owner, state: () });
                KvAnswer::LeaseRead(Ok(LeaseRead { revision, record, is_unreadable: false, is_foreign }))
            }
            KvRequest::ReadView => KvAnswer::ViewRead(match &seen.view {
                (revision, _) if seen.view_is_foreign => Err(LeaseError::Unreadable {
                    key: names::VIEW_KEY.to_owned(),
                    revision: *revision,
                    source: garbage(),
                }),
                (0, _) => Ok((0, None)),
                (revision, view) => Ok((*revision, Some(view.clone()))),
            }),
            KvRequest::WriteLease { revision, is_ours } => {
                if self.now.lease.as_ref().map_or(0, |(revision, _)| *revision) != *revision {
                    return KvAnswer::LeaseWritten(refused(names::COORDINATOR_KEY));
                }
                self.now.lease = Some((self.now.last + 1, is_ours.then(|| me.clone())));
                self.now.lease_is_foreign = false;
                KvAnswer::LeaseWritten(Ok(self.keep()))
            }
            KvRequest::WriteView { revision, view } => {
                if self.now.view.0 != *revision {
                    return KvAnswer::ViewWritten(refused(names::VIEW_KEY));
                }
                let written = self.written.insert(view.version, view.clone());
                // A lost revision that is used again lets a write succeed that was meant for another.
                let is_misled = flight.damages < self.now.damages;
                let is_first = written.is_none() || is_misled;
                assert!(is_first, "version {} is written twice: {written:?}, {view:?}", view.version);
                if is_misled {
                    self.now.damages += 1;
                    self.written.retain(|written, _| *written <= view.version);
                }
                self.highest = self.highest.max(view.version);
                self.now.view = (self.now.last + 1, view.clone());
                self.now.view_is_foreign = false;
                KvAnswer::ViewWritten(Ok(self.keep()))
            }
        }
    }

    fn keep(&mut self) -> u64 {
        self.now.last += 1;
        self.past.push(self.now.clone());
        self.now.last
    }

    /// The bucket loses its last writes. Their revisions are used again.
    pub(super) fn lose(&mut self, writes: usize) {
        let damages = self.now.damages + 1;
        self.past.truncate(self.past.len().saturating_sub(writes).max(1));
        if let Some(kept) = self.past.last_mut() {
            kept.damages = damages;
            self.now = kept.clone();
        }
        // After a foreign writer, nobody knows which versions the view had.
        let version = self.view().map_or(0, |view| view.version);
        self.written.retain(|written, _| *written <= version);
    }

    pub(super) fn overwrite_lease(&mut self) {
        if self.now.lease.is_some() {
            self.now.lease = Some((self.now.last + 1, None));
            self.now.lease_is_foreign = true;
            self.keep();
        }
    }

    pub(super) fn overwrite_view(&mut self) {
        if self.now.view.0 > 0 {
            self.now.view.0 = self.now.last + 1;
            self.now.view_is_foreign = true;
            self.now.damages += 1;
            self.keep();
            self.written.clear();
        }
    }
}
