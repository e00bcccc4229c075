//! The conditions of a rule: whether an event meets them, and if not, which one fails.

use std::fmt;

use compact_str::CompactString;

use super::field::{FieldValue, RuleField};
use crate::event::{Event, Priority};
use crate::filter::long_values::LongValues;
use crate::filter::scalar::{Number, Scalar};
use crate::hint::quoted;

/// A condition on an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RuleCondition {
    /// The field passes every operator.
    Field(RuleField, Vec<Operator>),
    /// All of these hold.
    All(Vec<RuleCondition>),
    /// At least one of these holds.
    Any(Vec<RuleCondition>),
    /// This one does not hold.
    Not(Box<RuleCondition>),
}

/// What is asked of a field. A field that is absent passes only `Exists(false)`, not even `Ne`, as in filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Eq(Scalar),
    Ne(Scalar),
    /// Sorted.
    In(Vec<Scalar>),
    Contains(Scalar),
    Prefix(CompactString),
    Min(Number),
    Max(Number),
    /// `min` of the field `priority`.
    MinPriority(Priority),
    /// `max` of the field `priority`.
    MaxPriority(Priority),
    Exists(bool),
}

/// The condition that an event does not meet: "`expected`; it is `actual`".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailedCondition {
    pub(super) path: String,
    pub(super) actual: String,
    pub(super) expected: String,
}

impl RuleCondition {
    /// Whether `event` meets it. All conditions that are tested on one event share `long`.
    pub(super) fn holds<'e>(&self, event: &'e Event, long: &mut LongValues<'e>) -> bool {
        match self {
            Self::Field(field, operators) => {
                let value = field.of(event);
                operators.iter().all(|operator| operator.admits(value, event, long))
            }
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(event, long)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(event, long)),
            Self::Not(condition) => !condition.holds(event, long),
        }
    }

    /// The first condition that fails; `None` if all hold. `path` is the place of this condition in the rule.
    pub(super) fn failure(&self, event: &Event, path: &str) -> Option<FailedCondition> {
        let mut long = LongValues::default();
        match self {
            Self::Field(field, operators) => {
                let value = field.of(event);
                let failed = operators.iter().find(|operator| !operator.admits(value, event, &mut long))?;
                Some(FailedCondition {
                    path: format!("{path}.{}", failed.name()),
                    actual: found(value),
                    expected: format!("{field} must be {failed}"),
                })
            }
            Self::All(conditions) => first_failure(conditions, event, &format!("{path}.all")),
            Self::Any(_) if self.holds(event, &mut long) => None,
            Self::Any(conditions) => {
                // All of them fail, so the first one is an example.
                let first = first_failure(conditions, event, &format!("{path}.any"))?;
                let count = conditions.len();
                if count == 1 {
                    return Some(first);
                }
                let expected = format!("one of {count} conditions must hold, such as: {}", first.expected);
                Some(FailedCondition { path: format!("{path}.any"), expected, ..first })
            }
            Self::Not(condition) => condition.holds(event, &mut long).then(|| {
                let (actual, expected) = condition.unwanted(event);
                FailedCondition { path: format!("{path}.not"), actual, expected }
            }),
        }
    }

    /// What the event has where this condition holds, and what it should not have.
    fn unwanted(&self, event: &Event) -> (String, String) {
        match self {
            Self::Field(field, operators) => {
                let all: Vec<String> = operators.iter().map(ToString::to_string).collect();
                (found(field.of(event)), format!("{field} must not be {}", all.join(" and ")))
            }
            Self::All(_) | Self::Any(_) | Self::Not(_) => {
                ("met".to_owned(), "the condition must not be met".to_owned())
            }
        }
    }
}

/// The value of a field, for people.
fn found(value: Option<FieldValue<'_>>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| value.to_string())
}

/// The first failure among several conditions that all must hold; `path` is the place of their list.
pub(super) fn first_failure(conditions: &[RuleCondition], event: &Event, path: &str) -> Option<FailedCondition> {
    conditions.iter().enumerate().find_map(|(i, condition)| condition.failure(event, &format!("{path}[{i}]")))
}

impl Operator {
    /// The name in a rule.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Eq(_) => "eq",
            Self::Ne(_) => "ne",
            Self::In(_) => "in",
            Self::Contains(_) => "contains",
            Self::Prefix(_) => "prefix",
            Self::Min(_) | Self::MinPriority(_) => "min",
            Self::Max(_) | Self::MaxPriority(_) => "max",
            Self::Exists(_) => "exists",
        }
    }

    fn admits<'e>(&self, value: Option<FieldValue<'e>>, event: &Event, long: &mut LongValues<'e>) -> bool {
        if let Self::Exists(wanted) = self {
            return value.is_some() == *wanted;
        }
        let Some(value) = value else { return false };
        match self {
            Self::Eq(wanted) => value.is(wanted),
            Self::Ne(unwanted) => !value.is(unwanted),
            Self::In(wanted) => value.is_in(wanted),
            Self::Contains(part) => value.contains(part, long),
            Self::Prefix(start) => value.text().is_some_and(|text| text.starts_with(start.as_str())),
            Self::Min(least) => value.number().is_some_and(|number| number >= *least),
            Self::Max(most) => value.number().is_some_and(|number| number <= *most),
            Self::MinPriority(least) => event.priority >= *least,
            Self::MaxPriority(most) => event.priority <= *most,
            Self::Exists(_) => true,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eq(wanted) => f.write_str(&shown(wanted)),
            Self::Ne(unwanted) => write!(f, "present, and not {}", shown(unwanted)),
            Self::In(wanted) if wanted.len() > 8 => write!(f, "one of {} values", wanted.len()),
            Self::In(wanted) => {
                write!(f, "one of {}", wanted.iter().map(shown).collect::<Vec<_>>().join(", "))
            }
            Self::Contains(part) => write!(f, "a text or a list that contains {}", shown(part)),
            Self::Prefix(start) => write!(f, "a text that begins with {}", quoted(start)),
            Self::Min(least) => write!(f, "a number from {least}"),
            Self::Max(most) => write!(f, "a number up to {most}"),
            Self::MinPriority(least) => write!(f, "{least} or higher"),
            Self::MaxPriority(most) => write!(f, "{most} or lower"),
            Self::Exists(true) => f.write_str("present"),
            Self::Exists(false) => f.write_str("absent"),
        }
    }
}

fn shown(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Bool(value) => value.to_string(),
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => quoted(text),
    }
}
