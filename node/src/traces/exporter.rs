//! The task that sends spans to the collector, in batches. A batch that fails is not sent again: traces are samples,
//! and the next batch is worth more than this one.

use super::collector::Collector;
use super::otlp::{Refusal, Resource, encode};
use super::span::Span;
use super::{EXPORTED, FAILED};
use crate::metrics;
use crate::shutdown::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::Role;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The most spans of one request.
const BATCH_SPANS: usize = 512;

/// How long a batch is collected that is smaller.
const BATCH_WINDOW: Duration = Duration::from_secs(1);

/// How long a node that ends waits for the collector.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);

/// A running exporter.
#[derive(Debug)]
pub struct Exporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts to send what comes out of the queue. `queued` has the bytes of the spans in it.
    pub(super) fn start(
        collector: Collector,
        (queue, queued): (mpsc::Receiver<Span>, Arc<AtomicUsize>),
        (role, me): (Role, &NodeRef),
        shutdown: &Shutdown,
    ) -> Self {
        let stop = CancellationToken::new();
        let work = ExporterTask { collector, queue, queued, resource: Resource::of(role, me), unsent: 0 };
        let task = shutdown.spawn_beside("traces", stop.clone(), work.run(stop.clone()));
        Self { stop, task }
    }

    /// Sends what waits, within a deadline. What is recorded later is lost.
    pub async fn stop(self) {
        self.stop.cancel();
        // Its panic was reported where it was started.
        self.task.await.ok();
    }
}

struct ExporterTask {
    collector: Collector,
    queue: mpsc::Receiver<Span>,
    queued: Arc<AtomicUsize>,
    resource: Resource,
    /// The spans that were taken out of the queue and are on their way.
    unsent: u64,
}

impl ExporterTask {
    async fn run(mut self, stop: CancellationToken) {
        let late = async {
            stop.cancelled().await;
            sleep(FLUSH_DEADLINE).await;
        };
        tokio::select! {
            () = self.work(&stop) => {}
            () = late => {}
        }
        self.queue.close();
        while self.queue.try_recv().is_ok() {
            self.unsent += 1;
        }
        metrics::TRACE_SPANS.with(FAILED).increment(self.unsent);
    }

    /// Sends until `stop`, and then what still waits.
    async fn work(&mut self, stop: &CancellationToken) {
        let mut spans = Vec::new();
        while stop.run_until_cancelled(self.collect(&mut spans)).await.is_some() {
            if !spans.is_empty() {
                self.send(&mut spans).await;
            }
        }
        loop {
            while spans.len() < BATCH_SPANS
                && let Ok(span) = self.queue.try_recv()
            {
                spans.push(span);
            }
            if spans.is_empty() {
                return;
            }
            self.send(&mut spans).await;
        }
    }

    /// Waits for a span, and then for the rest of its batch. What it has taken stays in `spans` if it is cancelled.
    async fn collect(&mut self, spans: &mut Vec<Span>) {
        if spans.is_empty() {
            self.queue.recv_many(spans, BATCH_SPANS).await;
        }
        let rest = async {
            while spans.len() < BATCH_SPANS {
                let room = BATCH_SPANS - spans.len();
                if self.queue.recv_many(spans, room).await == 0 {
                    // Nobody can record any more, so the stop is near.
                    std::future::pending::<()>().await;
                }
            }
        };
        // A batch that stays smaller is sent as well.
        timeout(BATCH_WINDOW, rest).await.ok();
    }

    async fn send(&mut self, spans: &mut Vec<Span>) {
        let bytes: usize = spans.iter().map(Span::bytes).sum();
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
        self.unsent = spans.len() as u64;
        let body = encode(&self.resource, spans);
        spans.clear();
        let sent = self.collector.send(body).await;
        let count = std::mem::take(&mut self.unsent);
        let (failed, reason) = match sent {
            Ok(Refusal { spans, reason }) => (spans.min(count), format!("refused in part: {reason}")),
            Err(reason) => (count, reason),
        };
        if failed > 0 {
            warn!(endpoint = self.collector.endpoint, reason, "spans not exported");
        }
        metrics::TRACE_SPANS.with(FAILED).increment(failed);
        metrics::TRACE_SPANS.with(EXPORTED).increment(count - failed);
    }
}
