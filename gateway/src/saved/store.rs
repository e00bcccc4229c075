//! Reads and writes the bucket of saved subscriptions. A write expects the revision that was read, so no change is lost.

use std::sync::Arc;
use std::time::Duration;

use tickwire_core::event::{Kinds, key};
use tickwire_core::ids::UserId;
use tickwire_core::protocol::FrameError;
use tickwire_node::api::BadPrecondition;
use tickwire_node::bucket::{Bucket, BucketEntry, BucketError, UnreadableValues};
use tickwire_node::config::GatewayConfig;
use tickwire_node::names::SUBSCRIPTIONS_BUCKET;
use tickwire_node::nats::Nats;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::record::{SavedRecord, SavedValue};
use super::writers::{Writers, pause};

/// How many users are read or changed at the same time, so that no number of requests floods the bucket.
const TURNS: usize = 8;

/// How long a request may wait for its turn, and try a change whose key others change at the same time.
const DEADLINE: Duration = Duration::from_secs(5);

/// The bucket, and what a saved subscription is checked against.
#[derive(Clone, Debug)]
pub(crate) struct SavedStore {
    pub(super) bucket: Bucket,
    pub(super) config: Arc<GatewayConfig>,
    pub(super) kinds: Arc<Kinds>,
    turns: Arc<Semaphore>,
    writers: Arc<Writers>,
}

/// Why saved subscriptions were not read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavedError {
    /// The subscription would be refused in a frame, too.
    #[error(transparent)]
    Subscription(#[from] FrameError),
    /// The path, a header or the body is not valid.
    #[error("{0}")]
    BadRequest(String),
    /// There is none of this name.
    #[error("the user has no saved subscription of this name")]
    Missing,
    /// `If-Match` or `If-None-Match` is malformed.
    #[error(transparent)]
    BadPrecondition(#[from] BadPrecondition),
    /// They are not as the request expects.
    #[error(
        "the saved subscriptions of the user are not as the request expects: read them again, and use the new ETag"
    )]
    OtherRevision,
    /// This version cannot read them, and does not replace them.
    #[error(
        "a newer version of tickwire has written the saved subscriptions of the user: upgrade this gateway, or use one \
         of that version"
    )]
    NewerVersion,
    /// Too many others are being changed, or the same ones all the time.
    #[error("too many saved subscriptions are being read and changed; repeat the request")]
    Busy,
    /// The node stops before everything is saved.
    #[error("the gateway stops, and not everything was saved; repeat the request at another gateway")]
    Stopping,
    /// NATS did not answer, or refused. A change may take effect nevertheless.
    #[error(transparent)]
    Unavailable(BucketError),
}

impl SavedStore {
    /// Opens the bucket.
    pub(crate) async fn open(nats: &Nats, config: GatewayConfig, kinds: Arc<Kinds>) -> Result<Self, BucketError> {
        let bucket = Bucket::open(nats, SUBSCRIPTIONS_BUCKET).await?;
        let (turns, writers) = (Arc::new(Semaphore::new(TURNS)), Arc::default());
        Ok(Self { bucket, config: Arc::new(config), kinds, turns, writers })
    }

    /// The saved subscriptions of a user, and their revision: 0 if there are none. A value that tickwire has not written
    /// counts as none, and the next change replaces it.
    pub(super) async fn read(&self, user: &UserId) -> Result<(SavedRecord, u64), SavedError> {
        let entry = self.bucket.entry_of(&key::encode(user.as_str())).await.map_err(SavedError::Unavailable)?;
        let Some(BucketEntry { key, revision, value, .. }) = entry else { return Ok(Default::default()) };
        match SavedRecord::read(&value) {
            SavedValue::Record(record) => Ok((record, revision)),
            SavedValue::Newer => Err(SavedError::NewerVersion),
            SavedValue::Foreign => {
                UnreadableValues::one(&key).report(SUBSCRIPTIONS_BUCKET);
                Ok((SavedRecord::default(), revision))
            }
        }
    }

    /// The same, in its turn: for requests of users.
    pub(super) async fn read_in_turn(&self, user: &UserId) -> Result<(SavedRecord, u64), SavedError> {
        let _turn = self.turn(Instant::now() + DEADLINE).await?;
        self.read(user).await
    }

    /// Changes the saved subscriptions of a user. Returns the result of the change, and the revision after it. `change`
    /// gets the record with its revision, and is called again if somebody else has changed it meanwhile: it decides
    /// whether that matters.
    pub(super) async fn edit<T>(
        &self,
        user: &UserId,
        change: impl Fn(&mut SavedRecord, u64) -> Result<T, SavedError>,
    ) -> Result<(T, u64), SavedError> {
        let end = Instant::now() + DEADLINE;
        // Those who wait for another change of their user take no turn from other users.
        let order = timeout_at(end, self.writers.order_of(user).lock_owned()).await;
        let _order = order.map_err(|_| SavedError::Busy)?;
        let _turn = self.turn(end).await?;
        for tries in 1.. {
            let (mut record, revision) = self.read(user).await?;
            let before = record.clone();
            let changed = change(&mut record, revision)?;
            if record == before {
                return Ok((changed, revision));
            }
            match self.replace(user, &record, revision).await {
                Ok(revision) => return Ok((changed, revision)),
                Err(SavedError::OtherRevision) => {}
                Err(error) => return Err(error),
            }
            let next = Instant::now() + pause(tries, rand::random());
            if next >= end {
                break;
            }
            sleep_until(next).await;
        }
        Err(SavedError::Busy)
    }

    /// Writes the saved subscriptions of a user if they have this revision. Returns the new one, 0 without any.
    pub(super) async fn replace(&self, user: &UserId, record: &SavedRecord, revision: u64) -> Result<u64, SavedError> {
        let key = key::encode(user.as_str());
        let written = if record.subscriptions.is_empty() {
            self.bucket.delete(&key, Some(revision)).await.map(|()| 0)
        } else {
            let value = serde_json::to_vec(record).map_err(|error| SavedError::BadRequest(error.to_string()))?;
            self.bucket.update(&key, value, revision).await
        };
        written.map_err(|error| match error {
            BucketError::OtherRevision { .. } => SavedError::OtherRevision,
            error => SavedError::Unavailable(error),
        })
    }

    /// Waits for the turn of a request, until `end`.
    async fn turn(&self, end: Instant) -> Result<SemaphorePermit<'_>, SavedError> {
        match timeout_at(end, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(SavedError::Busy),
        }
    }
}
