//! The trace of one event on its way through the gateway. Few events have one; the others cost a comparison.
//!
//! ```text
//! publish (router) ──▶ receive ──▶ search, one for each shard
//!                         │
//!                         └──────▶ deliver ──▶ write, one for each of the first sessions
//! ```
//!
//! `deliver` ends with the last write. It is recorded when no session waits for the event any more.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tickwire_core::event::Event;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::trace::{BatchTrace, TraceContext, read_batch_traces};
use tickwire_node::clock::{monotonic, monotonic_at, wall_clock};
use tickwire_node::link::NatsMessage;
use tickwire_node::names;
use tickwire_node::traces::{EventFacts, Span, SpanKind, Traces, child};

/// For how many sessions an event has a span `write`.
const MOST_WRITES: u64 = 4;

/// The contexts of a batch that arrived.
#[derive(Debug, Default)]
pub(crate) struct BatchTraces {
    traces: Traces,
    contexts: Vec<BatchTrace>,
    /// The time of day at which the batch arrived.
    arrived: Duration,
}

impl BatchTraces {
    /// Reads the contexts of the message of a batch, if anything is traced here.
    pub(crate) fn read(traces: &Traces, message: &NatsMessage) -> Self {
        if !traces.is_on() {
            return Self::default();
        }
        let Some(contexts) = message.header(names::BATCH_TRACES).map(read_batch_traces) else {
            return Self::default();
        };
        let age = monotonic().saturating_sub(monotonic_at(message.arrived()));
        Self { traces: traces.clone(), contexts, arrived: wall_clock().saturating_sub(age) }
    }

    /// Begins the trace of an event of the batch, if it has a context.
    pub(crate) fn begin(&self, partition: Partition, seq: Seq, event: &Event) -> Option<Box<DeliveryTrace>> {
        let found = self.contexts.iter().find(|trace| (trace.partition, trace.seq) == (partition, seq))?;
        let context = self.traces.admit(seq, Some(found.context))?;
        let key = EventFacts::shown_key(event);
        let facts = EventFacts { partition: partition.0.into(), seq, kind: event.kind.to_string(), key };
        Some(Box::new(DeliveryTrace::begin(self.traces.clone(), context, facts, self.arrived)))
    }
}

/// The trace of an event that is delivered. All its sessions share it.
#[derive(Debug)]
pub(crate) struct DeliveryTrace {
    traces: Traces,
    receive: TraceContext,
    deliver: TraceContext,
    facts: EventFacts,
    /// The time of day at which the event was decoded.
    decoded: Duration,
    /// To how many sessions it was written.
    sessions: AtomicU64,
    /// The time of day of the last write, in nanoseconds; 0 before the first.
    last_write: AtomicU64,
}

impl DeliveryTrace {
    /// An event that was decoded now. Records the span `receive`.
    fn begin(traces: Traces, context: TraceContext, facts: EventFacts, arrived: Duration) -> Self {
        let (receive, decoded) = (child(context), wall_clock());
        let span = Span::new("receive", SpanKind::Consumer, (receive, context), (arrived, decoded));
        traces.record(span.about(&facts));
        let (sessions, last_write) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { traces, receive, deliver: child(receive), facts, decoded, sessions, last_write }
    }

    /// The time of day. It is asked for only here, since only a trace needs it.
    pub(crate) fn now() -> Duration {
        wall_clock()
    }

    /// A shard has searched its index since this time, and found so many subscriptions.
    pub(crate) fn searched(&self, begun: Duration, shard: u16, subscriptions: u64) {
        let times = (begun, wall_clock());
        let span = Span::new("search", SpanKind::Internal, (child(self.receive), self.receive), times);
        let span = span.about(&self.facts).with("tickwire.shard", u64::from(shard));
        self.traces.record(span.with("tickwire.subscriptions", subscriptions));
    }

    /// A frame with the event was given to the socket of this session, and begun at this time.
    pub(crate) fn wrote(&self, session: fmt::Arguments<'_>, begun: Duration) {
        let now = wall_clock();
        self.last_write.fetch_max(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.sessions.fetch_add(1, Ordering::Relaxed) < MOST_WRITES {
            let place = (child(self.deliver), self.deliver);
            let span = Span::new("write", SpanKind::Producer, place, (begun, now)).about(&self.facts);
            self.traces.record(span.with("tickwire.session", session.to_string().as_str()));
        }
    }
}

impl Drop for DeliveryTrace {
    fn drop(&mut self) {
        let end = match *self.last_write.get_mut() {
            0 => wall_clock(),
            nanos => Duration::from_nanos(nanos),
        };
        let span = Span::new("deliver", SpanKind::Internal, (self.deliver, self.receive), (self.decoded, end));
        self.traces.record(span.about(&self.facts).with("tickwire.sessions", *self.sessions.get_mut()));
    }
}
