//! Reads what is new in a bucket: each look reads what has changed since the one before.
//!
//! Every look is a request of its own with a deadline, so there is nothing to restore after a lost connection: the next
//! look shows all that has changed meanwhile. [`BucketCursor`] decides what is read. The drivers decide what the entries
//! mean, and when to look again.

use super::budget::most_bytes;
use super::{ALL_KEYS, Bucket, BucketCursor, BucketEntry, BucketError, BucketLook, BucketState};
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

/// The pause between two attempts of a reading that must succeed.
const RETRY_PAUSE: Duration = Duration::from_millis(400);

/// What has changed in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketNews {
    /// The state that was read.
    pub state: BucketState,
    /// Whether it is another one than before. If not, the same state was read again.
    pub is_other: bool,
    /// Whether the entries are all that the bucket has. Then other keys are gone.
    pub is_all: bool,
    /// The last message of each key, oldest first. A key that was written meanwhile may be there twice; the later one
    /// counts.
    pub entries: Vec<BucketEntry>,
}

/// What a look has found.
#[derive(Debug)]
pub struct LookResult {
    /// When it was, by the clock of the server.
    pub at: Timestamp,
    /// What has changed; `None` if nothing has.
    pub news: Option<BucketNews>,
}

/// Reads the keys of a pattern.
#[derive(Debug)]
pub struct BucketReader {
    bucket: Bucket,
    keys: &'static str,
    cursor: BucketCursor,
}

impl BucketReader {
    /// Nothing was read yet. After `review` looks at an unchanged bucket it is read again from its beginning.
    #[must_use]
    pub fn new(bucket: Bucket, keys: &'static str, review: u32) -> Self {
        Self { bucket, keys, cursor: BucketCursor::new(review) }
    }

    /// Looks at the bucket, and reads what is new. If that fails, or is not waited for, the next look reads it.
    ///
    /// # Errors
    /// When the bucket cannot be reached, does not exist, or holds too much.
    pub async fn look(&mut self) -> Result<LookResult, BucketError> {
        let look = self.bucket.look().await?;
        self.check_size(look)?;
        let BucketLook { state, at, .. } = look;
        let Some(after) = self.cursor.look(state) else { return Ok(LookResult { at, news: None }) };
        let entries = self.bucket.many_entries_after(self.keys, after, state.last).await?;
        let (state, is_other) = self.cursor.note(state, &entries);
        Ok(LookResult { at, news: Some(BucketNews { state, is_other, is_all: after == 0, entries }) })
    }

    /// Has the next look read the whole bucket again.
    pub fn start_over(&mut self) {
        self.cursor.start_over();
    }

    /// Reads the bucket for the first time, for a node that must not begin without it. It tries again until the deadline.
    ///
    /// # Errors
    /// As for [`look`](Self::look), when the bucket cannot be read before the deadline.
    pub async fn first(&mut self, deadline: Duration) -> Result<BucketNews, BucketError> {
        let end = Instant::now() + deadline;
        loop {
            match timeout_at(end, self.look()).await {
                Ok(Ok(LookResult { news: Some(news), .. })) => return Ok(news),
                // The first look that succeeds has news.
                Ok(Ok(LookResult { news: None, .. })) => {}
                Ok(Err(error)) if Instant::now() + RETRY_PAUSE >= end => return Err(error),
                Ok(Err(error)) => debug!(%error, "bucket not read yet"),
                Err(late) => return Err(self.bucket.unavailable(late)),
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Refuses a bucket that holds too much to be kept in memory. A bucket of which only some keys are read may hold more.
    fn check_size(&self, look: BucketLook) -> Result<(), BucketError> {
        let most = most_bytes(self.bucket.name);
        let is_too_large = self.keys == ALL_KEYS && look.bytes > most;
        if is_too_large { Err(self.bucket.too_large()) } else { Ok(()) }
    }
}
