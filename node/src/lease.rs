//! Leases in a KV bucket: nodes agree by compare-and-set which of them does something.
//!
//! Clocks of different hosts are not compared. A lease is stale when its revision has not changed for its time to live
//! *as observed here*. A refused write means that another node has written. After an unanswered write, the next
//! attempt has to find out first whether the write took effect ([`HeldLease`]).

mod held;

pub use held::{HeldLease, LeaseStep};

use crate::metrics;
use crate::nats::Nats;
use crate::stored::{self, MessageSelector, StoredMessage};
use crate::writes::Writes;
use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Store, UpdateError, UpdateErrorKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_core::wire::{self, WireError};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

/// How long a new bucket may be unknown, and the pause between two attempts: the servers of a cluster learn of a bucket
/// one after the other.
const SETTLING: Duration = Duration::from_secs(5);
const SETTLING_PAUSE: Duration = Duration::from_millis(100);

/// The content of a lease's key: its owner, and the state that an owner leaves to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord<S> {
    /// The owner; `None` when it was given back.
    pub owner: Option<NodeRef>,
    /// The state that the last owner wrote.
    pub state: S,
}

/// A lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRead<S> {
    /// The revision of its key, 0 if the key was never written.
    pub revision: u64,
    /// Its content, `None` if it is empty or cannot be read.
    pub record: Option<LeaseRecord<S>>,
    /// Whether this version cannot read it, but another version wrote it. It has an owner until it is stale.
    pub is_unreadable: bool,
    /// Whether it holds something that no version of tickwire writes. This does not show who the owner is: the owner
    /// writes over it, and other nodes still count its age from the last revision. NATS itself writes such things: a
    /// producer's acknowledgement goes to any subject that the producer names, even one it may not publish to.
    pub is_foreign: bool,
}

impl<S> LeaseRead<S> {
    /// Whether `me` may take it without waiting until it is stale: it has no owner, or `me` is the owner.
    pub fn is_free_for(&self, me: &NodeRef) -> bool {
        let owner = self.record.as_ref().and_then(|record| record.owner.as_ref());
        !self.is_unreadable && !self.is_foreign && owner.is_none_or(|owner| owner == me)
    }
}

/// Why a lease was not read or written.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// Another node has written: the lease is not ours.
    #[error("the key {key} was written by another node")]
    Refused {
        /// Its key.
        key: String,
    },
    /// NATS did not answer, or gave no clear answer. A write may have taken effect nevertheless.
    #[error("{key} cannot be read or written in KV: {reason}")]
    Unavailable {
        /// Its key.
        key: String,
        /// The cause.
        reason: String,
    },
    /// Another version of tickwire wrote it, or a foreign writer did.
    #[error("the key {key} cannot be read: {source}")]
    Unreadable {
        /// Its key.
        key: String,
        /// Its revision.
        revision: u64,
        /// The error of the decoder.
        source: WireError,
    },
}

/// Since when a lease has not been written, as observed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    revision: u64,
    since: Millis,
}

impl Observed {
    /// First seen at `revision`.
    pub fn new(now: Millis, revision: u64) -> Self {
        Self { revision, since: now }
    }

    /// Notes another observation. An older revision is from a server that lags, and is ignored.
    pub fn see(&mut self, now: Millis, revision: u64) {
        if revision > self.revision {
            *self = Self::new(now, revision);
        }
    }

    /// Whether it has not been written for `ttl` milliseconds.
    pub fn is_stale(&self, now: Millis, ttl: u64) -> bool {
        now.since(self.since) >= ttl
    }
}

/// The leases of one bucket, for one node.
#[derive(Debug, Clone)]
pub struct Leases {
    context: Context,
    bucket: Store,
    writes: Writes,
    me: NodeRef,
    deadline: Duration,
}

impl Leases {
    /// Opens the bucket. It waits a while for a new bucket. Every operation takes at most `deadline`.
    ///
    /// # Errors
    /// [`LeaseError::Unavailable`] if the bucket cannot be reached.
    pub async fn open(nats: &Nats, bucket: &str, me: NodeRef, deadline: Duration) -> Result<Self, LeaseError> {
        let end = Instant::now() + SETTLING;
        let bucket = loop {
            match nats.jetstream.get_key_value(bucket).await {
                Ok(opened) => break opened,
                Err(error) if Instant::now() >= end => return Err(unavailable(bucket, error)),
                Err(_) => sleep(SETTLING_PAUSE).await,
            }
        };
        let (context, writes) = (nats.jetstream.clone(), nats.writes.clone());
        Ok(Self { context, bucket, writes, me, deadline })
    }

    /// Reads a lease from the server that leads its bucket.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn read<S: DeserializeOwned>(&self, key: &str) -> Result<LeaseRead<S>, LeaseError> {
        match self.fetch(key).await {
            Ok((revision, record)) => Ok(LeaseRead { revision, record, is_unreadable: false, is_foreign: false }),
            Err(LeaseError::Unreadable { key, revision, source }) if source.is_other_version() => {
                warn!(key, revision, %source, "lease of another version, treated as owned until stale");
                Ok(LeaseRead { revision, record: None, is_unreadable: true, is_foreign: false })
            }
            Err(LeaseError::Unreadable { key, revision, source }) => {
                metrics::OVERWRITTEN_LEASES.increment(1);
                warn!(key, revision, %source, "lease overwritten by a foreign writer");
                Ok(LeaseRead { revision, record: None, is_unreadable: false, is_foreign: true })
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a lease that was read or written at `revision`: as ours, or as given back. Returns the new revision.
    ///
    /// # Errors
    /// [`LeaseError::Refused`] if it was written since then. After any other error the write may take effect, now or
    /// later.
    pub async fn write<S: Serialize>(
        &self,
        key: &str,
        revision: u64,
        is_ours: bool,
        state: &S,
    ) -> Result<u64, LeaseError> {
        let owner = is_ours.then(|| self.me.clone());
        self.store(key, revision, &(owner, state)).await
    }

    /// Reads a key that is not a lease but guarded by one, and its revision.
    ///
    /// # Errors
    /// When it cannot be reached or read.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, key: &str) -> Result<(u64, Option<T>), LeaseError> {
        // Not by a direct get, which a server that lags may answer: this value decides who the owner is.
        let subject = format!("{}{key}", self.bucket.prefix);
        let got = stored::get(&self.context, &self.bucket.stream_name, MessageSelector::LastOf(&subject));
        let got = timeout(self.deadline, got).await.map_err(|error| unavailable(&subject, error))?;
        match got.map_err(|error| unavailable(&subject, error))? {
            // A deleted key leaves an empty message behind.
            Some(StoredMessage { seq, payload, .. }) if payload.is_empty() => Ok((seq.0, None)),
            Some(StoredMessage { seq, payload, .. }) => Ok((seq.0, Some(decode(key, seq.0, &payload)?))),
            None => Ok((0, None)),
        }
    }

    /// Writes a key that was read at `revision`. Returns the new revision.
    ///
    /// # Errors
    /// [`LeaseError::Refused`] if it was written since then.
    pub(crate) async fn store<T: Serialize>(&self, key: &str, revision: u64, value: &T) -> Result<u64, LeaseError> {
        let subject = format!("{}{key}", self.bucket.prefix);
        let value = wire::encode(value).map_err(|source| unavailable(&subject, source))?;
        let began = self.writes.now();
        let written = timeout(self.deadline, self.bucket.update(key, value.into(), revision)).await;
        let written = written.unwrap_or_else(|_| Err(UpdateError::new(UpdateErrorKind::TimedOut)));
        // A write that was refused because of its revision shows that the bucket can store.
        let stored = written.as_ref().map(drop);
        let stored =
            stored.or_else(|error| (error.kind() == UpdateErrorKind::WrongLastRevision).then_some(()).ok_or(error));
        self.writes.note(&self.bucket.stream_name, &subject, began, stored);
        match written {
            Ok(revision) => Ok(revision),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                Err(LeaseError::Refused { key: key.to_owned() })
            }
            Err(error) => Err(unavailable(&subject, error)),
        }
    }
}

fn decode<T: DeserializeOwned>(key: &str, revision: u64, value: &[u8]) -> Result<T, LeaseError> {
    wire::decode(value).map_err(|source| LeaseError::Unreadable { key: key.to_owned(), revision, source })
}

fn unavailable(key: &str, error: impl std::fmt::Display) -> LeaseError {
    LeaseError::Unavailable { key: key.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_testkit::assert_vectors;

    #[test]
    fn lease_is_stale_when_its_revision_has_not_changed_for_its_ttl() {
        let mut observed = Observed::new(Millis(1_000), 5);
        assert!(!observed.is_stale(Millis(2_999), 2_000));
        assert!(observed.is_stale(Millis(3_000), 2_000));
        observed.see(Millis(2_500), 5);
        assert!(observed.is_stale(Millis(3_000), 2_000));
        observed.see(Millis(2_600), 6);
        assert!(!observed.is_stale(Millis(3_000), 2_000));
        observed.see(Millis(2_700), 5);
        assert!(observed.is_stale(Millis(4_600), 2_000));
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let record = LeaseRecord { owner: None, state: 7u64 };
        let bytes = wire::encode(&record).unwrap();
        assert_eq!(bytes, wire::encode(&(None::<NodeRef>, 7u64)).unwrap());
        assert_eq!(decode::<LeaseRecord<u64>>("p.1", 1, &bytes).unwrap(), record);
        assert!(matches!(decode::<u64>("p.1", 1, &[9, 9]), Err(LeaseError::Unreadable { .. })));
    }

    #[test]
    fn lease_of_the_coordinator_has_the_documented_form() {
        assert_vectors::<LeaseRecord<()>>("coordinator_lease");
    }
}
