//! From a message of the stream to what the engine routes: an event with its wire form, a partition heartbeat, or a
//! refusal. Its context is found here, and rules change the event or drop it, in one place for live and replayed events.
//!
//! The event's wire form is made here as well, once for all gateways: for live events in the intake's task, so that the
//! work is spread over the cores; for replayed events only when a gateway wants them.

mod last_events;

pub(crate) use last_events::{LastEvent, LastEvents};

use crate::dead_letters::DeadLetter;
use crate::enrich::{PartitionContext, SharedSurroundings};
use crate::reader::StreamMessage;
use crate::rules::{ActiveRules, ReadPurpose};
use bytes::Bytes;
use serde_json::Map;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tickwire_core::context::Surroundings;
use tickwire_core::event::decode::{RawMessage, Reason, Undecodable, decode};
use tickwire_core::event::{Event, Kinds};
use tickwire_core::ids::Seq;
use tickwire_node::names::{StoredSubject, parse_stored};
use tickwire_node::shutdown::panic_text;

/// An event that can be routed.
#[derive(Debug)]
pub struct Readable {
    /// Its sequence.
    pub seq: Seq,
    /// The event for the match against interest, without the rest of its data.
    pub event: Event,
    /// The event in MessagePack, as it is sent to gateways.
    pub wire: Bytes,
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
pub type Content = Result<Decoded<Bytes>, Box<DeadLetter>>;

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
}

impl Decoder {
    /// Reads one message for the live path: an event, or a dead letter. `partition` is what the owner keeps for the
    /// partition of the message.
    pub(crate) fn content(&self, message: StreamMessage, partition: &mut PartitionContext) -> Content {
        self.read_live(&message, partition).map_err(|refusal| Box::new(DeadLetter { refusal, message }))
    }

    /// Reads one message, and encodes its event. A panic of the decoder makes it a dead letter as well.
    pub(crate) fn read_live(
        &self,
        message: &StreamMessage,
        partition: &mut PartitionContext,
    ) -> Result<Decoded<Bytes>, Undecodable> {
        catch_panic(|| match self.routed(message, Some(partition))? {
            Decoded::Heartbeat => Ok(Decoded::Heartbeat),
            Decoded::Dropped => Ok(Decoded::Dropped),
            Decoded::Event(mut event, ()) => {
                let wire = to_wire(&event)?;
                // Matching does not use the rest of its data, which takes ten times its bytes in the engine's queue.
                event.data = Map::new();
                Ok(Decoded::Event(event, wire))
            }
        })
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
    fn routed(&self, message: &StreamMessage, live: Option<&mut PartitionContext>) -> Result<Decoded<()>, Undecodable> {
        let StreamMessage { seq, stored, payload, .. } = message;
        self.with_raw(message, |raw| {
            let Some(raw) = raw else {
                if let Some(partition) = live {
                    partition.read_heartbeat(*seq, *stored);
                }
                return Ok(Decoded::Heartbeat);
            };
            let decode = || decode(raw, &self.kinds);
            let event = decode()?;
            let (purpose, context) = match live {
                Some(partition) => {
                    self.last_events.note(&event.kind, LastEvent { stored: *stored, seq: *seq });
                    let enrich = |surroundings: &Surroundings| partition.enrich(surroundings, *seq, &event);
                    (ReadPurpose::Live, self.surroundings.read(enrich))
                }
                None => (ReadPurpose::Replay, self.surroundings.replayed(*seq, &event)),
            };
            let mut routed = self.rules.apply(event, *seq, payload.len(), purpose, decode)?;
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
mod tests {
    use super::*;
    use crate::reader::MessageHeaders;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use tickwire_core::event::{Handling, Priority, Strategy, Timestamp};
    use tickwire_core::ids::EpochId;
    use tickwire_core::rules::{RuleRevision, RuleSet};

    /// A decoder with these rules.
    fn decoder_with(rules: &Value) -> Decoder {
        let (set, skipped) = RuleSet::compile(RuleRevision(7), rules.as_array().unwrap(), &Kinds::default());
        assert_eq!(skipped, []);
        Decoder {
            stream: "EVENTS".to_owned(),
            kinds: Kinds::default(),
            rules: ActiveRules::fixed(Arc::new(set)),
            surroundings: SharedSurroundings::default(),
            last_events: LastEvents::default(),
        }
    }

    /// Reads a message as the owner of its partition does that knows nothing yet.
    fn live(decoder: &Decoder, message: &StreamMessage) -> Result<Decoded<Bytes>, Undecodable> {
        decoder.read_live(message, &mut PartitionContext::new(EpochId(1)))
    }

    fn held(subject: &[u8], headers: &[u8]) -> StreamMessage {
        StreamMessage {
            seq: Seq(7),
            stored: Timestamp(0),
            subject: Bytes::copy_from_slice(subject),
            headers: MessageHeaders::Whole(Bytes::copy_from_slice(headers)),
            payload: Bytes::from_static(br#"{"pattern":"Doji"}"#),
        }
    }

    #[test]
    fn live_and_repeated_reading_refuse_the_same_messages() {
        let decoder = decoder_with(&json!([]));
        let subject = b"ev.3.pattern.AAPL";
        let cases: [(&[u8], &[u8], Option<Reason>); 7] = [
            (subject, b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n", None),
            (subject, b"NATS/1.0 408\r\n\r\n", Some(Reason::BadHeaders)),
            (subject, b"NATS/1.0\r\nX: a\rb\r\n\r\n", Some(Reason::BadHeaders)),
            (b"ev.3.pattern.\xff", b"NATS/1.0\r\n\r\n", Some(Reason::BadSubject)),
            (b"events.a\rb", b"", Some(Reason::BadSubject)),
            ("ev.3.pattern.A\u{a0}B".as_bytes(), b"NATS/1.0\r\n\r\n", Some(Reason::BadKey)),
            (b"ev.3.tick", b"", Some(Reason::BadSubject)),
        ];
        for (subject, headers, expected) in cases {
            let message = held(subject, headers);
            let reason = |refusal: Undecodable| refusal.reason;
            assert_eq!(live(&decoder, &message).err().map(reason), expected, "{}", headers.escape_ascii());
            assert_eq!(decoder.read(&message).err().map(reason), expected);
        }
    }

    #[test]
    fn live_event_holds_its_data_only_in_its_wire_form() {
        let decoder = decoder_with(&json!([]));
        let message = StreamMessage {
            payload: Bytes::from_static(br#"{"pattern":"Doji","lists":[[],[],[]]}"#),
            ..held(b"ev.3.pattern.A", b"")
        };
        let Ok(Decoded::Event(event, wire)) = live(&decoder, &message) else { panic!("it is an event") };
        assert!(event.data.is_empty());
        let whole: Event = rmp_serde::from_slice(&wire).unwrap();
        assert_eq!(whole.data["lists"], serde_json::json!([[], [], []]));
        assert_eq!(*event, Event { data: Map::new(), ..whole });
    }

    #[test]
    fn only_an_empty_message_is_a_heartbeat() {
        let decoder = decoder_with(&json!([]));
        let heartbeat =
            StreamMessage { headers: MessageHeaders::None, payload: Bytes::new(), ..held(b"ev.3.tick", b"") };
        assert!(matches!(live(&decoder, &heartbeat), Ok(Decoded::Heartbeat)));
        let named = StreamMessage {
            headers: MessageHeaders::Whole(Bytes::from_static(b"NATS/1.0\r\nA: b\r\n\r\n")),
            ..heartbeat.clone()
        };
        let filled = StreamMessage { payload: Bytes::from_static(b"{}"), ..heartbeat };
        for mistake in [named, filled] {
            assert_eq!(live(&decoder, &mistake).err().map(|refusal| refusal.reason), Some(Reason::BadSubject));
        }
    }

    #[test]
    fn refusal_text_is_short_for_any_message() {
        let decoder = decoder_with(&json!([]));
        let long = |byte: u8| [b"events.a.b.", &vec![byte; 60_000][..]].concat();
        let header = [b"NATS/1.0\r\n", &vec![b'\xff'; 60_000][..], b": 1\r\n\r\n"].concat();
        let status = [b"NATS/1.0 ", &vec![b'\xff'; 60_000][..], b"\r\n\r\n"].concat();
        let cases = [(long(b'x'), &b""[..]), (long(b'\xff'), b""), (b"ev.3.pattern.A".to_vec(), &header[..])];
        for (subject, headers) in cases.into_iter().chain([(b"ev.3.pattern.A".to_vec(), &status[..])]) {
            let detail = live(&decoder, &held(&subject, headers)).unwrap_err().detail;
            assert!(detail.len() < 1_000, "{} bytes: {}", detail.len(), &detail[..80]);
        }
    }

    #[test]
    fn live_and_replayed_events_have_the_same_bytes_under_one_revision() {
        let decoder = decoder_with(&json!([
            { "id": "a", "when": { "kind": "pattern" }, "set_priority": "critical", "add_tags": ["hot"], "ttl_ms": 500 },
            { "id": "b", "order": 1, "strategy": "load_balanced", "rooms": ["x", "y", "z"] },
            { "id": "c", "order": 2, "transform": { "rename": { "data.px": "data.price" }, "set": { "data.desk": "one" } } },
        ]));
        let message = StreamMessage {
            payload: Bytes::from_static(br#"{"pattern":"Doji","px":1.5,"rooms":["own"]}"#),
            ..held(b"ev.3.pattern.A", b"")
        };
        let Ok(Decoded::Event(live, wire)) = live(&decoder, &message) else { panic!("it is an event") };
        let Ok(Decoded::Event(again, ())) = decoder.read(&message) else { panic!("it is an event") };
        assert_eq!(to_wire(&again).unwrap(), wire);
        assert_eq!((live.priority, again.priority), (Priority::Critical, Priority::Critical));
        assert_eq!((&live.rooms, live.rooms.len()), (&again.rooms, 2));
        assert!(again.tags.iter().any(|tag| tag == "hot"));
        assert_eq!((&again.data["price"], &again.data["desk"], again.data.len()), (&json!(1.5), &json!("one"), 2));
        let handling = Handling { strategy: Strategy::LoadBalanced, rooms: vec![], ttl_ms: Some(500) };
        assert_eq!((live.handling.as_deref(), again.handling.as_deref()), (Some(&handling), Some(&handling)));
        // Only the first reading is counted.
        let counted = [("a", 1_u64), ("b", 1), ("c", 1)].map(|(id, count)| (id.to_owned(), count));
        assert_eq!(decoder.rules.matched(), counted);
    }

    #[test]
    fn context_is_that_of_the_event_as_it_was_published() {
        let decoder = decoder_with(&json!([{ "id": "a", "transform": { "drop": ["data.volume"] } }]));
        let mut partition = PartitionContext::new(EpochId(1));
        let message = |seq, volume: u32| {
            let payload = json!({ "pattern": "Doji", "volume": volume }).to_string();
            StreamMessage { seq: Seq(seq), payload: payload.into(), ..held(b"ev.3.pattern.A", b"") }
        };
        let mut read = |message: &StreamMessage| {
            let Ok(Decoded::Event(_, wire)) = decoder.read_live(message, &mut partition) else { panic!() };
            let event: Event = rmp_serde::from_slice(&wire).unwrap();
            assert!(event.data.is_empty());
            event.context.and_then(|context| context.relative_volume)
        };
        assert_eq!([read(&message(7, 100)), read(&message(8, 250))], [None, Some(2.5)]);
        let Ok(Decoded::Event(again, ())) = decoder.read(&message(8, 250)) else { panic!() };
        let context = again.context.as_deref().unwrap();
        assert_eq!((context.relative_volume, context.session), (None, again.session));
        let published = decoder.published(&message(8, 250)).unwrap().unwrap();
        assert_eq!((&published.data["volume"], published.context), (&json!(250), None));
    }

    #[test]
    fn dropped_and_sampled_out_events_are_no_dead_letters() {
        let decoder = decoder_with(&json!([
            { "id": "drop", "when": { "type": "Doji" }, "drop": true },
            { "id": "sample", "when": { "type": "Hammer" }, "sample": 0.000001 },
        ]));
        for (pattern, is_kept) in [("Doji", false), ("Hammer", false), ("Breakout", true)] {
            let payload = json!({ "pattern": pattern }).to_string();
            let message = StreamMessage { payload: payload.into(), ..held(b"ev.3.pattern.A", b"") };
            let (live, again) = (live(&decoder, &message), decoder.read(&message));
            assert_eq!(matches!(live, Ok(Decoded::Event(..))), is_kept, "{pattern}");
            assert_eq!(matches!(live, Ok(Decoded::Dropped)), !is_kept, "{pattern}");
            assert_eq!(matches!(again, Ok(Decoded::Dropped)), !is_kept, "{pattern}");
        }
    }

    #[test]
    fn event_that_a_transform_makes_too_large_goes_without_it() {
        let constant = "x".repeat(250);
        let rule = |number: usize| {
            let set: Map<String, Value> = (0..32).map(|i| (format!("data.f{number}-{i}"), json!(constant))).collect();
            json!({ "id": format!("r{number}"), "set_priority": "high", "transform": { "set": set } })
        };
        let decoder = decoder_with(&(0..28).map(rule).collect());
        // A number of three bytes in JSON takes nine in MessagePack.
        let floats = vec![0.5; 50_000];
        let message = |floats: &[f64]| {
            let payload = json!({ "pattern": "Doji", "floats": floats }).to_string();
            StreamMessage { payload: payload.into(), ..held(b"ev.3.pattern.A", b"") }
        };
        for (count, fields) in [(10, 1 + 28 * 32), (50_000, 1)] {
            let message = message(&floats[..count]);
            let Ok(Decoded::Event(live, wire)) = live(&decoder, &message) else { panic!("it is an event") };
            let Ok(Decoded::Event(again, ())) = decoder.read(&message) else { panic!("it is an event") };
            assert_eq!((again.data.len(), live.priority), (fields, Priority::High));
            assert_eq!(to_wire(&again).unwrap(), wire);
        }
    }

    #[test]
    fn panic_of_the_decoder_makes_a_dead_letter() {
        let refusal = catch_panic::<()>(|| panic!("on purpose")).unwrap_err();
        assert_eq!((refusal.reason, refusal.detail.as_str()), (Reason::Unreadable, "reading it failed: on purpose"));
    }
}
