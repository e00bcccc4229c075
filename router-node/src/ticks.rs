//! Ticks: for every partition that it owns, a router stores a small message now and then. So quiet partitions stay
//! current, gaps at the end of a burst show, and delivery is proved from end to end.

use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::Partition;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

/// How long the client may take to accept a tick.
const DEADLINE: Duration = Duration::from_millis(200);

/// Stores ticks of what is owned, every `interval`, each partition at a time of its own. Ends when the owner has ended.
pub(crate) async fn run(nats: Nats, every: Duration, mut owned: watch::Receiver<Arc<BTreeSet<Partition>>>) {
    let mut due: BTreeMap<Partition, Instant> = BTreeMap::new();
    loop {
        let now = Instant::now();
        let partitions = owned.borrow_and_update().clone();
        due.retain(|partition, _| partitions.contains(partition));
        for partition in partitions.iter() {
            due.entry(*partition).or_insert_with(|| now + every.mul_f64(rand::rng().random_range(0.0..1.0)));
        }
        for (partition, at) in due.iter_mut().filter(|(_, at)| **at <= now) {
            store(&nats, *partition).await;
            *at = now + every;
        }
        // Without partitions only a change of them matters.
        let next = due.values().min().copied().unwrap_or(now + every);
        tokio::select! {
            () = sleep_until(next) => {}
            changed = owned.changed() => if changed.is_err() { return },
        }
    }
}

/// A tick need not be acknowledged: the next one says as much. Without a connection it would only come late.
async fn store(nats: &Nats, partition: Partition) {
    if !nats.is_connected() {
        return;
    }
    let subject = names::tick(u32::from(partition.0));
    // A client that takes nothing for a while must not make the ticks of all partitions late.
    let published = timeout(DEADLINE, nats.client.publish(subject, "".into())).await;
    let published = published.map_err(|late| late.to_string()).and_then(|done| done.map_err(|error| error.to_string()));
    if let Err(error) = published {
        warn!(%partition, error, "a tick was not published");
    }
}
