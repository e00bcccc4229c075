//! What is traced, and what becomes of spans that nobody can take.

use super::*;
use std::time::{Duration, Instant};

/// A handle whose spans wait in the returned queue.
fn traces(rate: u32, ratio: f64, capacity: usize) -> (Traces, mpsc::Receiver<Span>) {
    let (sender, queue) = mpsc::channel(capacity);
    let budget = Mutex::new(RateBudget::new(rate));
    (Traces(Some(Arc::new(Tracer { ratio, budget, queue: sender, queued: Arc::default() }))), queue)
}

fn arrived(is_sampled: bool) -> Option<TraceContext> {
    Some(TraceContext { trace_id: 7, span_id: 8, is_sampled })
}

fn span(text: &str) -> Span {
    let context = begin();
    let times = (Duration::from_secs(2), Duration::from_secs(1));
    Span::new("intake", SpanKind::Consumer, (child(context), context), times).with("tickwire.key", text)
}

#[test]
fn sampled_contexts_go_on_and_others_are_not_traced() {
    let (traces, _queue) = traces(10, 1.0, 1);
    assert_eq!(traces.admit(Seq(1), arrived(true)), arrived(true));
    assert_eq!(traces.admit(Seq(1), arrived(false)), None, "not even by the ratio");
    let own = traces.admit(Seq(1), None).unwrap();
    assert!(own.trace_id != 0 && own.span_id == 0 && own.is_sampled, "{own:?}");
    assert_eq!(Traces::default().admit(Seq(1), arrived(true)), None);
    assert!(!Traces::default().is_on());
}

#[test]
fn rate_limits_contexts_and_ratio_alike() {
    let (traces, _queue) = traces(3, 1.0, 1);
    let begun = Instant::now();
    let context = |seq: u64| arrived(true).filter(|_| seq.is_multiple_of(2));
    let admitted = (0..100).filter(|seq| traces.admit(Seq(*seq), context(*seq)).is_some()).count();
    // The bucket may have got some more since.
    let since = begun.elapsed().as_secs_f64() * 3.0;
    assert!(admitted >= 3 && admitted as f64 <= 4.0 + since, "{admitted}, {since}");
}

#[test]
fn full_queue_drops_spans_and_nobody_waits() {
    let (few, mut queue) = traces(1, 0.0, 2);
    (0..5).for_each(|_| few.record(span("AAPL")));
    assert_eq!(std::iter::from_fn(|| queue.try_recv().ok()).count(), 2);
    let (traces, _queue) = traces(1, 0.0, 100);
    let queued = |traces: &Traces| traces.0.as_ref().unwrap().queued.load(Ordering::Relaxed);
    traces.record(span("AAPL"));
    let one = queued(&traces);
    assert!((100..1_000).contains(&one), "{one}");
    traces.0.as_ref().unwrap().queued.store(QUEUE_BYTES, Ordering::Relaxed);
    traces.record(span("AAPL"));
    assert_eq!(queued(&traces), QUEUE_BYTES);
}

#[test]
fn size_and_duration_of_a_span_are_bounded() {
    let (short, long) = (span("x"), span(&"ä".repeat(1_000)));
    assert_eq!(long.bytes() - short.bytes(), 127);
    assert_eq!(short.end, short.start, "it does not end before it starts");
}
