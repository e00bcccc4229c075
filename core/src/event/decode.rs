//! Decodes a producer's message into an [`Event`], or into the reason why it is a dead letter.
//!
//! Decoding is a pure function of the message and the configured kinds, so a replay decodes an event exactly as the
//! first reading did. Fields of [`Event`] are taken out of the payload; the rest is its `data`. Where a field has two
//! names, the first one in this table wins and the other stays in `data`. JSON `null` counts as absent.
//!
//! | field | taken from | absent |
//! |---|---|---|
//! | pattern | `pattern`, `pattern_type` | refused for kind `pattern` |
//! | symbol | the subject's key for kind `pattern`, else `symbol` | none |
//! | tier | `tier` | `daily` for kind `pattern`, else none |
//! | confidence | `confidence`; for kind `market` also `regime_confidence` | none |
//! | time | `timestamp`, `ts` | the time at which the stream stored it |
//! | priority | `priority` | from the confidence |
//! | id | `id`, `event_id`: text of 1 to 128 bytes or a whole number | `Nats-Msg-Id`, else `<stream>:<sequence>` |
//! | tags | `tags` | those derived |
//! | rooms | `rooms` | none |
//! | regime | `regime`, for kind `market` | none |

mod alert;
mod answer;
mod fields;
mod health;
mod market;
mod reason;

use compact_str::{CompactString, ToCompactString, format_compact};
use serde_json::Value;

pub use reason::{Reason, Undecodable};

use crate::event::calendar::session_of;
use crate::event::key;
use crate::event::object;
use crate::event::object::Object;
use crate::event::time;
use crate::event::time::Moment;
use crate::event::{Audience, Event, Kind, KindAudience, Kinds, Priority, Tier, Timestamp};
use crate::hint::{hint, quoted};
use crate::ids::{Confidence, Pattern, Seq, Symbol, UserId};
use fields::Fields;

/// The largest payload that is accepted, in bytes.
pub const MAX_PAYLOAD: usize = 262_144;

/// The largest event that is accepted, in bytes of MessagePack as sent between nodes. Every NATS server that nodes
/// accept can carry it.
pub const MAX_EVENT: usize = 600 * 1024;

/// The most that an event grows from its payload to MessagePack, as a factor: a MessagePack timestamp of 6 bytes
/// becomes a text of 21 bytes.
const MAX_GROWTH: usize = 4;

/// The longest event id that is accepted, in bytes.
pub const MAX_ID: usize = 128;

/// The most rooms of one event.
pub const MAX_ROOMS: usize = 64;

/// A message as stored in the stream.
#[derive(Clone, Copy, Debug)]
pub struct RawMessage<'a> {
    /// The subject's token for the kind.
    pub kind_token: &'a str,
    /// The subject's token for the key, encoded as [`key::encode`] does.
    pub key_token: &'a str,
    /// The header `Content-Type`. It selects MessagePack; the default is JSON.
    pub content_type: Option<&'a str>,
    /// The header `Nats-Msg-Id`.
    pub msg_id: Option<&'a str>,
    /// The body.
    pub payload: &'a [u8],
    /// The stream's name.
    pub stream: &'a str,
    /// The message's sequence in the stream.
    pub seq: Seq,
    /// When the stream stored it.
    pub stored: Timestamp,
}

/// Decodes a message.
///
/// # Errors
/// [`Undecodable`] with the reason under which the message is a dead letter.
pub fn decode(raw: &RawMessage<'_>, kinds: &Kinds) -> Result<Event, Undecodable> {
    let (kind, key, audience) = read_subject(raw, kinds)?;
    let mut own = Fields::new("", read_object(raw)?);
    let mut nested = if kind == Kind::Alert { alert::pattern_event(&own) } else { Fields::default() };
    let symbol = if kind == Kind::Pattern {
        Some(symbol_of_key(&mut own, &key)?)
    } else {
        optional_symbol(&mut own, &mut nested)?
    };
    let pattern = take_pattern(&mut own, &mut nested, &kind)?;
    let tier = match own.take(&["tier"]).or_else(|| nested.take(&["tier"])) {
        Some(found) => Some(found.parse::<Tier>(Reason::BadTier)?),
        None => (kind == Kind::Pattern).then_some(Tier::Daily),
    };
    let confidence = own.take(&["confidence"]).or_else(|| nested.take(&["confidence"]));
    let mut confidence = confidence.map(|found| found.confidence()).transpose()?;
    let moment = match own.take(&["timestamp", "ts"]) {
        Some(found) => time::read(&found.value).map_err(|problem| found.refuse(Reason::BadTimestamp, problem))?,
        None => Moment { ts: raw.stored, is_day: false },
    };
    let priority = own.take(&["priority"]).map(|found| found.parse(Reason::BadPriority)).transpose()?;
    let id = take_id(&mut own, raw);
    let mut tags = own.take(&["tags"]).map_or(Ok(Vec::new()), |found| found.tags())?;
    let rooms = own.take(&["rooms"]).map_or(Ok(Vec::new()), |found| found.rooms())?;

    let mut regime = None;
    match kind {
        Kind::Market => {
            let market = market::read(&mut own, confidence)?;
            (regime, confidence) = (market.regime, market.confidence);
        }
        Kind::Health => health::check(&mut own, &key)?,
        _ => {}
    }
    derive_tags(&mut tags, confidence, tier);

    let mut event = Event {
        kind,
        key,
        audience,
        id,
        ts: moment.ts,
        stored: raw.stored,
        session: (!moment.is_day).then(|| session_of(moment.ts)),
        symbol,
        pattern,
        tier,
        confidence,
        priority: priority.unwrap_or_else(|| Priority::from_confidence(confidence)),
        regime,
        tags,
        data: own.rest,
        rooms,
        handling: None,
        context: None,
    };
    market::add_summary(&mut event);
    check_size(&event, raw.payload.len())?;
    Ok(event)
}

/// Whether nodes may send each other an event that was changed since it was decoded. Its size is that between nodes.
///
/// # Errors
/// [`Reason::BadMsgPack`] when it cannot be encoded.
pub fn fits(event: &Event) -> Result<bool, Undecodable> {
    Ok(encoded_bytes(event)? <= MAX_EVENT)
}

/// The kind, the key and the audience, which follow from the subject.
fn read_subject(raw: &RawMessage<'_>, kinds: &Kinds) -> Result<(Kind, CompactString, Audience), Undecodable> {
    let kind = Kind::from(raw.kind_token);
    let Some(kind_audience) = kinds.audience(&kind) else {
        let known: Vec<_> = kinds.iter().map(Kind::as_str).collect();
        let hint = hint(raw.kind_token, known.iter().copied());
        let detail = format!("this cluster takes no events of kind {}; {hint}", quoted(raw.kind_token));
        return Err(Undecodable::new(Reason::UnknownKind, detail));
    };
    // The stream derives the partition from the token as written: two spellings would be two partitions.
    if kind.as_str() != raw.kind_token {
        let (token, kind) = (quoted(raw.kind_token), kind.as_str());
        let detail = format!("kinds are written in lower case: publish to events.{kind}.<key>, not {token}");
        return Err(Undecodable::new(Reason::UnknownKind, detail));
    }
    let key = key::decode(raw.key_token).map_err(|e| Undecodable::new(Reason::BadKey, e.to_string()))?;
    let audience = match kind_audience {
        KindAudience::Public => Audience::Public,
        KindAudience::User => Audience::User(
            UserId::new(&key).map_err(|e| Undecodable::new(Reason::BadKey, format!("the key names a user: {e}")))?,
        ),
    };
    Ok((kind, key, audience))
}

/// Refuses an event that is too large to be sent between nodes: it would stop its partition.
fn check_size(event: &Event, payload: usize) -> Result<(), Undecodable> {
    if payload <= MAX_EVENT / MAX_GROWTH {
        return Ok(());
    }
    let bytes = encoded_bytes(event)?;
    if bytes > MAX_EVENT {
        let detail = format!("the event takes {bytes} bytes between nodes, the limit is {MAX_EVENT}");
        return Err(Undecodable::new(Reason::TooLarge, detail));
    }
    Ok(())
}

/// The size between nodes.
fn encoded_bytes(event: &Event) -> Result<usize, Undecodable> {
    let encoded = rmp_serde::to_vec(event).map_err(|e| Undecodable::new(Reason::BadMsgPack, e.to_string()))?;
    Ok(encoded.len())
}

/// The payload, if a producer has written it.
fn read_object(raw: &RawMessage<'_>) -> Result<Object, Undecodable> {
    let payload = read_payload(raw)?;
    if answer::is_of_nats(&payload, raw.stream) {
        let detail = "the payload is an answer of NATS: whoever asked has named the subject of an event for it";
        return Err(Undecodable::new(Reason::NatsAnswer, detail));
    }
    Ok(payload)
}

fn read_payload(raw: &RawMessage<'_>) -> Result<Object, Undecodable> {
    if raw.payload.len() > MAX_PAYLOAD {
        let detail = format!("the payload has {} bytes, the limit is {MAX_PAYLOAD}", raw.payload.len());
        return Err(Undecodable::new(Reason::TooLarge, detail));
    }
    if is_msgpack(raw.content_type) {
        object::from_msgpack(raw.payload).map_err(|e| Undecodable::new(Reason::BadMsgPack, e.to_string()))
    } else {
        object::from_json(raw.payload).map_err(|e| Undecodable::new(Reason::BadJson, e.to_string()))
    }
}

/// Whether a `Content-Type` means MessagePack; parameters and case do not matter.
fn is_msgpack(content_type: Option<&str>) -> bool {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"]
        .iter()
        .any(|name| essence.eq_ignore_ascii_case(name))
}

/// The symbol of a pattern is its subject's key. A symbol in the payload must be the same.
fn symbol_of_key(own: &mut Fields, key: &str) -> Result<Symbol, Undecodable> {
    if let Some(found) = own.take(&["symbol"])
        && found.value.as_str() != Some(key)
    {
        return Err(found.refuse(Reason::SymbolMismatch, format_args!("the subject's key is {}", quoted(key))));
    }
    Symbol::new(key).map_err(|e| Undecodable::new(Reason::BadKey, format!("the key names a symbol: {e}")))
}

fn optional_symbol(own: &mut Fields, nested: &mut Fields) -> Result<Option<Symbol>, Undecodable> {
    let Some(found) = own.take(&["symbol"]).or_else(|| nested.take(&["symbol"])) else {
        return Ok(None);
    };
    let text = found.text(Reason::BadSymbol)?;
    Symbol::new(text).map(Some).map_err(|e| found.refuse(Reason::BadSymbol, e))
}

fn take_pattern(own: &mut Fields, nested: &mut Fields, kind: &Kind) -> Result<Option<Pattern>, Undecodable> {
    let is_required = *kind == Kind::Pattern;
    match own.take(&["pattern", "pattern_type"]).or_else(|| nested.take(&["pattern", "pattern_type"])) {
        Some(found) => {
            let reason = if is_required { Reason::MissingPattern } else { Reason::BadPattern };
            Pattern::new(found.text(reason)?).map(Some).map_err(|e| found.refuse(reason, e))
        }
        None if is_required => {
            Err(Undecodable::new(Reason::MissingPattern, "pattern: an event of kind \"pattern\" must name one"))
        }
        None => Ok(None),
    }
}

/// A bad id never makes an event a dead letter: it stays in `data`, and the next source of an id is used.
fn take_id(own: &mut Fields, raw: &RawMessage<'_>) -> CompactString {
    if let Some((name, id)) = own_id(&own.rest) {
        own.rest.remove(name);
        return id;
    }
    match raw.msg_id {
        Some(msg_id) if is_id(msg_id) => CompactString::from(msg_id),
        _ => format_compact!("{}:{}", raw.stream, raw.seq),
    }
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
}

/// The id in the payload, with the name of its field.
#[must_use]
pub fn own_id(payload: &serde_json::Map<String, Value>) -> Option<(&'static str, CompactString)> {
    ["id", "event_id"].into_iter().find_map(|name| {
        let id = match payload.get(name)? {
            Value::String(text) if is_id(text) => CompactString::from(text.as_str()),
            Value::Number(number) if !number.is_f64() => number.to_compact_string(),
            number @ Value::Number(_) => object::whole_number(number)?.to_compact_string(),
            _ => return None,
        };
        Some((name, id))
    })
}

fn derive_tags(tags: &mut Vec<CompactString>, confidence: Option<Confidence>, tier: Option<Tier>) {
    if confidence.is_some_and(|c| c.get() >= 0.8) {
        tags.push(CompactString::const_new("high_confidence"));
    }
    if tier == Some(Tier::Combo) {
        tags.push(CompactString::const_new("multi_timeframe"));
    }
    tags.sort_unstable();
    tags.dedup();
}
