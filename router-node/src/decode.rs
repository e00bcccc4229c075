//! From a message of the stream to what the engine routes: an event with its wire form, a partition heartbeat, or a
//! refusal. Its context is found here, and rules change the event or drop it, in one place for live and replayed
//! events.
//!
//! The event's wire form is made here as well, once for all gateways: for live events in the intake's task, so that the
//! work is spread over the cores; for replayed events only when a gateway wants them.

mod last_events;

pub(crate) use last_events::{LastEvent, LastEvents};

use crate::dead_letters::DeadLetter;
use crate::enrich::{PartitionContext, SharedSurroundings};
use crate::reader::StreamMessage;
use crate::rules::{ActiveRules, LiveRules, ReadPurpose};
use crate::traced::{EventTrace, TraceStart};
use bytes::Bytes;
use serde_json::Map;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tickwire_core::context::Surroundings;
use tickwire_core::event::decode::{RawMessage, Reason, Undecodable, decode};
use tickwire_core::event::{Event, Kinds};
use tickwire_core::ids::Seq;
use tickwire_core::trace::TraceContext;
use tickwire_node::names::{StoredSubject, parse_stored};
use tickwire_node::shutdown::panic_text;
use tickwire_node::traces::{EventFacts, Traces};

/// An event that can be routed.
#[derive(Debug)]
pub struct Readable {
    /// Its sequence.
    pub seq: Seq,
    /// The event for the match against interest, without the rest of its data.
    pub event: Event,
    /// The event in MessagePack, as it is sent to gateways.
    pub wire: Bytes,
    /// Its trace, if it is traced.
    pub trace: Option<Arc<EventTrace>>,
}

/// What is made of an event of the live path, beside the event for the match.
#[derive(Debug)]
pub struct LiveForm {
    /// The event in MessagePack.
    pub wire: Bytes,
    /// Its trace, if it is traced.
    pub trace: Option<Arc<EventTrace>>,
}

impl From<Bytes> for LiveForm {
    fn from(wire: Bytes) -> Self {
        Self { wire, trace: None }
    }
}

/// A message that is not a dead letter. `W` is the event's wire form, if it was made.
#[derive(Debug)]
pub enum Decoded<W> {
    /// An event.
    Event(Box<Event>, W),
    /// A partition heartbeat: it only shows how far the partition was read.
    Heartbeat,
    /// An event that a rule drops, or whose sample does not keep it. It also only shows how far the partition was read.
    Dropped,
}

/// What a message of the live path holds: an event, a partition heartbeat, or what is to be a dead letter.
pub type Content = Result<Decoded<LiveForm>, Box<DeadLetter>>;

/// Reads messages of one stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The stream's name.
    pub(crate) stream: String,
    /// The kinds that this cluster accepts.
    pub(crate) kinds: Kinds,
    /// The rules.
    pub(crate) rules: ActiveRules,
    /// What is known of the surroundings of events.
    pub(crate) surroundings: SharedSurroundings,
    /// The last events of the live path.
    pub(crate) last_events: LastEvents,
    /// The traces of events of the live path.
    pub(crate) traces: Traces,
}

/// What the live path reads a message with: what the owner of its partition keeps, and its trace, if it is traced.
struct LiveReading<'r> {
    partition: &'r mut PartitionContext,
    rules: &'r mut LiveRules,
    trace: Option<&'r mut TraceStart>,
}

impl Decoder {
    /// Reads one message for the live path: an event, or a dead letter. `partition` and `rules` are what the owner
    /// keeps for the partition of the message.
    pub(crate) fn content(
        &self,
        message: StreamMessage,
        partition: &mut PartitionContext,
        rules: &mut LiveRules,
    ) -> Content {
        self.read_live(&message, partition, rules).map_err(|refusal| Box::new(DeadLetter { refusal, message }))
    }

    /// Reads one message, and encodes its event. A panic of the decoder makes it a dead letter as well.
    pub(crate) fn read_live(
        &self,
        message: &StreamMessage,
        partition: &mut PartitionContext,
        rules: &mut LiveRules,
    ) -> Result<Decoded<LiveForm>, Undecodable> {
        catch_panic(|| {
            let mut trace = self.begin_trace(message);
            match self.routed(message, Some(LiveReading { partition, rules, trace: trace.as_mut() }))? {
                Decoded::Heartbeat => Ok(Decoded::Heartbeat),
                Decoded::Dropped => {
                    // Its spans are all that the trace has of it.
                    if let Some(trace) = trace {
                        trace.finish(None);
                    }
                    Ok(Decoded::Dropped)
                }
                Decoded::Event(mut event, ()) => {
                    let wire = to_wire(&event)?;
                    let trace = trace.map(|trace| Arc::new(trace.finish(Some(&event))));
                    // Matching does not use the rest of its data, which takes ten times its bytes in the engine's
                    // queue.
                    event.data = Map::new();
                    Ok(Decoded::Event(event, LiveForm { wire, trace }))
                }
            }
        })
    }

    /// Begins the trace of a message, if it is an event that is traced.
    fn begin_trace(&self, message: &StreamMessage) -> Option<TraceStart> {
        if !self.traces.is_on() {
            return None;
        }
        let subject = std::str::from_utf8(&message.subject).ok()?;
        let StoredSubject::Event { partition, kind, .. } = parse_stored(subject) else { return None };
        let headers = message.headers.block().read().ok()?;
        let arrived = self.traces.admit(message.seq, headers.traceparent.and_then(TraceContext::parse))?;
        let facts = EventFacts { partition, seq: message.seq, kind: kind.to_owned(), key: None };
        Some(TraceStart::new(self.traces.clone(), arrived, message.stored, facts))
    }

    /// Reads one message again. A panic of the decoder makes it a dead letter as well.
    pub(crate) fn read(&self, message: &StreamMessage) -> Result<Decoded<()>, Undecodable> {
        catch_panic(|| self.routed(message, None))
    }

    /// The event of a message as it was published, without context and rules; `None` for a partition heartbeat.
    pub(crate) fn published(&self, message: &StreamMessage) -> Result<Option<Event>, Undecodable> {
        catch_panic(|| self.with_raw(message, |raw| raw.map(|raw| decode(raw, &self.kinds)).transpose()))
    }

    /// Reads one message, finds the context of its event, and applies the rules. The context is that of the event as it
    /// was published, and is no part of what the rules decide: a replay may know less of it. With `live` it is read by
    /// the owner of its partition, in order; else again.
    fn routed(&self, message: &StreamMessage, live: Option<LiveReading<'_>>) -> Result<Decoded<()>, Undecodable> {
        let StreamMessage { seq, stored, payload, .. } = message;
        self.with_raw(message, |raw| {
            let Some(raw) = raw else {
                if let Some(LiveReading { partition, .. }) = live {
                    partition.read_heartbeat(*seq, *stored);
                }
                return Ok(Decoded::Heartbeat);
            };
            let decode = || decode(raw, &self.kinds);
            let event = decode()?;
            let (purpose, context, trace) = match live {
                Some(LiveReading { partition, rules, trace }) => {
                    self.last_events.note(&event.kind, LastEvent { stored: *stored, seq: *seq });
                    let enrich = |surroundings: &Surroundings| partition.enrich(surroundings, *seq, &event);
                    (ReadPurpose::Live(rules), self.surroundings.read(enrich), trace)
                }
                None => (ReadPurpose::Replay, self.surroundings.replayed(*seq, &event), None),
            };
            let trace = trace.map(|trace| (trace, EventTrace::now()));
            let mut routed = self.rules.apply(event, *seq, payload.len(), purpose, decode)?;
            if let Some((trace, begun)) = trace {
                trace.ruled(begun);
            }
            if let Decoded::Event(event, ()) = &mut routed {
                event.context = context;
            }
            Ok(routed)
        })
    }

    /// Passes a message on in the form that it is decoded from; `None` for a partition heartbeat.
    fn with_raw<T>(
        &self,
        message: &StreamMessage,
        then: impl FnOnce(Option<&RawMessage<'_>>) -> Result<T, Undecodable>,
    ) -> Result<T, Undecodable> {
        let StreamMessage { seq, stored, subject, headers, payload } = message;
        let headers = headers.block();
        let subject = std::str::from_utf8(subject).map_err(|_| not_text(subject))?;
        let (kind_token, key_token) = match parse_stored(subject) {
            StoredSubject::Heartbeat { .. } if payload.is_empty() && headers.is_none() => {
                return then(None);
            }
            StoredSubject::Heartbeat { .. } => return Err(not_a_heartbeat()),
            StoredSubject::Event { kind, key, .. } => (kind, key),
            StoredSubject::Unrecognised => return Err(bad_subject(subject)),
        };
        let found = headers.read()?;
        then(Some(&RawMessage {
            kind_token,
            key_token,
            content_type: found.content_type,
            msg_id: found.msg_id,
            payload,
            stream: &self.stream,
            seq: *seq,
            stored: *stored,
        }))
    }
}

/// Catches a panic of the decoder. Otherwise the decoder would get the message again, at every attempt and in every
/// router.
fn catch_panic<T>(read: impl FnOnce() -> Result<T, Undecodable>) -> Result<T, Undecodable> {
    // A panic drops all state that is half changed.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        Err(Undecodable::new(Reason::Unreadable, format!("reading it failed: {}", panic_text(&*panic))))
    })
}

/// An event in MessagePack, as it is sent to gateways.
///
/// # Errors
/// [`Reason::BadMsgPack`] when it cannot be encoded.
pub(crate) fn to_wire(event: &Event) -> Result<Bytes, Undecodable> {
    let refused = |error| Undecodable::new(Reason::BadMsgPack, format!("it cannot be encoded in MessagePack: {error}"));
    catch_panic(|| rmp_serde::to_vec(event).map(Bytes::from).map_err(refused))
}

/// How much of a subject is shown, in bytes: it may be very long, and the dead letter has it in a header.
const SHOWN: usize = 64;

fn bad_subject(subject: &str) -> Undecodable {
    let shown = &subject[..subject.floor_char_boundary(SHOWN)];
    let more = if shown.len() < subject.len() { "…" } else { "" };
    let detail = format!(
        "{shown:?}{more} is not events.<kind>.<key> with one token each; escape characters that a token cannot hold, \
         as in BRK=2EB for BRK.B"
    );
    Undecodable::new(Reason::BadSubject, detail)
}

fn not_text(subject: &[u8]) -> Undecodable {
    let shown = &subject[..subject.len().min(SHOWN)];
    let more = if shown.len() < subject.len() { "…" } else { "" };
    Undecodable::new(Reason::BadSubject, format!("the subject \"{}\"{more} is not UTF-8", shown.escape_ascii()))
}

fn not_a_heartbeat() -> Undecodable {
    let detail = "a partition heartbeat, which routers store, must be empty; publish events to events.<kind>.<key>";
    Undecodable::new(Reason::BadSubject, detail)
}

#[cfg(test)]
mod tests;
