//! Why a rule matches an event or not.

use compact_str::CompactString;
use serde::Serialize;

use super::Rule;
use super::condition::first_failure;
use super::type_pattern::type_of_event;
use crate::event::{Event, Kind};
use crate::hint::quoted;
use crate::ids::Seq;

/// What a rule says about one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The rule's id.
    pub rule: CompactString,
    /// What it says.
    #[serde(flatten)]
    pub outcome: RuleOutcome,
}

/// What a rule says about one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum RuleOutcome {
    /// It matches.
    Matched,
    /// It matches, and its sample does not keep the event.
    SampledOut,
    /// It matches, and drops the event.
    Dropped,
    /// It is not enabled.
    Disabled,
    /// It was not asked, because an earlier rule ended the event.
    NotReached {
        /// The id of that rule.
        ended_by: CompactString,
    },
    /// It does not match: "`expected`; it is `actual`".
    Failed {
        /// The first condition that fails, such as `when.conditions[2].min`.
        path: String,
        /// What the event has there.
        actual: String,
        /// What the rule asks for, as a sentence.
        expected: String,
    },
}

/// Explains what each rule says, in order.
pub(super) fn explain(rules: &[Rule], event: &Event, seq: Seq) -> Vec<Explanation> {
    let mut ended_by: Option<&CompactString> = None;
    rules
        .iter()
        .map(|rule| {
            let outcome = match ended_by {
                _ if !rule.enabled => RuleOutcome::Disabled,
                Some(id) => RuleOutcome::NotReached { ended_by: id.clone() },
                None => outcome(rule, event, seq),
            };
            if matches!(outcome, RuleOutcome::Dropped | RuleOutcome::SampledOut) {
                ended_by = Some(&rule.id);
            }
            Explanation { rule: rule.id.clone(), outcome }
        })
        .collect()
}

fn outcome(rule: &Rule, event: &Event, seq: Seq) -> RuleOutcome {
    if let Some(failed) = failure(rule, event) {
        return failed;
    }
    match (rule.actions.drop, rule.actions.samples_out(seq)) {
        (true, _) => RuleOutcome::Dropped,
        (false, true) => RuleOutcome::SampledOut,
        (false, false) => RuleOutcome::Matched,
    }
}

/// The first condition that fails, in the order in which they are tested.
fn failure(rule: &Rule, event: &Event) -> Option<RuleOutcome> {
    let when = &rule.when;
    if let Some(kinds) = when.kinds.as_ref().filter(|kinds| !kinds.contains(&event.kind)) {
        let names: Vec<&str> = kinds.iter().map(Kind::as_str).collect();
        return Some(RuleOutcome::Failed {
            path: "when.kind".to_owned(),
            actual: quoted(event.kind.as_str()),
            expected: match names.as_slice() {
                [name] => format!("the kind must be {name}"),
                names => format!("the kind must be one of {}", names.join(", ")),
            },
        });
    }
    let event_type = type_of_event(event);
    if let Some(pattern) = when.event_type.as_ref().filter(|pattern| !pattern.matches(event_type)) {
        return Some(RuleOutcome::Failed {
            path: "when.type".to_owned(),
            actual: quoted(event_type),
            expected: format!("the type must match {pattern}"),
        });
    }
    let failed = first_failure(&when.conditions, event, "when.conditions")?;
    Some(RuleOutcome::Failed { path: failed.path, actual: failed.actual, expected: failed.expected })
}
