//! Trace contexts as W3C Trace Context defines them: the trace that an event belongs to, and the span that comes next
//! before ours. A context arrives with an event of a producer, and goes on with the batch from router to gateway.
//!
//! A batch carries contexts in a header of its message, not in the batch itself: a node that does not know the header
//! ignores it, and a batch without traced events has none.

use crate::ids::{Partition, Seq};
use std::fmt;

/// The most contexts that one batch carries.
pub const MOST_BATCH_TRACES: usize = 16;

/// The flag of a context whose trace is recorded.
const SAMPLED: u128 = 1;

/// A position in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span that was last on the way; 0 if this is the beginning of the trace.
    pub span_id: u64,
    /// Whether the sender records the trace.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads the value of a `traceparent`; `None` if it is not valid. Later versions are read as far as this one knows
    /// them, as the standard demands.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| parts.next().and_then(|part| number(part, digits));
        let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let is_known = version == 0;
        if version == 0xff || is_known && parts.next().is_some() || trace_id == 0 || span_id == 0 {
            return None;
        }
        let span_id = u64::try_from(span_id).ok()?;
        Some(Self { trace_id, span_id, is_sampled: flags & SAMPLED == SAMPLED })
    }

    /// The same trace at another span.
    #[must_use]
    pub fn at(self, span_id: u64) -> Self {
        Self { span_id, ..self }
    }
}

impl fmt::Display for TraceContext {
    /// Writes a `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

/// A number of exactly so many lower-case hexadecimal digits.
fn number(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_number = text.len() == digits && text.bytes().all(is_hex);
    u128::from_str_radix(text, 16).ok().filter(|_| is_number)
}

/// Whether an event without a context is one of those that are traced nevertheless: `ratio` of all, 0 to 1, chosen by a
/// hash of its sequence.
#[must_use]
pub fn is_chosen(seq: Seq, ratio: f64) -> bool {
    // The finaliser of SplitMix64. Its upper 53 bits are a number that `f64` has exactly.
    let mut hash = seq.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    ((hash >> 11) as f64) < ratio * (1_u64 << 53) as f64
}

/// The context of one event of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchTrace {
    /// The partition of the event.
    pub partition: Partition,
    /// The sequence of the event.
    pub seq: Seq,
    /// Its context.
    pub context: TraceContext,
}

/// Writes the header of a batch: `<partition>:<sequence>=<traceparent>` for each event, with spaces between. At most
/// [`MOST_BATCH_TRACES`] are written.
#[must_use]
pub fn write_batch_traces(traces: &[BatchTrace]) -> String {
    let entry = |BatchTrace { partition, seq, context }: &BatchTrace| format!("{}:{}={context}", partition.0, seq.0);
    traces.iter().take(MOST_BATCH_TRACES).map(entry).collect::<Vec<_>>().join(" ")
}

/// Reads the header of a batch. An entry that is not valid is left out, and so are those after [`MOST_BATCH_TRACES`].
#[must_use]
pub fn read_batch_traces(text: &str) -> Vec<BatchTrace> {
    let entry = |entry: &str| {
        let (place, context) = entry.split_once('=')?;
        let (partition, seq) = place.split_once(':')?;
        let (partition, seq) = (Partition(partition.parse().ok()?), Seq(seq.parse().ok()?));
        Some(BatchTrace { partition, seq, context: TraceContext::parse(context)? })
    };
    text.split(' ').take(MOST_BATCH_TRACES).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn context_is_read_and_written_as_the_standard_says() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        let expected = TraceContext {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            is_sampled: true,
        };
        assert_eq!(context, expected);
        assert_eq!(context.to_string(), EXAMPLE);
        let unsampled = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02").unwrap();
        assert!(!unsampled.is_sampled);
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more";
        assert_eq!(TraceContext::parse(later), Some(expected));
    }

    #[test]
    fn other_texts_are_no_contexts() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        for wrong in [
            String::new(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-1"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{trace}-{span}-0g"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-+{}-{span}-01", &trace[1..]),
            format!("00-{trace}{span}-01"),
        ] {
            assert_eq!(TraceContext::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn header_of_a_batch_has_these_bytes() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        let traces = [
            BatchTrace { partition: Partition(3), seq: Seq(1042), context },
            BatchTrace { partition: Partition(31), seq: Seq(u64::MAX), context: context.at(1) },
        ];
        let text = write_batch_traces(&traces);
        assert_eq!(
            text,
            "3:1042=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 \
             31:18446744073709551615=00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01"
        );
        assert_eq!(read_batch_traces(&text), traces);
    }

    #[test]
    fn header_of_a_batch_is_bounded_and_odd_entries_are_left_out() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        let trace = |seq| BatchTrace { partition: Partition(0), seq: Seq(seq), context };
        let many: Vec<_> = (0..100).map(trace).collect();
        assert_eq!(read_batch_traces(&write_batch_traces(&many)), many[..MOST_BATCH_TRACES]);
        let text = format!("0:7={EXAMPLE}");
        assert_eq!(read_batch_traces(&vec![text.as_str(); 100].join(" ")).len(), MOST_BATCH_TRACES);
        let odd = format!("x:7={EXAMPLE} 0:x={EXAMPLE} 0:7 0=1 {text} 70000:7={EXAMPLE} 0:7=00-0-0-01");
        assert_eq!(read_batch_traces(&odd), [trace(7)]);
    }

    #[test]
    fn ratio_of_sequences_is_chosen() {
        let chosen = |ratio| (0..100_000).filter(|seq| is_chosen(Seq(*seq), ratio)).count();
        assert_eq!((chosen(0.0), chosen(1.0)), (0, 100_000));
        let tenth = chosen(0.1);
        assert!((9_500..10_500).contains(&tenth), "{tenth}");
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in ".{0,120}") {
            assert!(TraceContext::parse(&text).is_none_or(|context| context.to_string().len() == 55));
            assert!(read_batch_traces(&text).len() <= MOST_BATCH_TRACES);
        }

        #[test]
        fn written_contexts_are_read_again(trace_id in 1..u128::MAX, span_id in 1..u64::MAX, is_sampled: bool) {
            let context = TraceContext { trace_id, span_id, is_sampled };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }
    }
}
