//! The bench in the part of a gateway that has missed everything: it asks for the whole of every partition, as many at a
//! time as a router serves.

use async_nats::jetstream::context::GetStreamError;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickwire_core::event::Kind;
use tickwire_core::ids::{Incarnation, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::interest::{Interest, Topic, Want};
use tickwire_core::replay::{Part, Purpose, ReplayAnswer, ReplayRequest, Sought};
use tickwire_core::ring::ViewId;
use tickwire_core::wire::{self, WireError};
use tickwire_node::life;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How many requests are under way, as of a gateway whose sessions catch up.
const AT_ONCE: usize = 32;

/// How long a router may be silent.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the past cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("the stream cannot be looked at: {0}")]
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
pub(super) struct Past {
    events: u64,
    took: Duration,
}

impl Past {
    /// Events a second.
    pub(super) fn rate(self) -> f64 {
        self.events as f64 / self.took.as_secs_f64()
    }
}

/// Reads every partition of the stream again.
pub(super) async fn read_all(nats: &Nats, stream: &str) -> Result<Past, ReplayError> {
    let begun = Instant::now();
    let found = nats.jetstream.get_stream(stream).await?;
    let info = found.cached_info();
    let incarnation = life::of(info).incarnation;
    let partitions = info.config.metadata.get(names::PARTITIONS_METADATA).and_then(|count| count.parse().ok());
    let last = info.state.last_sequence;
    let reads = (0..partitions.unwrap_or(0)).map(|number| read(nats, incarnation, Partition(number), Seq(last)));
    let reads = stream::iter(reads).buffer_unordered(AT_ONCE);
    let events = reads.try_fold(0, |sum, events| async move { Ok(sum + events) }).await?;
    Ok(Past { events, took: begun.elapsed() })
}

/// Reads one partition again, up to where the stream ends.
async fn read(nats: &Nats, incarnation: Incarnation, partition: Partition, to: Seq) -> Result<u64, ReplayError> {
    let (mut from, mut events) = (Seq(0), 0);
    while from < to {
        let (read, upto) = ask(nats, incarnation, partition, from, to).await?;
        events += read;
        // A partition's last message lies before the stream's.
        if upto <= from {
            break;
        }
        from = upto;
    }
    Ok(events)
}

/// Asks once; gives how many events came, and up to where.
async fn ask(
    nats: &Nats,
    incarnation: Incarnation,
    partition: Partition,
    from: Seq,
    to: Seq,
) -> Result<(u64, Seq), ReplayError> {
    let failed = |error: &dyn std::fmt::Display| ReplayError::Nats(error.to_string());
    let id = NodeId::new("bench").map_err(|error| failed(&error))?;
    let gateway = NodeRef { id, nonce: Nonce(1) };
    let everything = Interest {
        wants: BTreeMap::from([(Topic { kind: Kind::Pattern, symbol: None }, Arc::new(Want::default()))]),
        view: ViewId(0),
        ..Interest::default()
    };
    let interest = Sought::of(&gateway, Revision(1), &everything, 1);
    // Answers go to where the gateway listens.
    let inbox = names::replayed(gateway.id.as_str(), &gateway.nonce.to_string(), rand::random());
    let purpose = Purpose::Repair;
    let request = wire::encode(&ReplayRequest { gateway, partition, from, to, incarnation, interest, purpose })?;
    let mut answers = nats.client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
    let asked = nats.client.publish_with_reply(names::REPLAY, inbox, request.into()).await;
    asked.map_err(|error| failed(&error))?;
    let (mut events, mut upto) = (0, from);
    loop {
        let message = timeout(DEADLINE, answers.next()).await.map_err(|_| ReplayError::Late)?;
        let message = message.ok_or_else(|| ReplayError::Nats("the connection was closed".to_owned()))?;
        if message.status.is_some() {
            return Err(ReplayError::Nats("no router listens".to_owned()));
        }
        let answer: ReplayAnswer<Bytes> = wire::decode(&message.payload)?;
        match answer.part {
            Part::Events(section) => (events, upto) = (events + section.events.len() as u64, section.upto),
            Part::Removed { upto: end, .. } => upto = end,
            // Nothing of the partition lies behind what was read.
            Part::Refused(tickwire_core::replay::Refusal::NotThere) => return Ok((events, upto)),
            Part::Refused(refusal) => return Err(ReplayError::Refused(refusal.as_str())),
        }
        if answer.last {
            return Ok((events, upto));
        }
    }
}
