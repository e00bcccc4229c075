//! The frames of strangers, by number, and the codes of the answers that docs/protocol.md allows.

use serde_json::{Value, json};
use tickwire_core::ids::{EpochId, Seq};
use tickwire_core::protocol::codes::{CloseCode, ErrorCode};
use tickwire_core::protocol::position::Position;

use crate::simulator::socket::ClientMessage;

/// How many kinds of frames there are.
pub(in super::super) const KINDS: u8 = 36;

/// The code that stands for an answer without an error.
pub(super) const OK: u16 = 0;

const BAD_FRAME: u16 = 400;
const SYMBOL_LIMIT: &[u16] = &[405, 414];
const BAD_FILTER: &[u16] = &[410, 414];
const UNKNOWN_ACTION: &[u16] = &[411];
const UNKNOWN_SUBSCRIPTION: &[u16] = &[412, 503];
const BAD_FIELD: &[u16] = &[415];
const FRAME_TOO_LARGE: u16 = 417;
/// The client may have too many subscriptions, or too many requests may wait.
const SUBSCRIBES: &[u16] = &[OK, 414, 503];
const FILTER_BUDGET: &[u16] = &[414, 416];
const RESUMES: &[u16] = &[OK, 413, 415, 503];
const RESUMES_LATE: &[u16] = &[413, 415, 503];
const LISTS: &[u16] = &[OK, 503];
const AUTHENTICATES: &[u16] = &[402, 403];

/// A number of symbols above `gateway.max_symbols`, and a number of texts of which two lists exceed
/// `gateway.max_filter_bytes`.
const MANY_SYMBOLS: usize = 501;
const MANY_TEXTS: usize = 1_000;

/// How far a position is beyond the end: further than `gateway.replay_range`.
const FAR: u64 = 10_000_000;

/// What a stranger does: it sends a frame that gets certain answers, or ends the connection.
#[derive(Debug)]
pub(super) enum StrangerAction {
    /// A frame whose answer has its id.
    WithId { text: String, codes: &'static [u16] },
    /// A frame whose error has no id.
    WithoutId(ClientMessage, u16),
    /// A violation of the WebSocket protocol, or a message that is too large for it.
    Breach(CloseCode),
    /// The stranger ends the connection without a close frame.
    Leave,
}

/// How often a frame is sent. Frames that are cheap and allowed are sent as a flood.
pub(super) fn times(kind: u8, times: u8) -> u32 {
    match kind {
        0..=3 => u32::from(times) * 10,
        6 | 7 => 1,
        _ => u32::from(times),
    }
}

/// The frame of a kind. `at` is a position that the stranger got. `is_subscribed` says whether a resume comes too late.
pub(super) fn frame(kind: u8, id: u64, at: &Position, is_subscribed: bool) -> StrangerAction {
    let named = |frame: Value, codes| {
        let mut frame = frame;
        frame["id"] = json!(id);
        StrangerAction::WithId { text: frame.to_string(), codes }
    };
    let raw = |text: &'static str| StrangerAction::WithoutId(ClientMessage::Frame(text.into()), BAD_FRAME);
    let filter = |filter: Value| json!({ "action": "subscribe", "name": "strange", "filter": filter });
    let resume = |position: &Position| {
        let subscriptions = json!({ "strange": { "filter": { "symbols": ["S0"] } } });
        json!({ "action": "resume", "position": position.to_string(), "subscriptions": subscriptions })
    };
    let resumes = if is_subscribed { RESUMES_LATE } else { RESUMES };
    let later = |by| Position { epoch_id: EpochId(at.epoch_id.0.wrapping_add(by)), seqs: at.seqs.clone() };
    let far = Position { seqs: at.seqs.iter().map(|seq| Seq(seq.0 + FAR)).collect(), ..at.clone() };
    let other_layout = Position { seqs: [&at.seqs[..], &[Seq(0)]].concat(), ..at.clone() };
    match kind {
        0 => named(json!({ "action": "ping" }), &[OK]),
        1 => named(json!({ "action": "list" }), LISTS),
        2 | 3 => named(json!({ "action": "subscribe", "name": format!("n{id}") }), SUBSCRIBES),
        4 => StrangerAction::Breach([CloseCode::ProtocolError, CloseCode::NotUtf8, CloseCode::TooBig][id as usize % 3]),
        5 => StrangerAction::Leave,
        6 => {
            let symbols: Vec<String> = (0..MANY_SYMBOLS).map(|number| format!("X{number}")).collect();
            named(filter(json!({ "symbols": symbols })), SYMBOL_LIMIT)
        }
        7 => {
            let texts: Vec<String> = (0..MANY_TEXTS).map(|number| format!("{number:0>60}")).collect();
            named(filter(json!({ "patterns": texts, "rooms": texts })), FILTER_BUDGET)
        }
        8 => StrangerAction::WithoutId(ClientMessage::TooLarge, FRAME_TOO_LARGE),
        9 => StrangerAction::WithoutId(ClientMessage::WrongType, BAD_FRAME),
        10 => raw("{\"action\":"),
        11 => raw("[{\"action\":\"ping\"}]"),
        12 => raw("{\"action\":\"ping\",\"action\":\"list\"}"),
        13 => raw(""),
        14 => named(json!({ "action": "explode" }), UNKNOWN_ACTION),
        15 => named(json!({ "action": 7 }), UNKNOWN_ACTION),
        16 => named(json!({ "action": "ping", "name": "x" }), BAD_FIELD),
        17 => named(json!({ "action": "subscribe", "name": "*" }), BAD_FIELD),
        18 => named(json!({ "action": "subscribe", "window_ms": 1_001 }), BAD_FIELD),
        19 => named(json!({ "action": "subscribe", "max_events_per_hour": 0 }), BAD_FIELD),
        20 => named(json!({ "action": "subscribe", "since": "yesterday" }), BAD_FIELD),
        21 => named(filter(json!({ "symbols": [] })), BAD_FILTER),
        22 => named(filter(json!({ "symbol": ["S0"] })), BAD_FILTER),
        23 => named(filter(json!({ "min_confidence": 2 })), BAD_FILTER),
        24 => named(json!({ "action": "unsubscribe", "name": "nobody" }), UNKNOWN_SUBSCRIPTION),
        25 => named(json!({ "action": "auth", "token": "x.y.z" }), AUTHENTICATES),
        26 => named(json!({ "action": "resume", "subscriptions": { "all": {} } }), BAD_FIELD),
        27 => named(json!({ "action": "resume", "position": "1.AAEC", "subscriptions": { "all": {} } }), BAD_FIELD),
        28 => named(resume(&other_layout), BAD_FIELD),
        // In another epoch the position need not be far.
        29 => named(resume(&far), resumes),
        30 => named(resume(&later(1)), resumes),
        31 => named(resume(&later(u64::MAX)), resumes),
        32 => named(resume(&later(u64::MAX / 2)), resumes),
        33 => {
            let mut frame = resume(at);
            frame["seen"] = json!({ "9": 1 });
            named(frame, BAD_FIELD)
        }
        34 => named(json!({ "action": "subscribe", "since": other_layout.to_string() }), BAD_FIELD),
        _ => named(resume(at), resumes),
    }
}

#[test]
fn codes_are_those_of_the_protocol() {
    let at = Position { epoch_id: EpochId(1), seqs: vec![Seq(0); 3] };
    for frame in (0..KINDS).map(|kind| frame(kind, 1, &at, false)) {
        let codes = match &frame {
            StrangerAction::WithId { codes, .. } => codes,
            StrangerAction::WithoutId(_, code) => std::slice::from_ref(code),
            StrangerAction::Breach(_) | StrangerAction::Leave => &[],
        };
        let is_known = |code: &u16| *code == OK || ErrorCode::from_code(*code).is_some();
        assert!(codes.iter().all(is_known), "{frame:?}");
    }
}
