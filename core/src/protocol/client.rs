//! The frames of a client: one object with an `action`. Parsing is strict, so that a misspelt field is an error and not
//! ignored. An error carries the frame's id if it could be read. `filter_request` reads which events a subscription
//! wants.

mod filter_request;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use compact_str::CompactString;
use serde_json::{Value, json};

use super::{Encoding, FrameError, Id, SubscriptionName};
use crate::event::object;
use crate::event::object::Object;
use crate::hint::{bounded, clipped, found, hint, quoted, type_of};
use crate::ids::{Partition, Seq};
use crate::protocol::codes::ErrorCode;
use crate::protocol::position::Position;
use crate::protocol::since::Since;

pub use filter_request::FilterRequest;

/// The longest window a subscription may ask for, in milliseconds.
pub const MAX_WINDOW_MS: u16 = 1_000;

/// The largest quota a subscription may ask for, in events per hour.
pub const MAX_EVENTS_PER_HOUR: u32 = 1_000_000_000;

/// The actions, each with its fields besides `action` and `id`.
const ACTIONS: [(&str, &[&str]); 7] = [
    ("auth", &["token"]),
    (
        "subscribe",
        &["name", "filter", "preset", "symbols", "patterns", "window_ms", "max_events_per_hour", "alert", "since"],
    ),
    ("unsubscribe", &["name"]),
    ("resume", &["position", "seen", "subscriptions"]),
    ("ack", &["p", "seq"]),
    ("list", &[]),
    ("ping", &[]),
];

/// The fields of a subscription within `resume`.
const WANTED: &[&str] = &["filter", "preset", "symbols", "patterns", "window_ms", "max_events_per_hour", "alert"];

/// A subscription as the client requested it.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionRequest {
    /// The events that it wants; an empty filter unless given.
    pub filter: FilterRequest,
    /// The window in milliseconds, 0 to [`MAX_WINDOW_MS`].
    pub window_ms: Option<u16>,
    /// The most events in any hour; it wins over that of a preset.
    pub max_events_per_hour: Option<u32>,
    /// Whether its events are sent as alerts.
    pub alert: bool,
}

/// A frame of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    /// Authentication.
    Auth {
        /// The token.
        token: Token,
    },
    /// A new subscription, or a new filter for an existing one.
    Subscribe {
        /// Its name, `default` unless given.
        name: SubscriptionName,
        /// The filter, window and quota.
        wanted: SubscriptionRequest,
        /// Where backfill starts, if the client wants stored events too.
        since: Option<Since>,
    },
    /// Continues an earlier session, on the same or another gateway.
    Resume {
        /// The last position that the client received.
        position: Position,
        /// For each partition, the last event that it received since then, without early ones.
        seen: BTreeMap<Partition, Seq>,
        /// All subscriptions of that session, except that saved ones may be left out.
        subscriptions: BTreeMap<SubscriptionName, SubscriptionRequest>,
    },
    /// Ends subscriptions.
    Unsubscribe {
        /// The subscriptions to end.
        chosen: SubscriptionSelector,
    },
    /// Acknowledges an event of kind `alert`.
    Ack {
        /// Its partition.
        partition: Partition,
        /// Its sequence.
        seq: Seq,
    },
    /// Requests the list of subscriptions.
    List,
    /// Requests an answer, to test the connection.
    Ping,
}

/// The subscriptions that an action applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionSelector {
    /// The one with this name.
    One(SubscriptionName),
    /// All of them, written `*`.
    All,
}

/// An authentication token. Its `Debug` output hides the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl ClientFrame {
    /// Parses a frame. Returns its id for the answer, and the frame.
    ///
    /// # Errors
    /// [`FrameError`] with the code for the client.
    pub fn parse(bytes: &[u8], encoding: Encoding) -> Result<(Option<Id>, Self), FrameError> {
        let object = match encoding {
            Encoding::Json => object::from_json(bytes),
            Encoding::MsgPack => object::from_msgpack(bytes),
        };
        let object = object.map_err(|error| format!("{error}{}", bare_word(bytes)));
        let mut object =
            object.map_err(|text| FrameError { code: ErrorCode::BadFrame, message: bounded(text), id: None })?;
        let id = take_id(&mut object)?;
        match read(object) {
            Ok(frame) => Ok((id, frame)),
            Err((code, message)) => Err(FrameError { code, message: bounded(message), id }),
        }
    }

    /// Encodes the frame, for clients.
    #[must_use]
    pub fn encode(&self, id: Option<&Id>, encoding: Encoding) -> Vec<u8> {
        let mut object = match self {
            Self::Auth { token } => json!({ "action": "auth", "token": token.0 }),
            Self::Subscribe { name, wanted, since } => {
                let mut frame = wanted.to_json();
                frame["action"] = json!("subscribe");
                frame["name"] = json!(name);
                if let Some(since) = since {
                    frame["since"] = json!(since.to_string());
                }
                frame
            }
            Self::Resume { position, seen, subscriptions } => {
                let subscriptions: Object =
                    subscriptions.iter().map(|(name, wanted)| (name.as_str().to_owned(), wanted.to_json())).collect();
                let seen: Object = seen.iter().map(|(p, seq)| (p.to_string(), json!(seq))).collect();
                let position = position.to_string();
                json!({ "action": "resume", "position": position, "seen": seen, "subscriptions": subscriptions })
            }
            Self::Unsubscribe { chosen: SubscriptionSelector::One(name) } => {
                json!({ "action": "unsubscribe", "name": name })
            }
            Self::Unsubscribe { chosen: SubscriptionSelector::All } => json!({ "action": "unsubscribe", "name": "*" }),
            Self::Ack { partition, seq } => json!({ "action": "ack", "p": partition, "seq": seq }),
            Self::List => json!({ "action": "list" }),
            Self::Ping => json!({ "action": "ping" }),
        };
        if let Some(id) = id {
            object["id"] = json!(id);
        }
        encoding.write(&object)
    }
}

impl SubscriptionRequest {
    /// Reads the fields of a subscription, as they are within `resume`.
    ///
    /// # Errors
    /// [`FrameError`] for the first wrong field.
    pub fn read(fields: Object) -> Result<Self, FrameError> {
        within_resume(fields).map_err(|(code, message)| FrameError { code, message: bounded(message), id: None })
    }

    /// The most events in any hour that it asks for, itself or by its preset.
    #[must_use]
    pub fn quota(&self) -> Option<u32> {
        self.max_events_per_hour.or_else(|| self.filter.max_events_per_hour())
    }

    /// An object with the fields that [`read`](Self::read) takes.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut to_json = self.filter.to_json();
        if let Some(window_ms) = self.window_ms {
            to_json["window_ms"] = json!(window_ms);
        }
        if let Some(most) = self.max_events_per_hour {
            to_json["max_events_per_hour"] = json!(most);
        }
        if self.alert {
            to_json["alert"] = json!(true);
        }
        to_json
    }
}

type FrameProblem = (ErrorCode, String);

fn bad_field(name: &str, problem: impl fmt::Display) -> FrameProblem {
    (ErrorCode::BadField, format!("{}: {problem}", clipped(name)))
}

/// The hint for a frame that is only the name of an action, such as `ping`, quoted or not.
fn bare_word(bytes: &[u8]) -> String {
    // A short MessagePack text begins with its length.
    let bytes = match bytes {
        [first @ 0xa0..=0xbf, text @ ..] if usize::from(first & 0x1f) == text.len() => text,
        _ => bytes,
    };
    let text = str::from_utf8(bytes).unwrap_or_default();
    let word = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '"' || c == '\'');
    let known = ACTIONS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    known.map_or_else(String::new, |(name, _)| format!("; write it as {{\"action\":\"{name}\"}}"))
}

fn take_id(object: &mut Object) -> Result<Option<Id>, FrameError> {
    match object.remove("id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(Id::Number(number))),
        Some(Value::String(text)) if text.len() <= Id::MAX_TEXT => Ok(Some(Id::Text(CompactString::from(text)))),
        Some(_) => {
            let message = format!("id: expected a number or a text of at most {} bytes", Id::MAX_TEXT);
            Err(FrameError { code: ErrorCode::BadField, message, id: None })
        }
    }
}

fn read(mut object: Object) -> Result<ClientFrame, FrameProblem> {
    let names = ACTIONS.map(|(name, _)| name);
    let unknown_action = |message: String| Err((ErrorCode::UnknownAction, message));
    let action = match object.remove("action") {
        Some(Value::String(action)) => action,
        Some(other) => return unknown_action(format!("action: expected text, found {}", type_of(&other))),
        None => return unknown_action(format!("action: missing; it must be one of {}", names.join(", "))),
    };
    let Some((_, fields)) = ACTIONS.into_iter().find(|(name, _)| *name == action) else {
        return unknown_action(format!("action: unknown {}; {}", quoted(&action), hint(&action, names)));
    };
    if let Some(name) = object.keys().find(|name| !fields.contains(&name.as_str())) {
        let allowed = ["action", "id"].into_iter().chain(fields.iter().copied());
        return Err(bad_field(name, format_args!("unknown field of {action:?}; {}", hint(name, allowed))));
    }
    let mut take = |name: &str| object.remove(name).filter(|value| !value.is_null());
    Ok(match action.as_str() {
        "auth" => ClientFrame::Auth { token: token(take("token"))? },
        "subscribe" => ClientFrame::Subscribe {
            name: match text("name", take("name"))? {
                Some(text) => SubscriptionName::new(&text).map_err(|e| bad_field("name", e))?,
                None => SubscriptionName::default(),
            },
            since: take("since").map(|value| Since::read(&value)).transpose().map_err(|e| bad_field("since", e))?,
            wanted: wanted(&mut take)?,
        },
        "resume" => ClientFrame::Resume {
            position: match text("position", take("position"))? {
                Some(text) => text.parse().map_err(|e| bad_field("position", e))?,
                None => return Err(bad_field("position", "missing; use `subscribe` if you have no position")),
            },
            seen: seen(take("seen"))?,
            subscriptions: subscriptions(take("subscriptions"))?,
        },
        "unsubscribe" => ClientFrame::Unsubscribe {
            chosen: match text("name", take("name"))?.as_deref() {
                Some("*") => SubscriptionSelector::All,
                Some(text) => SubscriptionSelector::One(SubscriptionName::new(text).map_err(|e| bad_field("name", e))?),
                None => SubscriptionSelector::One(SubscriptionName::default()),
            },
        },
        "ack" => ClientFrame::Ack {
            partition: Partition(whole_number("p", &required("p", take("p"))?, 0..=u16::MAX)?),
            seq: Seq(whole_number("seq", &required("seq", take("seq"))?, 1..=u64::MAX)?),
        },
        "list" => ClientFrame::List,
        _ => ClientFrame::Ping,
    })
}

fn wanted(take: &mut impl FnMut(&str) -> Option<Value>) -> Result<SubscriptionRequest, FrameProblem> {
    Ok(SubscriptionRequest {
        filter: FilterRequest::read(take).map_err(|error| (ErrorCode::BadField, error.to_string()))?,
        window_ms: take("window_ms").map(|value| whole_number("window_ms", &value, 0..=MAX_WINDOW_MS)).transpose()?,
        max_events_per_hour: take("max_events_per_hour")
            .map(|value| whole_number("max_events_per_hour", &value, 1..=MAX_EVENTS_PER_HOUR))
            .transpose()?,
        alert: flag("alert", take("alert"))?,
    })
}

/// Reads a subscription within `resume`.
fn within_resume(mut fields: Object) -> Result<SubscriptionRequest, FrameProblem> {
    if let Some(field) = fields.keys().find(|field| !WANTED.contains(&field.as_str())) {
        return Err(bad_field(field, format_args!("unknown; {}", hint(field, WANTED.iter().copied()))));
    }
    wanted(&mut |field: &str| fields.remove(field).filter(|value| !value.is_null()))
}

fn entries(name: &str, value: Option<Value>) -> Result<Object, FrameProblem> {
    match value {
        None => Ok(Object::new()),
        Some(Value::Object(entries)) => Ok(entries),
        Some(other) => Err(bad_field(name, format_args!("expected an object, found {}", type_of(&other)))),
    }
}

/// Reads `seen`. Only the canonical spelling of a partition's number is accepted, so no partition can occur twice.
fn seen(value: Option<Value>) -> Result<BTreeMap<Partition, Seq>, FrameProblem> {
    let mut seen = BTreeMap::new();
    for (partition, value) in entries("seen", value)? {
        let number = partition.parse::<u16>().ok().filter(|number| number.to_string() == partition);
        let number =
            number.ok_or_else(|| bad_field("seen", format_args!("{} is not a partition", quoted(&partition))))?;
        let seq = object::whole_number(&value).ok_or_else(|| {
            let expected = "expected a sequence, a whole number from 0";
            bad_field("seen", format_args!("{number}: {expected}, found {}", found(&value)))
        })?;
        seen.insert(Partition(number), Seq(seq));
    }
    Ok(seen)
}

fn subscriptions(value: Option<Value>) -> Result<BTreeMap<SubscriptionName, SubscriptionRequest>, FrameProblem> {
    let mut subscriptions = BTreeMap::new();
    for (name, value) in entries("subscriptions", value)? {
        let within = |(code, problem): FrameProblem| (code, format!("subscriptions: {}: {problem}", quoted(&name)));
        let wanted = entries("it", Some(value)).and_then(within_resume).map_err(within)?;
        let name = SubscriptionName::new(&name).map_err(|e| bad_field("subscriptions", e))?;
        subscriptions.insert(name, wanted);
    }
    Ok(subscriptions)
}

fn required(name: &str, value: Option<Value>) -> Result<Value, FrameProblem> {
    value.ok_or_else(|| bad_field(name, "missing"))
}

fn flag(name: &str, value: Option<Value>) -> Result<bool, FrameProblem> {
    match value {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => Err(bad_field(name, format_args!("expected true or false, found {}", found(&other)))),
    }
}

fn text(name: &str, value: Option<Value>) -> Result<Option<String>, FrameProblem> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(bad_field(name, format_args!("expected text, found {}", type_of(&other)))),
    }
}

fn token(value: Option<Value>) -> Result<Token, FrameProblem> {
    let token = text("token", value)?.filter(|token| !token.is_empty());
    token.map(Token).ok_or_else(|| bad_field("token", "missing"))
}

fn whole_number<N: TryFrom<u64> + PartialOrd + fmt::Display>(
    name: &str,
    value: &Value,
    allowed: RangeInclusive<N>,
) -> Result<N, FrameProblem> {
    let number = object::whole_number(value).and_then(|number| N::try_from(number).ok());
    number.filter(|number| allowed.contains(number)).ok_or_else(|| {
        let (start, end) = (allowed.start(), allowed.end());
        bad_field(name, format_args!("expected a whole number from {start} to {end}, found {}", found(value)))
    })
}
