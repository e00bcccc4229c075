//! The bench in the role of a gateway that has missed everything: it asks for the whole of every partition, as many at
//! a time as a router serves.

use async_nats::jetstream::context::GetStreamError;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickwire_core::event::Kind;
use tickwire_core::ids::{EpochId, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::interest::{Interest, Topic, Want};
use tickwire_core::placement::ViewId;
use tickwire_core::replay::{Purpose, ReplayAnswer, ReplayInterest, ReplayPart, ReplayRequest};
use tickwire_core::wire::{self, WireError};
use tickwire_node::epoch;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How many requests are under way, as of a gateway whose sessions catch up.
const AT_ONCE: usize = 32;

/// How long a router may be silent.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the partitions cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayReadError {
    #[error("the stream cannot be read: {0}")]
    Stream(#[from] GetStreamError),
    #[error("a router refuses a replay: {0}")]
    Refused(&'static str),
    #[error("a replay was not answered within {DEADLINE:?}")]
    Late,
    #[error("NATS: {0}")]
    Nats(String),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What was read, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplayRead {
    events: u64,
    took: Duration,
}

impl ReplayRead {
    /// Events a second.
    pub(super) fn rate(self) -> f64 {
        self.events as f64 / self.took.as_secs_f64()
    }
}

/// Reads every partition of the stream again.
pub(super) async fn read_all(nats: &Nats, stream: &str) -> Result<ReplayRead, ReplayReadError> {
    let begun = Instant::now();
    let found = nats.jetstream.get_stream(stream).await?;
    let info = found.cached_info();
    let epoch_id = epoch::of(info).epoch_id;
    let partitions = info.config.metadata.get(names::PARTITIONS_METADATA).and_then(|count| count.parse().ok());
    let last = info.state.last_sequence;
    let reads = (0..partitions.unwrap_or(0)).map(|number| read(nats, epoch_id, Partition(number), Seq(last)));
    let reads = stream::iter(reads).buffer_unordered(AT_ONCE);
    let events = reads.try_fold(0, |sum, events| async move { Ok(sum + events) }).await?;
    Ok(ReplayRead { events, took: begun.elapsed() })
}

/// Reads one partition again, up to where the stream ends.
async fn read(nats: &Nats, epoch_id: EpochId, partition: Partition, to: Seq) -> Result<u64, ReplayReadError> {
    let (mut from, mut events) = (Seq(0), 0);
    while from < to {
        let (read, through) = ask(nats, epoch_id, partition, from, to).await?;
        events += read;
        // A partition's last message lies before the stream's.
        if through <= from {
            break;
        }
        from = through;
    }
    Ok(events)
}

/// Asks once; returns how many events came, and up to where.
async fn ask(
    nats: &Nats,
    epoch_id: EpochId,
    partition: Partition,
    from: Seq,
    to: Seq,
) -> Result<(u64, Seq), ReplayReadError> {
    let failed = |error: &dyn std::fmt::Display| ReplayReadError::Nats(error.to_string());
    let id = NodeId::new("bench").map_err(|error| failed(&error))?;
    let gateway = NodeRef { id, nonce: Nonce(1) };
    let everything = Interest {
        wants: BTreeMap::from([(Topic { kind: Kind::Pattern, symbol: None }, Arc::new(Want::default()))]),
        view: ViewId(0),
        ..Interest::default()
    };
    let interest = ReplayInterest::of(&gateway, Revision(1), &everything, 1);
    // Answers go to where the gateway listens.
    let inbox = names::replayed(gateway.id.as_str(), &gateway.nonce.to_string(), rand::random());
    let purpose = Purpose::Repair;
    let request = wire::encode(&ReplayRequest { gateway, partition, from, to, epoch_id, interest, purpose })?;
    let mut answers = nats.client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
    let asked = nats.client.publish_with_reply(names::REPLAY, inbox, request.into()).await;
    asked.map_err(|error| failed(&error))?;
    let (mut events, mut through) = (0, from);
    loop {
        let message = timeout(DEADLINE, answers.next()).await.map_err(|_| ReplayReadError::Late)?;
        let message = message.ok_or_else(|| ReplayReadError::Nats("the connection was closed".to_owned()))?;
        if message.status.is_some() {
            return Err(ReplayReadError::Nats("no router listens".to_owned()));
        }
        let answer: ReplayAnswer<Bytes> = wire::decode(&message.payload)?;
        match answer.part {
            ReplayPart::Events(section) => (events, through) = (events + section.events.len() as u64, section.through),
            ReplayPart::Removed { through: end, .. } => through = end,
            // Nothing of the partition lies behind what was read.
            ReplayPart::Refused(tickwire_core::replay::ReplayRefusal::NotThere) => {
                return Ok((events, through));
            }
            ReplayPart::Refused(refusal) => return Err(ReplayReadError::Refused(refusal.as_str())),
        }
        if answer.last {
            return Ok((events, through));
        }
    }
}
