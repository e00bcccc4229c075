//! The fields of an event that conditions test, without copies.

use std::cmp::Ordering;
use std::fmt;

use compact_str::CompactString;
use serde_json::Value;

use crate::event::Event;
use crate::filter::conditions::DataPath;
use crate::filter::long_values::LongValues;
use crate::filter::scalar::{Number, Scalar};
use crate::hint::quoted;
use crate::ids::Room;

/// The names of all fields but those of the data, which are `data.` and a path.
pub(super) const FIELD_NAMES: [&str; 14] = [
    "kind",
    "key",
    "id",
    "ts",
    "stored",
    "session",
    "symbol",
    "pattern",
    "tier",
    "confidence",
    "priority",
    "regime",
    "tags",
    "rooms",
];

/// What comes before the path of a field of the data.
pub(super) const DATA: &str = "data.";

/// A field of an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RuleField {
    Kind,
    Key,
    Id,
    /// In milliseconds since 1970.
    Ts,
    /// In milliseconds since 1970.
    Stored,
    Session,
    Symbol,
    Pattern,
    Tier,
    Confidence,
    Priority,
    Regime,
    Tags,
    Rooms,
    Data(DataPath),
}

impl RuleField {
    /// The field with this name, unless it is a field of the data.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "kind" => Self::Kind,
            "key" => Self::Key,
            "id" => Self::Id,
            "ts" => Self::Ts,
            "stored" => Self::Stored,
            "session" => Self::Session,
            "symbol" => Self::Symbol,
            "pattern" => Self::Pattern,
            "tier" => Self::Tier,
            "confidence" => Self::Confidence,
            "priority" => Self::Priority,
            "regime" => Self::Regime,
            "tags" => Self::Tags,
            "rooms" => Self::Rooms,
            _ => return None,
        })
    }

    /// The value of the field; `None` if it is absent. An empty list counts as absent, and so does JSON's null.
    pub(super) fn of<'e>(&self, event: &'e Event) -> Option<FieldValue<'e>> {
        match self {
            Self::Kind => Some(FieldValue::Text(event.kind.as_str())),
            Self::Key => Some(FieldValue::Text(&event.key)),
            Self::Id => Some(FieldValue::Text(&event.id)),
            Self::Ts => Some(millis(event.ts.0)),
            Self::Stored => Some(millis(event.stored.0)),
            Self::Session => event.session.map(|session| FieldValue::Text(session.as_str())),
            Self::Symbol => event.symbol.as_ref().map(|symbol| FieldValue::Text(symbol.as_str())),
            Self::Pattern => event.pattern.as_ref().map(|pattern| FieldValue::Text(pattern.as_str())),
            Self::Tier => event.tier.map(|tier| FieldValue::Text(tier.as_str())),
            Self::Confidence => {
                let number = serde_json::Number::from_f64(event.confidence?.get())?;
                Some(FieldValue::Number(Number::from(&number)))
            }
            Self::Priority => Some(FieldValue::Text(event.priority.as_str())),
            Self::Regime => event.regime.map(|regime| FieldValue::Text(regime.as_str())),
            Self::Tags => (!event.tags.is_empty()).then_some(FieldValue::Tags(&event.tags)),
            Self::Rooms => (!event.rooms.is_empty()).then_some(FieldValue::Rooms(&event.rooms)),
            Self::Data(path) => path.find(&event.data).map(FieldValue::of),
        }
    }
}

impl fmt::Display for RuleField {
    /// Writes the name, as in a rule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "kind",
            Self::Key => "key",
            Self::Id => "id",
            Self::Ts => "ts",
            Self::Stored => "stored",
            Self::Session => "session",
            Self::Symbol => "symbol",
            Self::Pattern => "pattern",
            Self::Tier => "tier",
            Self::Confidence => "confidence",
            Self::Priority => "priority",
            Self::Regime => "regime",
            Self::Tags => "tags",
            Self::Rooms => "rooms",
            Self::Data(path) => return write!(f, "{DATA}{}", path.as_str()),
        })
    }
}

fn millis(millis: i64) -> FieldValue<'static> {
    FieldValue::Number(Number::from(serde_json::Number::from(millis)))
}

/// The value of a field, borrowed from the event.
#[derive(Clone, Copy, Debug)]
pub(super) enum FieldValue<'e> {
    Bool(bool),
    Number(Number),
    Text(&'e str),
    Tags(&'e [CompactString]),
    Rooms(&'e [Room]),
    List(&'e [Value]),
    Object,
    Null,
}

impl<'e> FieldValue<'e> {
    /// The value of an entry of the data.
    pub(super) fn of(value: &'e Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(Number::from(number)),
            Value::String(text) => Self::Text(text),
            Value::Array(list) => Self::List(list),
            Value::Object(_) => Self::Object,
        }
    }

    pub(super) fn is(self, wanted: &Scalar) -> bool {
        self.compare(wanted) == Some(Ordering::Equal)
    }

    /// Whether it is one of `wanted`, which is sorted.
    pub(super) fn is_in(self, wanted: &[Scalar]) -> bool {
        // A value that is no scalar sorts after all of them, and is not found.
        let order = |scalar: &Scalar| self.compare(scalar).map_or(Ordering::Less, Ordering::reverse);
        wanted.binary_search_by(order).is_ok()
    }

    /// Whether it is a text with this part, or a list with this entry.
    pub(super) fn contains(self, part: &Scalar, long: &mut LongValues<'e>) -> bool {
        match (self, part) {
            (Self::Text(text), Scalar::Text(part)) => long.text_contains(text, part),
            // An event may have tens of thousands of tags. They are sorted.
            (Self::Tags(tags), Scalar::Text(part)) => tags.binary_search(part).is_ok(),
            (Self::Rooms(rooms), Scalar::Text(part)) => rooms.iter().any(|room| room.as_str() == part.as_str()),
            (Self::List(list), part) => long.list_contains(list, part),
            _ => false,
        }
    }

    pub(super) fn text(self) -> Option<&'e str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn number(self) -> Option<Number> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    /// Compares in the order of scalars; `None` if it is no scalar.
    pub(super) fn compare(self, other: &Scalar) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::Bool(this), Scalar::Bool(other)) => this.cmp(other),
            (Self::Number(this), Scalar::Number(other)) => this.cmp(other),
            (Self::Text(this), Scalar::Text(other)) => this.cmp(other.as_str()),
            (Self::Bool(_), Scalar::Number(_) | Scalar::Text(_)) | (Self::Number(_), Scalar::Text(_)) => Ordering::Less,
            (Self::Text(_), Scalar::Number(_) | Scalar::Bool(_)) | (Self::Number(_), Scalar::Bool(_)) => {
                Ordering::Greater
            }
            (Self::Tags(_) | Self::Rooms(_) | Self::List(_) | Self::Object | Self::Null, _) => return None,
        })
    }
}

/// The most entries of a list that are shown.
const SHOWN_ENTRIES: usize = 8;

impl fmt::Display for FieldValue<'_> {
    /// Writes the value for people. Long texts and lists are cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Tags(tags) => list(f, tags.len(), tags.iter().map(CompactString::as_str)),
            Self::Rooms(rooms) => list(f, rooms.len(), rooms.iter().map(Room::as_str)),
            Self::List(entries) => write!(f, "a list of {} entries", entries.len()),
            Self::Object => f.write_str("an object"),
            Self::Null => f.write_str("null"),
        }
    }
}

fn list<'a>(f: &mut fmt::Formatter<'_>, len: usize, names: impl Iterator<Item = &'a str>) -> fmt::Result {
    let shown: Vec<String> = names.take(SHOWN_ENTRIES).map(quoted).collect();
    let more = if len > SHOWN_ENTRIES { ", …" } else { "" };
    write!(f, "[{}{more}]", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_is_a_field() {
        for name in FIELD_NAMES {
            assert_eq!(RuleField::named(name).unwrap().to_string(), name);
        }
        assert_eq!(RuleField::named("data.x"), None);
    }

    #[test]
    fn binary_search_finds_scalars_of_every_type() {
        let mut wanted: Vec<Scalar> = ["b", "a"].map(|text| Scalar::Text(text.into())).to_vec();
        wanted.extend([Scalar::Bool(true), Scalar::Bool(false)]);
        wanted.extend([3, 1].map(|number| Scalar::Number(serde_json::Number::from(number).into())));
        wanted.sort_unstable();
        for scalar in &wanted {
            let value = serde_json::to_value(scalar).unwrap();
            assert!(FieldValue::of(&value).is_in(&wanted), "{value}");
        }
        for absent in [serde_json::json!("c"), serde_json::json!(2), serde_json::json!([1])] {
            assert!(!FieldValue::of(&absent).is_in(&wanted), "{absent}");
        }
    }
}
