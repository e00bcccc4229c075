//! Publishing to gateways: sections are packed into messages within the server's limit, on one subject for each start
//! of a gateway.
//!
//! A publish is not acknowledged. A batch that is lost on the way, or cannot be sent before the deadline, is a gap in
//! the gateway's coverage. The gateway detects it and requests a repair.

pub(crate) mod pack;

use crate::metrics;
use ::metrics::Histogram;
use bytes::Bytes;
use std::time::Duration;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, NodeRef};
use tickwire_core::wire;
use tickwire_node::clock::wall_clock;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::timeout;
use tracing::warn;

/// How long the client may take to accept a message or to flush. It waits only when the server is slower than this
/// router.
const DEADLINE: Duration = Duration::from_secs(1);

/// An event on its way to a gateway.
#[derive(Debug, Clone)]
pub struct RoutedEvent {
    /// The event in MessagePack.
    pub wire: Bytes,
    /// When the stream stored it.
    pub stored: Timestamp,
}

/// Publishes batches.
#[derive(Debug)]
pub struct Dispatcher {
    nats: Nats,
    me: NodeRef,
    lag: Histogram,
    size: Histogram,
}

impl Dispatcher {
    /// Publishes in the name of the router `me`.
    #[must_use]
    pub fn new(nats: Nats, me: NodeRef) -> Self {
        Self { nats, me, lag: metrics::LAG_SECONDS.series(), size: metrics::BATCH_BYTES.series() }
    }

    /// Publishes sections to one gateway, in as many messages as necessary.
    pub async fn send(&self, gateway: &NodeRef, epoch: Epoch, sections: Vec<Section<RoutedEvent>>) {
        let now = wall_clock();
        for (_, event) in sections.iter().flat_map(|section| &section.events) {
            let stored = Duration::from_millis(u64::try_from(event.stored.0).unwrap_or_default());
            self.lag.record(now.saturating_sub(stored).as_secs_f64());
        }
        let subject = names::gateway(gateway.id.as_str(), &gateway.nonce.to_string());
        for batch in pack::batches(&self.me, epoch, sections, self.nats.client.max_payload()) {
            if let Err(reason) = self.publish(&subject, &batch).await {
                metrics::BATCHES_LOST.increment(1);
                warn!(%gateway, reason, "batch not published");
            }
        }
    }

    async fn publish(&self, subject: &str, batch: &Batch<Bytes>) -> Result<(), String> {
        let bytes = wire::encode(batch).map_err(|error| error.to_string())?;
        self.size.record(bytes.len() as f64);
        let publish = self.nats.client.publish(subject.to_owned(), bytes.into());
        let published = timeout(DEADLINE, publish).await.map_err(|late| late.to_string())?;
        published.map_err(|error| error.to_string())?;
        metrics::BATCHES.increment(1);
        Ok(())
    }

    /// Waits until everything published so far has left this process. Returns whether it has left in time.
    pub(crate) fn flush(&self) -> impl Future<Output = bool> + Send + use<> {
        let client = self.nats.client.clone();
        async move { matches!(timeout(DEADLINE, client.flush()).await, Ok(Ok(()))) }
    }
}
