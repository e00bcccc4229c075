//! A span until it is sent. Its size is bounded: names are static, and texts are cut.

use std::time::Duration;
use tickwire_core::event::{Audience, Event};
use tickwire_core::ids::Seq;
use tickwire_core::trace::TraceContext;

/// The most bytes of a text of an attribute.
const MOST_TEXT: usize = 128;

/// A part of an event's way, from one time of day to another.
#[derive(Debug)]
pub struct Span {
    /// Its trace and its own number.
    pub(super) context: TraceContext,
    /// The span that it is a part of; 0 if it begins its trace.
    pub(super) parent: u64,
    pub(super) name: &'static str,
    pub(super) kind: SpanKind,
    /// Both since 1970.
    pub(super) start: Duration,
    pub(super) end: Duration,
    pub(super) attributes: Vec<(&'static str, AttributeValue)>,
}

/// How a span is related to other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Not at all.
    Internal,
    /// It sends a message.
    Producer,
    /// It takes a message.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// A text, cut to 128 bytes.
    Text(String),
    /// A whole number.
    Number(i64),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text[..text.floor_char_boundary(MOST_TEXT)].to_owned())
    }
}

impl From<u64> for AttributeValue {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl Span {
    /// A span at this position, below that one. The times are since 1970; the end is not before the start, though the
    /// clocks of two hosts may differ.
    #[must_use]
    pub fn new(
        name: &'static str,
        kind: SpanKind,
        (context, parent): (TraceContext, TraceContext),
        (start, end): (Duration, Duration),
    ) -> Self {
        let end = end.max(start);
        Self { context, parent: parent.span_id, name, kind, start, end, attributes: Vec::new() }
    }

    /// The same with an attribute.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<AttributeValue>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// The same with the attributes that name the event.
    #[must_use]
    pub fn about(self, facts: &EventFacts) -> Self {
        let EventFacts { partition, seq, kind, key } = facts;
        let span = self
            .with("tickwire.partition", u64::from(*partition))
            .with("tickwire.sequence", seq.0)
            .with("tickwire.kind", kind.as_str());
        match key {
            Some(key) => span.with("tickwire.key", key.as_str()),
            None => span,
        }
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let attribute = |(_, value): &(&'static str, AttributeValue)| {
            let text = if let AttributeValue::Text(text) = value { text.len() } else { 0 };
            size_of::<(&'static str, AttributeValue)>() + text
        };
        size_of::<Self>() + self.attributes.iter().map(attribute).sum::<usize>()
    }
}

/// The event that spans are about.
#[derive(Debug, Clone)]
pub struct EventFacts {
    /// Its partition.
    pub partition: u32,
    /// Its sequence.
    pub seq: Seq,
    /// Its kind.
    pub kind: String,
    /// Its key, unless that is the name of a user.
    pub key: Option<String>,
}

impl EventFacts {
    /// The key of an event as far as a trace may show it.
    #[must_use]
    pub fn shown_key(event: &Event) -> Option<String> {
        (event.audience == Audience::Public).then(|| event.key.to_string())
    }
}
