//! Reads and writes a KV bucket, as of the server that leads it.
//!
//! The bucket keeps the last message of each key, also of a deleted one. So a reader that has everything up to a
//! sequence only needs the messages after it: [`BucketCursor`] says which these are, and [`BucketReader`] reads them.
//! `budget` bounds what a reading takes, and [`UnreadableValues`] counts what it has found and cannot use.
//!
//! Messages are read in a form that holds any bytes: an acknowledgement that a producer has directed here must not end
//! the reading. There is no consumer that could stop without a sign.

mod budget;
mod cursor;
mod error;
mod reader;
mod unreadable;

pub use cursor::BucketCursor;
pub use error::BucketError;
pub use reader::{BucketNews, BucketReader, LookResult};
pub use unreadable::UnreadableValues;

use crate::nats::Nats;
use crate::stored::{self, MessageSelector, StoredMessage};
use async_nats::jetstream::kv::{Store, UpdateError, UpdateErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use budget::{ReadBudget, most_bytes};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

/// Every key, as a pattern.
pub const ALL_KEYS: &str = ">";

/// How long a new bucket may be unknown, and the pause between two attempts: the servers of a cluster learn of a bucket
/// one after the other.
const SETTLING: Duration = Duration::from_secs(5);
const SETTLING_PAUSE: Duration = Duration::from_millis(100);

/// The longest time for one read or write.
const DEADLINE: Duration = Duration::from_secs(2);

/// How many parts of a bucket are read at the same time.
const LANES: u64 = 16;

/// The least number of sequences in such a part.
const LEAST_LANE: u64 = 256;

/// The last message of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketEntry {
    /// The key.
    pub key: String,
    /// The revision of the key: the sequence of the message.
    pub revision: u64,
    /// When the server stored it.
    pub stored: Timestamp,
    /// The value; empty if the key was deleted.
    pub value: Vec<u8>,
}

/// What tells one state of a bucket from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketState {
    /// When the bucket was created, in nanoseconds since 1970. A bucket that was deleted and created again counts anew.
    pub created: i128,
    /// The last sequence.
    pub last: u64,
}

/// The state of a bucket, and when the server gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketLook {
    /// The state.
    pub state: BucketState,
    /// The time of the server. In a cluster an entry has its time some milliseconds before it is in the state.
    pub at: Timestamp,
    /// How many bytes the messages of the bucket have.
    pub bytes: u64,
}

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    name: &'static str,
    context: Context,
    store: Store,
}

/// The parts that are read of the answer about a stream.
#[derive(Debug, Deserialize)]
struct StreamAnswer {
    created: jiff::Timestamp,
    ts: jiff::Timestamp,
    state: StreamCounts,
}

/// Which messages of a stream are removed.
#[derive(Debug, Serialize)]
struct PurgeRequest {
    filter: String,
}

#[derive(Debug, Deserialize)]
struct StreamCounts {
    last_seq: u64,
    bytes: u64,
}

impl Bucket {
    /// Opens the bucket. It waits a while for a new bucket.
    ///
    /// # Errors
    /// When the bucket does not exist, or cannot be reached.
    pub async fn open(nats: &Nats, name: &'static str) -> Result<Self, BucketError> {
        let end = Instant::now() + SETTLING;
        loop {
            match timeout(DEADLINE, nats.jetstream.get_key_value(name)).await {
                Ok(Ok(store)) => return Ok(Self { name, context: nats.jetstream.clone(), store }),
                Ok(Err(error)) if Instant::now() >= end => return Err(BucketError::unavailable(name, error)),
                Err(late) if Instant::now() >= end => return Err(BucketError::unavailable(name, late)),
                Ok(Err(_)) | Err(_) => sleep(SETTLING_PAUSE).await,
            }
        }
    }

    /// Its state.
    ///
    /// # Errors
    /// When it cannot be reached, or does not exist.
    pub async fn look(&self) -> Result<BucketLook, BucketError> {
        let request = self.context.request(format!("STREAM.INFO.{}", self.store.stream_name), &());
        let answer: Response<StreamAnswer> = self.in_time(request).await?;
        match answer {
            Response::Ok(StreamAnswer { created, ts, state: StreamCounts { last_seq, bytes } }) => Ok(BucketLook {
                state: BucketState { created: created.as_nanosecond(), last: last_seq },
                at: Timestamp(ts.as_millisecond()),
                bytes,
            }),
            Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(BucketError::Missing { bucket: self.name })
            }
            Response::Err { error } => Err(self.unavailable(error)),
        }
    }

    /// The last message of every key of a pattern that was written after a sequence, in order.
    ///
    /// # Errors
    /// When it cannot be reached, or holds too much.
    pub async fn entries_after(&self, keys: &str, sequence: u64) -> Result<Vec<BucketEntry>, BucketError> {
        self.entries_within(keys, sequence, u64::MAX, &ReadBudget::of(self.name)).await
    }

    /// The same, for a bucket that may hold many keys: what is in it up to the sequence `last` is read in several parts
    /// at the same time, and then what has come after it. A key that was written meanwhile may be there twice; the
    /// later one counts.
    ///
    /// # Errors
    /// When it cannot be reached, or holds too much.
    pub async fn many_entries_after(
        &self,
        keys: &str,
        sequence: u64,
        last: u64,
    ) -> Result<Vec<BucketEntry>, BucketError> {
        let lanes = lanes(sequence, last);
        if lanes.len() <= 1 {
            return self.entries_after(keys, sequence).await;
        }
        let budget = ReadBudget::of(self.name);
        let lanes = lanes.into_iter().map(|(after, through)| self.entries_within(keys, after, through, &budget));
        let lanes: Vec<Vec<BucketEntry>> = stream::iter(lanes).buffered(LANES as usize).try_collect().await?;
        let mut entries: Vec<BucketEntry> = lanes.into_iter().flatten().collect();
        entries.extend(self.entries_within(keys, last, u64::MAX, &budget).await?);
        Ok(entries)
    }

    async fn entries_within(
        &self,
        keys: &str,
        after: u64,
        through: u64,
        budget: &ReadBudget,
    ) -> Result<Vec<BucketEntry>, BucketError> {
        let subject = format!("{}{keys}", self.store.prefix);
        let (mut entries, mut next) = (Vec::new(), after.saturating_add(1));
        while let Some(message) = self.fetch(MessageSelector::next_of(Seq(next), &subject)).await? {
            if message.seq.0 > through {
                break;
            }
            next = message.seq.0 + 1;
            let Some(entry) = self.entry(message) else { continue };
            if !budget.take(&entry) {
                return Err(self.too_large());
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The last message of one key; `None` if there is none, or if the key was deleted.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn entry_of(&self, key: &str) -> Result<Option<BucketEntry>, BucketError> {
        let found = self.last_of(key).await?;
        Ok(found.and_then(|message| self.entry(message)).filter(|entry| !entry.value.is_empty()))
    }

    /// Writes a key, whatever it holds. Returns the new revision.
    ///
    /// # Errors
    /// When it cannot be reached. The write may take effect nevertheless.
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, BucketError> {
        self.in_time(self.store.put(key, value.into())).await
    }

    /// Writes a key if it has this revision; 0 if it must not hold anything. Returns the new revision.
    ///
    /// # Errors
    /// [`BucketError::OtherRevision`] if the key has another revision. After any other error the write may take effect
    /// nevertheless.
    pub async fn update(&self, key: &str, value: Vec<u8>, expected: u64) -> Result<u64, BucketError> {
        let revision = if expected == 0 { self.revision_without_value(key).await? } else { expected };
        self.checked(key, timeout(DEADLINE, self.store.update(key, value.into(), revision)).await)
    }

    /// Deletes a key; with `expected`, only if it has this revision.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub async fn delete(&self, key: &str, expected: Option<u64>) -> Result<(), BucketError> {
        self.checked(key, timeout(DEADLINE, self.store.delete_expect_revision(key, expected)).await)
    }

    /// Removes a key, whatever it holds, without a mark: those that follow the bucket do not learn of it, and a bucket of
    /// keys that come and go stays small.
    ///
    /// # Errors
    /// When it cannot be reached. The removal may take effect nevertheless.
    pub async fn remove(&self, key: &str) -> Result<(), BucketError> {
        let filter = PurgeRequest { filter: format!("{}{key}", self.store.prefix) };
        let request = self.context.request(format!("STREAM.PURGE.{}", self.store.stream_name), &filter);
        match self.in_time(request).await? {
            Response::Ok(IgnoredAny) => Ok(()),
            Response::Err { error } => Err(self.unavailable(error)),
        }
    }

    /// The revision of a key without a value: that of the mark of a deleted one, else 0.
    async fn revision_without_value(&self, key: &str) -> Result<u64, BucketError> {
        let mark = self.last_of(key).await?.filter(|message| message.payload.is_empty());
        Ok(mark.map_or(0, |message| message.seq.0))
    }

    async fn last_of(&self, key: &str) -> Result<Option<StoredMessage>, BucketError> {
        let subject = format!("{}{key}", self.store.prefix);
        self.fetch(MessageSelector::LastOf(&subject)).await
    }

    async fn fetch(&self, wanted: MessageSelector<'_>) -> Result<Option<StoredMessage>, BucketError> {
        self.in_time(stored::get(&self.context, &self.store.stream_name, wanted)).await
    }

    /// A message of the bucket as an entry.
    fn entry(&self, message: StoredMessage) -> Option<BucketEntry> {
        let key = message.subject.strip_prefix(&self.store.prefix)?.to_owned();
        let stored = Timestamp(message.stored);
        Some(BucketEntry { key, revision: message.seq.0, stored, value: message.payload })
    }

    /// Waits for an answer, within the deadline.
    async fn in_time<T, E: std::fmt::Display>(
        &self,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, BucketError> {
        match timeout(DEADLINE, request).await {
            Ok(answer) => answer.map_err(|error| self.unavailable(error)),
            Err(late) => Err(self.unavailable(late)),
        }
    }

    /// The result of a write that expected a revision.
    fn checked<T>(&self, key: &str, written: Result<Result<T, UpdateError>, Elapsed>) -> Result<T, BucketError> {
        match written {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                Err(BucketError::OtherRevision { bucket: self.name, key: key.to_owned() })
            }
            Ok(Err(error)) => Err(self.unavailable(error)),
            Err(late) => Err(self.unavailable(late)),
        }
    }

    fn too_large(&self) -> BucketError {
        BucketError::TooLarge { bucket: self.name, most: most_bytes(self.name) }
    }

    fn unavailable(&self, reason: impl std::fmt::Display) -> BucketError {
        BucketError::unavailable(self.name, reason)
    }
}

/// The parts, each `(after, through]`, in which the sequences after `sequence` up to `last` are read.
fn lanes(sequence: u64, last: u64) -> Vec<(u64, u64)> {
    let width = (last.saturating_sub(sequence)).div_ceil(LANES).max(LEAST_LANE);
    let mut lanes = Vec::new();
    let mut after = sequence;
    while after < last {
        let through = last.min(after.saturating_add(width));
        lanes.push((after, through));
        after = through;
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_cover_every_sequence_once() {
        assert!(lanes(7, 7).is_empty() && lanes(9, 7).is_empty());
        assert_eq!(lanes(0, LEAST_LANE + 1), [(0, LEAST_LANE), (LEAST_LANE, LEAST_LANE + 1)]);
        for (sequence, last) in [(0, 1), (3, 65_536), (100, 1_000_003)] {
            let lanes = lanes(sequence, last);
            assert!(lanes.len() as u64 <= LANES, "{lanes:?}");
            assert_eq!((lanes[0].0, lanes[lanes.len() - 1].1), (sequence, last));
            assert!(lanes.windows(2).all(|pair| pair[0].1 == pair[1].0 && pair[0].0 < pair[0].1), "{lanes:?}");
        }
    }
}
