//! Acknowledgements of alerts. A session passes them on and does not wait; one task records them in a bucket, by user,
//! and answers. No event meets it.
//!
//! Only events of kind `alert` to the user itself can be acknowledged, so each one is looked up in the stream. Several
//! gateways may write the record of a user at the same time. So it is written by compare-and-set, and read again if
//! another gateway was faster. `record` is the value of a user.

pub(crate) mod record;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tickwire_core::event::{Timestamp, key};
use tickwire_core::ids::{Partition, Seq, UserId};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{Acked, Id, ServerError};
use tickwire_node::bucket::{Bucket, BucketError, UnreadableValues};
use tickwire_node::clock::timestamp_now;
use tickwire_node::names::{ACKS_BUCKET, StoredSubject, parse_stored};
use tickwire_node::nats::Nats;
use tickwire_node::stored::{self, MessageSelector};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::acks::record::{AckRecord, AckedAlert};
use crate::byte_queue::ByteSender;
use crate::messages::{SessionId, ToShard};

/// How many acknowledgements may wait. Further ones are refused.
pub(crate) const QUEUE: usize = 1_024;

/// How many users are served at the same time.
const USERS: usize = 16;

/// How often a record is written anew because another gateway was faster.
pub(crate) const TRIES: usize = 8;

/// How long all acknowledgements that are taken together may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// An acknowledgement of a session.
#[derive(Debug)]
pub(crate) struct AckRequest {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
    /// The id of the client's frame.
    pub(crate) id: Option<Id>,
    pub(crate) partition: Partition,
    pub(crate) seq: Seq,
}

/// The answer for a session.
#[derive(Debug)]
pub struct AckAnswer {
    /// The number of the session in its shard.
    pub(crate) session: u64,
    pub(crate) result: Result<Acked, ServerError>,
}

/// Why an alert is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckFailure {
    /// There is no alert of the user at this place.
    NotAnAlert,
    /// NATS does not answer, or other gateways were always faster.
    Unavailable,
}

/// Records acknowledgements.
#[derive(Debug)]
pub(crate) struct AckRecorder {
    nats: Nats,
    /// The stream of events.
    stream: String,
    bucket: Bucket,
    shards: Vec<ByteSender<ToShard>>,
}

impl AckRecorder {
    pub(crate) fn new(nats: Nats, stream: String, bucket: Bucket, shards: Vec<ByteSender<ToShard>>) -> Self {
        Self { nats, stream, bucket, shards }
    }

    /// Records what shards pass on, until the drain.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<AckRequest>, drain: CancellationToken) {
        let mut taken = Vec::new();
        while let Some(1..) = drain.run_until_cancelled(requests.recv_many(&mut taken, QUEUE)).await {
            let users = by_user(taken.drain(..));
            // While NATS does not answer, those who wait for their turn are refused at the same time as the others.
            let end = Instant::now() + DEADLINE;
            stream::iter(users).for_each_concurrent(USERS, |(user, requests)| self.serve(user, requests, end)).await;
        }
    }

    /// Records the acknowledgements of one user, and answers each.
    async fn serve(&self, user: UserId, requests: Vec<AckRequest>, end: Instant) {
        let results = timeout_at(end, self.record(&user, &requests)).await;
        let results = results.unwrap_or_else(|_| vec![Err(AckFailure::Unavailable); requests.len()]);
        for (request, result) in requests.into_iter().zip(results) {
            if let Some(shard) = self.shards.get(usize::from(request.session.shard)) {
                shard.send(ToShard::Acked(request.answer(result)));
            }
        }
    }

    /// The result of each acknowledgement, in their order.
    async fn record(&self, user: &UserId, requests: &[AckRequest]) -> Vec<Result<(), AckFailure>> {
        let mut found = Vec::with_capacity(requests.len());
        for request in requests {
            found.push(self.find(request).await);
        }
        let alerts: Vec<AckedAlert> = found.iter().filter_map(|found| found.ok()).collect();
        let written = if alerts.is_empty() { Ok(()) } else { self.write(user, &alerts).await };
        found.into_iter().map(|found| found.and(written)).collect()
    }

    /// The alert that a request is about.
    async fn find(&self, request: &AckRequest) -> Result<AckedAlert, AckFailure> {
        let at = MessageSelector::At(request.seq.0);
        let found = stored::get(&self.nats.jetstream, &self.stream, at).await;
        let message = found.map_err(|error| unavailable(&error))?.ok_or(AckFailure::NotAnAlert)?;
        request.alert_in(&message.subject, Timestamp(message.stored))
    }

    /// Adds alerts to the record of a user.
    async fn write(&self, user: &UserId, alerts: &[AckedAlert]) -> Result<(), AckFailure> {
        let key = key::encode(user.as_str());
        for _ in 0..TRIES {
            let entry = self.bucket.entry_of(&key).await.map_err(|error| unavailable(&error))?;
            let (revision, mut record) = match entry {
                None => (0, AckRecord::default()),
                Some(entry) => {
                    let read = AckRecord::read(&entry.value);
                    // Somebody else has written it. It is replaced.
                    let read = read.inspect_err(|error| {
                        debug!(%error, key = %key, "unreadable record of a user");
                        UnreadableValues::one(&key).report(ACKS_BUCKET);
                    });
                    (entry.revision, read.unwrap_or_default())
                }
            };
            let now = timestamp_now();
            if !record.add(now, alerts) {
                return Ok(());
            }
            let value = record.write().map_err(|error| unavailable(&error))?;
            match self.bucket.update(&key, value, revision).await {
                Ok(_) => return Ok(()),
                Err(BucketError::OtherRevision { .. }) => {}
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(AckFailure::Unavailable)
    }
}

fn unavailable(error: &dyn Display) -> AckFailure {
    debug!(%error, "acknowledgement not recorded");
    AckFailure::Unavailable
}

/// What each user has acknowledged, in order.
pub(crate) fn by_user(requests: impl IntoIterator<Item = AckRequest>) -> BTreeMap<UserId, Vec<AckRequest>> {
    let mut users: BTreeMap<UserId, Vec<AckRequest>> = BTreeMap::new();
    for request in requests {
        users.entry(request.user.clone()).or_default().push(request);
    }
    users
}

impl AckRequest {
    /// The alert that it is about, if the message with its sequence is an alert to its user in its partition: one with
    /// this subject, stored at this time.
    pub(crate) fn alert_in(&self, subject: &str, stored: Timestamp) -> Result<AckedAlert, AckFailure> {
        let Self { partition: p, seq, .. } = *self;
        let addressee = key::encode(self.user.as_str());
        match parse_stored(subject) {
            StoredSubject::Event { partition, kind: "alert", key }
                if partition == u32::from(p.0) && key == addressee.as_str() =>
            {
                Ok(AckedAlert { stored, p, seq })
            }
            _ => Err(AckFailure::NotAnAlert),
        }
    }

    /// The answer: its alert is recorded, or not.
    pub(crate) fn answer(self, result: Result<(), AckFailure>) -> AckAnswer {
        let Self { session, id, partition: p, seq, .. } = self;
        let result = match result {
            Ok(()) => Ok(Acked { id, p, seq }),
            Err(failure) => Err(failure.error(id, p, seq)),
        };
        AckAnswer { session: session.number, result }
    }
}

impl AckFailure {
    /// The error for the frame with this id.
    fn error(self, id: Option<Id>, p: Partition, seq: Seq) -> ServerError {
        match self {
            Self::NotAnAlert => {
                let message = format!("{seq} of partition {p} is no event of kind alert to this user, or is gone");
                ServerError::new(id, ErrorCode::NotAnAlert, message)
            }
            Self::Unavailable => {
                let message = "the acknowledgement could not be recorded; send it again";
                ServerError::new(id, ErrorCode::Unavailable, message)
            }
        }
    }
}
