//! The trace of one event on its way through the router. Few events have one; the others cost a comparison.
//!
//! ```text
//! intake ──▶ rules
//!   │
//!   └──────▶ match ──▶ publish, one for each of the first gateways ──▶ the spans of that gateway
//! ```

use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tickwire_core::coverage::section::Batch;
use tickwire_core::event::{Event, Timestamp};
use tickwire_core::ids::{NodeRef, Partition, Seq};
use tickwire_core::trace::{BatchTrace, MOST_BATCH_TRACES, TraceContext};
use tickwire_node::clock::wall_clock;
use tickwire_node::traces::{EventFacts, Span, SpanKind, Traces, child};

/// How many gateways take part in the trace of an event, so that the number of its spans is bounded.
const MOST_GATEWAYS: usize = 8;

/// The trace of an event while it is decoded.
#[derive(Debug)]
pub(crate) struct TraceStart {
    traces: Traces,
    /// The context that the event came with, and that of our first span.
    arrived: TraceContext,
    intake: TraceContext,
    facts: EventFacts,
    stored: Duration,
    /// When it was read.
    read: Duration,
    /// When the rules began and ended.
    rules: Option<(Duration, Duration)>,
}

impl TraceStart {
    /// An event, stored at this time, that is traced and has just been read.
    pub(crate) fn new(traces: Traces, arrived: TraceContext, stored: Timestamp, facts: EventFacts) -> Self {
        let stored = Duration::from_millis(u64::try_from(stored.0).unwrap_or_default());
        Self { traces, arrived, intake: child(arrived), facts, stored, read: wall_clock(), rules: None }
    }

    /// The rules have decided, since this time.
    pub(crate) fn ruled(&mut self, begun: Duration) {
        self.rules = Some((begun, wall_clock()));
    }

    /// The event is decoded, or `None` if a rule drops it. Records the spans so far.
    pub(crate) fn finish(self, event: Option<&Event>) -> EventTrace {
        let Self { traces, arrived, intake, mut facts, stored, read, rules } = self;
        facts.key = event.and_then(EventFacts::shown_key);
        let span = Span::new("intake", SpanKind::Consumer, (intake, arrived), (stored.min(read), read));
        traces.record(span.about(&facts));
        if let Some(times) = rules {
            let outcome = if event.is_some() { "kept" } else { "dropped" };
            let span = Span::new("rules", SpanKind::Internal, (child(intake), intake), times);
            traces.record(span.about(&facts).with("tickwire.outcome", outcome));
        }
        let matching = child(intake);
        EventTrace { traces, intake, matching, facts, matched: OnceLock::new(), gateways: AtomicUsize::new(0) }
    }
}

/// The trace of an event that is routed. All gateways that get the event share it.
#[derive(Debug)]
pub struct EventTrace {
    traces: Traces,
    intake: TraceContext,
    /// The position of the span `match`, which ends before any batch is published.
    matching: TraceContext,
    facts: EventFacts,
    /// When the span `match` ended.
    matched: OnceLock<Duration>,
    /// How many gateways take part already.
    gateways: AtomicUsize,
}

impl EventTrace {
    /// The time of day. It is asked for only here, since only a trace needs it.
    pub(crate) fn now() -> Duration {
        wall_clock()
    }

    /// The search for gateways has found so many, since this time.
    pub(crate) fn matched(&self, begun: Duration, gateways: u64) {
        let now = wall_clock();
        // An event is matched once.
        self.matched.set(now).ok();
        let span = Span::new("match", SpanKind::Internal, (self.matching, self.intake), (begun, now));
        self.traces.record(span.about(&self.facts).with("tickwire.gateways", gateways));
    }

    /// The context for one more gateway; `None` if enough take part.
    fn context(&self) -> Option<TraceContext> {
        (self.gateways.fetch_add(1, Ordering::Relaxed) < MOST_GATEWAYS).then(|| child(self.matching))
    }

    fn published(&self, context: TraceContext, gateway: &NodeRef) {
        let now = wall_clock();
        let begun = self.matched.get().copied().unwrap_or(now);
        let span = Span::new("publish", SpanKind::Producer, (context, self.matching), (begun, now));
        self.traces.record(span.about(&self.facts).with("tickwire.gateway", gateway.id.as_str()));
    }
}

/// The traced events that are sent to one gateway, in order.
#[derive(Debug, Default)]
pub(crate) struct TracedEvents(Vec<(Partition, Seq, Arc<EventTrace>)>);

impl TracedEvents {
    /// Adds an event.
    pub(crate) fn add(&mut self, partition: Partition, seq: Seq, trace: &Arc<EventTrace>) {
        self.0.push((partition, seq, Arc::clone(trace)));
    }

    /// Takes out what goes with this batch.
    pub(crate) fn take(&mut self, batch: &Batch<Bytes>) -> TracedBatch {
        if self.0.is_empty() {
            return TracedBatch::default();
        }
        let holds = |partition: Partition, seq: Seq| {
            let mut of_partition = batch.sections.iter().filter(|section| section.partition == partition);
            of_partition.any(|section| section.prev < seq && seq <= section.through)
        };
        let (mut taken, mut rest) = (TracedBatch::default(), Vec::new());
        for (partition, seq, trace) in std::mem::take(&mut self.0) {
            if !holds(partition, seq) {
                rest.push((partition, seq, trace));
            } else if taken.contexts.len() < MOST_BATCH_TRACES
                && let Some(context) = trace.context()
            {
                taken.contexts.push(BatchTrace { partition, seq, context });
                taken.traces.push(trace);
            }
        }
        self.0 = rest;
        taken
    }
}

/// What a batch carries of traces.
#[derive(Debug, Default)]
pub(crate) struct TracedBatch {
    pub(crate) contexts: Vec<BatchTrace>,
    /// The traces of these contexts.
    traces: Vec<Arc<EventTrace>>,
}

impl TracedBatch {
    /// The batch has been published with the contexts.
    pub(crate) fn published(&self, gateway: &NodeRef) {
        for (BatchTrace { context, .. }, trace) in self.contexts.iter().zip(&self.traces) {
            trace.published(*context, gateway);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::coverage::section::Section;
    use tickwire_core::ids::{EpochId, NodeId, Nonce, Revision};

    fn trace() -> Arc<EventTrace> {
        let context = TraceContext { trace_id: 1, span_id: 2, is_sampled: true };
        let facts = EventFacts { partition: 0, seq: Seq(1), kind: "pattern".to_owned(), key: None };
        Arc::new(TraceStart::new(Traces::default(), context, Timestamp(0), facts).finish(None))
    }

    fn section(partition: u16, seqs: &[u64]) -> Section<Bytes> {
        let (prev, through) = (Seq(seqs[0] - 1), Seq(seqs[seqs.len() - 1]));
        let events = seqs.iter().map(|seq| (Seq(*seq), Bytes::new())).collect();
        Section { partition: Partition(partition), revision: Revision(1), prev, through, events }
    }

    fn batch(sections: &[Section<Bytes>]) -> Batch<Bytes> {
        let router = NodeRef { id: NodeId::new("r").unwrap(), nonce: Nonce(1) };
        Batch { router, epoch_id: EpochId(1), sections: sections.to_vec(), before: Seq(0) }
    }

    fn places(traced: &TracedBatch) -> Vec<(u16, u64)> {
        traced.contexts.iter().map(|context| (context.partition.0, context.seq.0)).collect()
    }

    #[test]
    fn context_goes_with_the_batch_that_has_the_event() {
        let mut traced = TracedEvents::default();
        for (partition, seq) in [(3, 7), (3, 9), (4, 8)] {
            traced.add(Partition(partition), Seq(seq), &trace());
        }
        assert_eq!(places(&traced.take(&batch(&[section(4, &[7, 8])]))), [(4, 8)]);
        let both = batch(&[section(4, &[9]), section(3, &[7, 8, 9])]);
        assert_eq!(places(&traced.take(&both)), [(3, 7), (3, 9)]);
        assert_eq!(places(&traced.take(&both)), []);
    }

    #[test]
    fn contexts_of_a_batch_and_of_an_event_are_bounded() {
        let mut traced = TracedEvents::default();
        (1..=40).for_each(|seq| traced.add(Partition(0), Seq(seq), &trace()));
        let taken = traced.take(&batch(&[section(0, &[1, 40])]));
        assert_eq!(taken.contexts.len(), MOST_BATCH_TRACES);
        let trace = trace();
        let contexts: Vec<_> = (0..40).filter_map(|_| trace.context()).collect();
        assert_eq!(contexts.len(), MOST_GATEWAYS);
        assert!(contexts.iter().all(|context| context.trace_id == 1 && context.span_id != trace.matching.span_id));
    }
}
