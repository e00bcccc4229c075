//! The expected events: the oracle reads the stream, decodes it like a router, and evaluates every filter on every
//! event. A session's events must equal the result exactly.

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::{self, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use tickwire_core::event::decode::{RawMessage, decode};
use tickwire_core::event::{Event, Kinds, Timestamp};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Partition, Seq, UserId};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Gap, ReceivedEvent};
use tickwire_node::names::{self, StoredSubject};

const STREAM: &str = "EVENTS";

/// An event of the stream.
#[derive(Debug, Clone)]
pub(crate) struct OracleEntry {
    /// Its partition.
    pub(crate) partition: Partition,
    /// Its sequence.
    pub(crate) seq: Seq,
    /// The event.
    pub(crate) event: Event,
}

/// All events that the stream had when it was read, in order, without dead letters.
#[derive(Debug)]
pub(crate) struct Log {
    /// The events.
    pub(crate) entries: Vec<OracleEntry>,
}

impl Log {
    pub(crate) async fn read(client: &async_nats::Client) -> Self {
        let mut entries = Vec::new();
        for message in raw(client, STREAM).await {
            let StoredSubject::Event { partition, kind, key } = names::parse_stored(&message.subject) else { continue };
            let header =
                |name: &str| message.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &value[..]);
            let raw = RawMessage {
                kind_token: kind,
                key_token: key,
                content_type: header("Content-Type"),
                msg_id: header("Nats-Msg-Id"),
                payload: &message.payload,
                stream: STREAM,
                seq: message.seq,
                stored: message.stored,
            };
            if let Ok(event) = decode(&raw, &Kinds::default()) {
                let partition = Partition(u16::try_from(partition).unwrap());
                entries.push(OracleEntry { partition, seq: message.seq, event });
            }
        }
        Self { entries }
    }

    /// The events that `user` must get for these filters.
    pub(crate) fn matching(&self, user: &str, filters: &[Filter]) -> Vec<&OracleEntry> {
        let user = UserId::new(user).unwrap();
        let wanted = |entry: &&OracleEntry| {
            let event = &entry.event;
            event.audience.admits(&user) && filters.iter().any(|filter| filter.matches(event))
        };
        self.entries.iter().filter(wanted).collect()
    }

    /// The last event of each partition: a session with this position has received everything.
    pub(crate) fn end(&self) -> End {
        End(self.entries.iter().map(|entry| (entry.partition, entry.seq)).collect())
    }
}

/// The last sequence of each partition that holds events.
#[derive(Debug, Clone)]
pub(crate) struct End(BTreeMap<Partition, Seq>);

impl End {
    /// Whether a client's position is at the end of every partition.
    pub(crate) fn is_reached(&self, position: &str) -> bool {
        self.0.iter().all(|(partition, seq)| at(position, *partition) >= *seq)
    }
}

/// The sequence of a client's position in a partition.
pub(crate) fn at(position: &str, partition: Partition) -> Seq {
    Position::from_str(position).unwrap().seqs[usize::from(partition.0)]
}

/// A message of a stream, with any bytes in its headers.
struct OracleMessage {
    subject: String,
    headers: Vec<(String, String)>,
    payload: Bytes,
    seq: Seq,
    stored: Timestamp,
}

/// Reads all messages of a stream one by one as JSON: no stored bytes can break that.
async fn raw(client: &async_nats::Client, stream: &str) -> Vec<OracleMessage> {
    let state = jetstream::new(client.clone()).get_stream(stream).await.unwrap().cached_info().state.clone();
    let ask = async |seq: u64| {
        let question = serde_json::json!({ "seq": seq }).to_string();
        let answer = client.request(format!("$JS.API.STREAM.MSG.GET.{stream}"), question.into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let message = answer.get("message")?;
        let bytes = |name: &str| STANDARD.decode(message[name].as_str().unwrap_or_default()).unwrap();
        let time: jiff::Timestamp = message["time"].as_str().unwrap().parse().unwrap();
        let headers = String::from_utf8_lossy(&bytes("hdrs")).into_owned();
        let headers = headers.split("\r\n").filter_map(|line| line.split_once(':'));
        Some(OracleMessage {
            subject: message["subject"].as_str().unwrap().to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
            payload: bytes("data").into(),
            seq: Seq(seq),
            stored: Timestamp(time.as_millisecond()),
        })
    };
    let all = state.first_sequence.max(1)..=state.last_sequence;
    futures_util::stream::iter(all.map(ask)).buffered(64).filter_map(std::future::ready).collect().await
}

/// Reads all messages of a stream with the client library, which must be able to read them.
pub(crate) async fn stored(client: &async_nats::Client, stream: &str) -> Vec<Message> {
    let mut stream = jetstream::new(client.clone()).get_stream(stream).await.unwrap();
    let state = &stream.info().await.unwrap().state;
    let (count, last) = (state.messages, state.last_sequence);
    if count == 0 {
        return Vec::new();
    }
    let config = Config { deliver_policy: DeliverPolicy::All, ack_policy: AckPolicy::None, ..Config::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.stream().max_messages_per_batch(1_000).messages().await.unwrap();
    let mut all = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let seq = message.info().unwrap().stream_sequence;
        all.push(message);
        if seq >= last {
            break;
        }
    }
    all
}

/// How an event should look to a client: all of its fields, named one by one. Only its context is left out: it depends on
/// what a router knew at the time, and `context` tests it.
pub(crate) fn as_received(entry: &OracleEntry) -> ReceivedEvent {
    let event = entry.event.clone();
    ReceivedEvent {
        kind: event.kind,
        key: event.symbol.is_none().then_some(event.key),
        symbol: event.symbol,
        pattern: event.pattern,
        tier: event.tier,
        confidence: event.confidence,
        priority: event.priority,
        regime: event.regime,
        ts: event.ts,
        id: event.id,
        p: entry.partition,
        seq: entry.seq,
        tags: event.tags,
        rooms: event.rooms,
        session: event.session,
        data: event.data,
        context: None,
        conflated: 0,
        subs: Vec::new(),
        again: false,
    }
}

/// Fails unless `received` is exactly `expected`: each once, in order per key and priority, with equal content, and no
/// gap.
pub(crate) fn assert_exact(who: &str, received: &[ReceivedEvent], gaps: &[Gap], expected: &[&OracleEntry]) {
    assert_eq!(gaps, [], "{who} got gaps");
    assert_covered(who, received, gaps, expected);
}

/// Fails unless each of `expected` was either received once, in order per key and priority and with equal content, or
/// lies in a gap, and no other event was received. Returns the number of events that lie in gaps.
pub(crate) fn assert_covered(who: &str, received: &[ReceivedEvent], gaps: &[Gap], expected: &[&OracleEntry]) -> usize {
    let place = |event: &ReceivedEvent| (event.p, event.seq);
    let due: BTreeMap<_, _> = expected.iter().map(|entry| ((entry.partition, entry.seq), *entry)).collect();
    let received_at: BTreeSet<_> = received.iter().map(place).collect();
    let in_gap = |(p, seq): &(Partition, Seq)| gaps.iter().any(|gap| gap.p == *p && gap.from < *seq && *seq <= gap.to);

    let mut twice = BTreeSet::new();
    let duplicated: Vec<_> = received.iter().map(place).filter(|at| !twice.insert(*at)).collect();
    assert_eq!(duplicated, [], "{who} received events twice");
    let unwanted: Vec<_> = received.iter().filter(|event| !due.contains_key(&place(event))).collect();
    assert!(unwanted.is_empty(), "{who} received unexpected events: {unwanted:#?}");
    let absent: Vec<_> = due.keys().filter(|at| !received_at.contains(at)).collect();
    let missed: Vec<_> = absent.iter().filter(|at| !in_gap(at)).map(|at| due[at]).collect();
    assert!(missed.is_empty(), "{who} missed {} of {}: {missed:#?}", missed.len(), due.len());

    let mut last = BTreeMap::new();
    for event in received {
        let entry = due[&place(event)];
        let without_context = ReceivedEvent { context: None, ..event.clone() };
        assert_eq!(without_context, as_received(entry), "{who} received different content");
        let before = last.insert((&entry.event.kind, &entry.event.key, event.priority), event.seq);
        assert!(before.is_none_or(|before| before < event.seq), "{who} received {event:?} after {before:?}");
    }
    absent.len()
}

/// Reads a filter as a gateway does.
pub(crate) fn filter(text: &serde_json::Value) -> Filter {
    Filter::parse(text, &Kinds::default()).unwrap()
}
