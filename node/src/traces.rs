//! Traces of single events, for a collector of OpenTelemetry. They are off unless `traces.endpoint` is set.
//!
//! A node decides for each event whether it takes part in its trace: [`Traces::admit`]. The few spans of such an event
//! are recorded where they end, into a bounded queue that never makes anybody wait. The [`Exporter`] sends them.
//!
//! * `span` is a span until it is sent;
//! * `exporter` is the task that takes spans out of the queue, `otlp` encodes them, and `collector` sends them.

mod collector;
mod exporter;
mod otlp;
mod span;

pub use exporter::Exporter;
pub use span::{AttributeValue, EventFacts, Span, SpanKind};

use crate::clock::monotonic;
use crate::config::TracesConfig;
use crate::metrics;
use crate::rate_budget::RateBudget;
use crate::shutdown::Shutdown;
use collector::Collector;
use rand::Rng;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;
use tickwire_core::ids::{NodeRef, Seq};
use tickwire_core::placement::Role;
use tickwire_core::trace::{TraceContext, is_chosen};
use tokio::sync::mpsc;

/// How many spans may wait to be sent.
const QUEUE_SPANS: usize = 4_096;

/// How many bytes of spans may wait to be sent.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// Why traces cannot be sent.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct TracesError(String);

/// A handle to record spans. Clones share it. The default is off.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Tracer>>);

#[derive(Debug)]
struct Tracer {
    ratio: f64,
    /// It is locked for events that may be traced, for one comparison.
    budget: Mutex<RateBudget>,
    queue: mpsc::Sender<Span>,
    /// The bytes of the spans in the queue.
    queued: Arc<AtomicUsize>,
}

impl Traces {
    /// Starts to send what is recorded, if the configuration has an endpoint. The exporter must be stopped when nothing
    /// more is recorded.
    ///
    /// # Errors
    /// When the endpoint needs TLS and this system has no certificate authorities, or the token cannot be sent.
    pub async fn start(
        config: &TracesConfig,
        role: Role,
        me: &NodeRef,
        shutdown: &Shutdown,
    ) -> Result<(Self, Option<Exporter>), TracesError> {
        let Some(endpoint) = &config.endpoint else { return Ok((Self::default(), None)) };
        let collector = Collector::new(endpoint, &config.token, config.timeout).await.map_err(TracesError)?;
        let (sender, queue) = mpsc::channel(QUEUE_SPANS);
        let queued = Arc::new(AtomicUsize::new(0));
        let exporter = Exporter::start(collector, (queue, Arc::clone(&queued)), (role, me), shutdown);
        let budget = Mutex::new(RateBudget::new(config.rate));
        let tracer = Tracer { ratio: config.ratio, budget, queue: sender, queued };
        Ok((Self(Some(Arc::new(tracer))), Some(exporter)))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Decides whether an event is traced here. `arrived` is the context that it came with. Returns the context whose
    /// next span this node records: that one, or the beginning of a new trace.
    pub fn admit(&self, seq: Seq, arrived: Option<TraceContext>) -> Option<TraceContext> {
        let tracer = self.0.as_deref()?;
        let context = match arrived {
            Some(context) => Some(context).filter(|context| context.is_sampled),
            None => is_chosen(seq, tracer.ratio).then(begin),
        }?;
        let is_within = tracer.budget.lock().unwrap_or_else(PoisonError::into_inner).take(monotonic());
        metrics::TRACED_EVENTS.with(if is_within { TRACED } else { OVER_RATE }).increment(1);
        is_within.then_some(context)
    }

    /// Records a span. It is dropped, and counted, if too much waits.
    pub fn record(&self, span: Span) {
        let Some(tracer) = self.0.as_deref() else { return };
        let bytes = span.bytes();
        let is_within = tracer.queued.fetch_add(bytes, Ordering::Relaxed) + bytes <= QUEUE_BYTES;
        if !is_within || tracer.queue.try_send(span).is_err() {
            tracer.queued.fetch_sub(bytes, Ordering::Relaxed);
            metrics::TRACE_SPANS.with(QUEUE_FULL).increment(1);
        }
    }
}

/// The position after a new span of the same trace.
#[must_use]
pub fn child(context: TraceContext) -> TraceContext {
    context.at(rand::rng().random_range(1..=u64::MAX))
}

/// The beginning of a new trace.
fn begin() -> TraceContext {
    TraceContext { trace_id: rand::rng().random_range(1..=u128::MAX), span_id: 0, is_sampled: true }
}

const TRACED: &str = "traced";
const OVER_RATE: &str = "over_rate";
const QUEUE_FULL: &str = "queue_full";
const EXPORTED: &str = "exported";
const FAILED: &str = "failed";

/// What becomes of events that are to be traced.
pub(crate) fn event_outcomes() -> Vec<&'static str> {
    vec![TRACED, OVER_RATE]
}

/// What becomes of spans.
pub(crate) fn span_outcomes() -> Vec<&'static str> {
    vec![EXPORTED, QUEUE_FULL, FAILED]
}

#[cfg(test)]
mod tests;
