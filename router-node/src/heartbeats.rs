//! Partition heartbeats: a router stores a small message at intervals in every partition that it owns. So quiet
//! partitions stay current, gaps at the end of a burst show, and delivery is proved from end to end. The results of
//! these writes show whether NATS stores anything at all.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::Partition;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

/// How long a heartbeat may take to the server, beside the time for its acknowledgement.
const DEADLINE: Duration = Duration::from_millis(200);

/// How soon a heartbeat that was not stored is followed by another.
const RETRY: Duration = Duration::from_millis(500);

/// How soon the first heartbeat of a partition is stored after its lease was taken: gateways learn from it that the
/// partition is read.
const FIRST: Duration = Duration::from_secs(1);

/// The shortest time between two heartbeats, as a part of the interval.
const MIN_PART: f64 = 0.8;

/// How many heartbeats may wait for their acknowledgement. Further ones wait for their turn.
const WAITING: usize = 256;

/// Stores heartbeats of the owned partitions in `stream`, at least one in each interval `every`, each partition at a
/// time of its own. Ends when the owner has ended.
pub(crate) async fn run(
    nats: Nats,
    stream: String,
    every: Duration,
    mut owned: watch::Receiver<Arc<BTreeSet<Partition>>>,
) {
    let mut due: BTreeMap<Partition, Instant> = BTreeMap::new();
    let mut waiting = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        let partitions = owned.borrow_and_update().clone();
        due.retain(|partition, _| partitions.contains(partition));
        for partition in partitions.iter() {
            due.entry(*partition).or_insert_with(|| now + FIRST.min(every).mul_f64(rand::rng().random_range(0.0..1.0)));
        }
        let room = WAITING.saturating_sub(waiting.len());
        for (partition, at) in due.iter_mut().filter(|(_, at)| **at <= now).take(room) {
            // Without a connection the heartbeat would only arrive late.
            if nats.is_connected() {
                waiting.push(store(&nats, &stream, *partition));
            }
            // Partitions that began together drift apart.
            *at = now + every.mul_f64(rand::rng().random_range(MIN_PART..=1.0));
        }
        // Without partitions only a change of the owned ones matters.
        let next = due.values().min().copied().unwrap_or(now + every);
        tokio::select! {
            () = sleep_until(next), if room > 0 => {}
            Some((partition, is_stored)) = waiting.next() => {
                if !is_stored && let Some(at) = due.get_mut(&partition) {
                    *at = (*at).min(Instant::now() + RETRY);
                }
            }
            changed = owned.changed() => if changed.is_err() { return },
        }
    }
}

/// Stores a heartbeat, notes the result, and returns whether it is known to be stored. The next heartbeat does not wait
/// for it.
async fn store(nats: &Nats, stream: &str, partition: Partition) -> (Partition, bool) {
    let (began, subject) = (nats.writes.now(), names::heartbeat(u32::from(partition.0)));
    // A client that accepts nothing for a while must not hold the heartbeat back.
    let published = timeout(DEADLINE, nats.jetstream.publish(subject.clone(), "".into())).await;
    let ended = match published {
        Ok(Ok(acknowledgement)) => acknowledgement.await.map(drop),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(PublishError::new(PublishErrorKind::TimedOut)),
    };
    nats.writes.note(stream, &subject, began, ended.as_ref().map(drop));
    if let Err(error) = &ended {
        debug!(%partition, %error, "partition heartbeat not stored");
    }
    (partition, ended.is_ok())
}
