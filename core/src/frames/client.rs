//! What a client says: one object with an `action`. Reading is strict, so that a misspelt field is told and not
//! passed over; every refusal carries the frame's id if that much could be read.

use std::fmt;
use std::ops::RangeInclusive;

use compact_str::CompactString;
use serde_json::{Value, json};

use super::{Encoding, FrameError, Id, SubscriptionName};
use crate::codes::ErrorCode;
use crate::object::{self, Object, hint, type_of};

/// The longest window a subscription may ask for, in milliseconds.
pub const MAX_WINDOW_MS: u16 = 1_000;

/// The largest quota a subscription may ask for, in events per hour.
pub const MAX_EVENTS_PER_HOUR: u32 = 1_000_000_000;

/// The actions, each with the fields that it takes beside `action` and `id`.
const ACTIONS: [(&str, &[&str]); 5] = [
    ("auth", &["token"]),
    ("subscribe", &["name", "filter", "window_ms", "max_events_per_hour"]),
    ("unsubscribe", &["name"]),
    ("list", &[]),
    ("ping", &[]),
];

/// What a client wants.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    /// To say who it is.
    Auth {
        /// The proof.
        token: Token,
    },
    /// A new subscription, or another filter for one that exists.
    Subscribe {
        /// Its name, `default` unless given.
        name: SubscriptionName,
        /// The filter as it came, for [`Filter::parse`](crate::filter::Filter::parse); an empty object unless given.
        filter: Value,
        /// The window in milliseconds, 0 to [`MAX_WINDOW_MS`].
        window_ms: Option<u16>,
        /// At most so many events in any hour.
        max_events_per_hour: Option<u32>,
    },
    /// An end to subscriptions.
    Unsubscribe {
        /// Which.
        chosen: Chosen,
    },
    /// The list of its subscriptions.
    List,
    /// An answer, to see that the connection works.
    Ping,
}

/// Which subscriptions an action is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The one of this name.
    One(SubscriptionName),
    /// All of them, written `*`.
    All,
}

/// An authentication token. It shows itself in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl ClientFrame {
    /// Reads a frame, with the id to be echoed.
    ///
    /// # Errors
    /// [`FrameError`] with the code for the client.
    pub fn parse(bytes: &[u8], encoding: Encoding) -> Result<(Option<Id>, Self), FrameError> {
        let object = match encoding {
            Encoding::Json => object::from_json(bytes),
            Encoding::MsgPack => object::from_msgpack(bytes),
        };
        let bad_frame = |message: String| FrameError { code: ErrorCode::BadFrame, message, id: None };
        let mut object = object.map_err(|e| bad_frame(e.to_string()))?;
        let id = take_id(&mut object)?;
        match read(object) {
            Ok(frame) => Ok((id, frame)),
            Err((code, message)) => Err(FrameError { code, message, id }),
        }
    }

    /// Writes the frame, as a client does.
    #[must_use]
    pub fn encode(&self, id: Option<&Id>, encoding: Encoding) -> Vec<u8> {
        let mut object = match self {
            Self::Auth { token } => json!({ "action": "auth", "token": token.0 }),
            Self::Subscribe { name, filter, window_ms, max_events_per_hour } => {
                let mut frame = json!({ "action": "subscribe", "name": name, "filter": filter });
                if let Some(window_ms) = window_ms {
                    frame["window_ms"] = json!(window_ms);
                }
                if let Some(most) = max_events_per_hour {
                    frame["max_events_per_hour"] = json!(most);
                }
                frame
            }
            Self::Unsubscribe { chosen: Chosen::One(name) } => json!({ "action": "unsubscribe", "name": name }),
            Self::Unsubscribe { chosen: Chosen::All } => json!({ "action": "unsubscribe", "name": "*" }),
            Self::List => json!({ "action": "list" }),
            Self::Ping => json!({ "action": "ping" }),
        };
        if let Some(id) = id {
            object["id"] = json!(id);
        }
        encoding.write(&object)
    }
}

type Problem = (ErrorCode, String);

fn bad_field(name: &str, problem: impl fmt::Display) -> Problem {
    (ErrorCode::BadField, format!("{name}: {problem}"))
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

fn read(mut object: Object) -> Result<ClientFrame, Problem> {
    let names = ACTIONS.map(|(name, _)| name);
    let unknown_action = |message: String| Err((ErrorCode::UnknownAction, message));
    let action = match object.remove("action") {
        Some(Value::String(action)) => action,
        Some(other) => return unknown_action(format!("action: expected text, found {}", type_of(&other))),
        None => return unknown_action(format!("action: missing; it must be one of {}", names.join(", "))),
    };
    let Some((_, fields)) = ACTIONS.into_iter().find(|(name, _)| *name == action) else {
        return unknown_action(format!("action: unknown {action:?}; {}", hint(&action, names)));
    };
    if let Some(name) = object.keys().find(|name| !fields.contains(&name.as_str())) {
        let allowed = ["action", "id"].into_iter().chain(fields.iter().copied());
        return Err(bad_field(name, format_args!("unknown field of {action:?}; {}", hint(name, allowed))));
    }
    let mut take = |name| object.remove(name).filter(|value| !value.is_null());
    Ok(match action.as_str() {
        "auth" => ClientFrame::Auth { token: token(take("token"))? },
        "subscribe" => ClientFrame::Subscribe {
            name: match text("name", take("name"))? {
                Some(text) => SubscriptionName::new(&text).map_err(|e| bad_field("name", e))?,
                None => SubscriptionName::default(),
            },
            filter: take("filter").unwrap_or_else(|| Value::Object(Object::new())),
            window_ms: take("window_ms").map(|value| whole("window_ms", &value, 0..=MAX_WINDOW_MS)).transpose()?,
            max_events_per_hour: take("max_events_per_hour")
                .map(|value| whole("max_events_per_hour", &value, 1..=MAX_EVENTS_PER_HOUR))
                .transpose()?,
        },
        "unsubscribe" => ClientFrame::Unsubscribe {
            chosen: match text("name", take("name"))?.as_deref() {
                Some("*") => Chosen::All,
                Some(text) => Chosen::One(SubscriptionName::new(text).map_err(|e| bad_field("name", e))?),
                None => Chosen::One(SubscriptionName::default()),
            },
        },
        "list" => ClientFrame::List,
        _ => ClientFrame::Ping,
    })
}

fn text(name: &str, value: Option<Value>) -> Result<Option<String>, Problem> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(bad_field(name, format_args!("expected text, found {}", type_of(&other)))),
    }
}

fn token(value: Option<Value>) -> Result<Token, Problem> {
    let token = text("token", value)?.filter(|token| !token.is_empty());
    token.map(Token).ok_or_else(|| bad_field("token", "missing"))
}

fn whole<N: TryFrom<u64> + PartialOrd + fmt::Display>(
    name: &str,
    value: &Value,
    allowed: RangeInclusive<N>,
) -> Result<N, Problem> {
    let number = value.as_u64().and_then(|number| N::try_from(number).ok()).filter(|number| allowed.contains(number));
    number.ok_or_else(|| {
        bad_field(name, format_args!("expected a whole number from {} to {}", allowed.start(), allowed.end()))
    })
}
