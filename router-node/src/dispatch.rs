//! Publishing to gateways: sections are packed into messages within the server's limit, on one subject for each start
//! of a gateway.
//!
//! A publish is not acknowledged. A batch that is lost on the way, or cannot be sent before the deadline, is a gap in
//! the gateway's coverage. The gateway detects it and requests a repair.

pub(crate) mod pack;

use crate::metrics;
use crate::traced::{EventTrace, TracedEvents};
use ::metrics::Histogram;
use async_nats::HeaderMap;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, NodeRef};
use tickwire_core::trace::{BatchTrace, write_batch_traces};
use tickwire_core::wire;
use tickwire_node::clock::wall_clock;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::{Instant, timeout};
use tracing::warn;

/// How long the client may take to accept a message or to flush. It waits only when the server is slower than this
/// router.
const DEADLINE: Duration = Duration::from_secs(1);

/// The most bytes of the headers of a batch. The server counts them as a part of the message.
const HEADERS: usize = 2 * 1024;

/// An event on its way to a gateway.
#[derive(Debug, Clone)]
pub struct RoutedEvent {
    /// The event in MessagePack.
    pub wire: Bytes,
    /// When the stream stored it.
    pub stored: Timestamp,
    /// Its trace, if it is traced.
    pub trace: Option<Arc<EventTrace>>,
}

/// Publishes batches.
#[derive(Debug)]
pub struct Dispatcher {
    nats: Nats,
    me: NodeRef,
    lag: Histogram,
    size: Histogram,
    publish: Histogram,
}

impl Dispatcher {
    /// Publishes in the name of the router `me`.
    #[must_use]
    pub fn new(nats: Nats, me: NodeRef) -> Self {
        let (lag, size) = (metrics::LAG_SECONDS.series(), metrics::BATCH_BYTES.series());
        Self { nats, me, lag, size, publish: metrics::PUBLISH_SECONDS.series() }
    }

    /// Publishes sections to one gateway, in as many messages as necessary.
    pub async fn send(&self, gateway: &NodeRef, epoch: Epoch, sections: Vec<Section<RoutedEvent>>) {
        let now = wall_clock();
        let mut traced = TracedEvents::default();
        for section in &sections {
            for (seq, event) in &section.events {
                let stored = Duration::from_millis(u64::try_from(event.stored.0).unwrap_or_default());
                self.lag.record(now.saturating_sub(stored).as_secs_f64());
                if let Some(trace) = &event.trace {
                    traced.add(section.partition, *seq, trace);
                }
            }
        }
        let (begun, has_events) = (Instant::now(), sections.iter().any(|section| !section.events.is_empty()));
        let subject = names::gateway(gateway.id.as_str(), &gateway.nonce.to_string());
        for batch in pack::batches(&self.me, epoch, sections, self.nats.client.max_payload()) {
            let of_batch = traced.take(&batch);
            match self.publish(&subject, &batch, &of_batch.contexts).await {
                Ok(()) => of_batch.published(gateway),
                Err(reason) => {
                    metrics::BATCHES_LOST.increment(1);
                    warn!(%gateway, reason, "batch not published");
                }
            }
        }
        if has_events {
            self.publish.record(begun.elapsed().as_secs_f64());
        }
    }

    async fn publish(&self, subject: &str, batch: &Batch<Bytes>, traces: &[BatchTrace]) -> Result<(), String> {
        let bytes = wire::encode(batch).map_err(|error| error.to_string())?;
        self.size.record(bytes.len() as f64);
        let (client, subject) = (&self.nats.client, subject.to_owned());
        // A batch with one event of the largest size has no room for headers.
        let published = if traces.is_empty() || bytes.len() + HEADERS > client.max_payload() {
            timeout(DEADLINE, client.publish(subject, bytes.into())).await
        } else {
            let mut headers = HeaderMap::new();
            headers.insert(names::BATCH_TRACES, write_batch_traces(traces));
            timeout(DEADLINE, client.publish_with_headers(subject, headers, bytes.into())).await
        };
        published.map_err(|late| late.to_string())?.map_err(|error| error.to_string())?;
        metrics::BATCHES.increment(1);
        Ok(())
    }

    /// Waits until everything published so far has left this process. Returns whether it has left in time.
    pub(crate) fn flush(&self) -> impl Future<Output = bool> + Send + use<> {
        let client = self.nats.client.clone();
        async move { matches!(timeout(DEADLINE, client.flush()).await, Ok(Ok(()))) }
    }
}
