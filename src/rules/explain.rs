//! Applies rules to a sample event, and explains the result in a screen of text.

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use tickwire_core::event::decode::{RawMessage, decode};
use tickwire_core::event::object::{self, Object};
use tickwire_core::event::{Audience, Event, Kinds, Strategy, Timestamp, key};
use tickwire_core::ids::Seq;
use tickwire_core::rules::{Explanation, Fate, Routed, RuleOutcome, RuleRevision, RuleSet, SkippedRule};
use tickwire_node::clock::{millis, wall_clock};

use super::connection::Connection;
use super::list::ClusterRules;
use super::{RulesError, TestArgs, source};

/// Explains what the rules do with the event of a file.
pub(super) async fn test(args: &TestArgs) -> Result<String, RulesError> {
    let payload = source::read(&args.event)?;
    let object = object::from_json(&payload)
        .map_err(|error| RulesError::NotAnEvent { path: args.event.clone(), reason: error.to_string() })?;
    let kinds = args.nats.load()?.events.taken();
    let event = sample(args, &object, &payload, &kinds)?;
    let (set, skipped) = match &args.rules {
        Some(path) => from_file(path, &kinds)?,
        None => {
            let connection = Connection::open(&args.nats).await?;
            let done = ClusterRules::read(&connection).await.map(|rules| (rules.set, rules.skipped));
            connection.close(done).await?
        }
    };
    Ok(explained(&set, &skipped, &event, Seq(args.seq)))
}

fn from_file(path: &Path, kinds: &Kinds) -> Result<(RuleSet, Vec<SkippedRule>), RulesError> {
    Ok(RuleSet::compile(RuleRevision(0), &source::rules(path)?, kinds))
}

/// The event, as a router would read it.
fn sample(args: &TestArgs, object: &Object, payload: &[u8], kinds: &Kinds) -> Result<Event, RulesError> {
    let key = args.key.as_deref().or_else(|| object.get("symbol").and_then(Value::as_str));
    let key_token = key::encode(key.filter(|key| !key.is_empty()).ok_or(RulesError::NoKey)?);
    let raw = RawMessage {
        kind_token: &args.kind,
        key_token: &key_token,
        content_type: None,
        msg_id: None,
        payload,
        stream: "EVENTS",
        seq: Seq(args.seq),
        stored: Timestamp(millis(wall_clock()).cast_signed()),
    };
    decode(&raw, kinds).map_err(RulesError::DeadLetter)
}

/// The whole text.
fn explained(set: &RuleSet, skipped: &[SkippedRule], event: &Event, seq: Seq) -> String {
    let audience = match &event.audience {
        Audience::Public => "everyone".to_owned(),
        Audience::User(user) => format!("the user {user} alone"),
    };
    let mut text = format!("event {} {}, for {audience}\n", event.kind, event.key);
    text += &format!("{}, revision {}\n\n", source::count_of(set.rules().len()), set.revision().0);
    for Explanation { rule, outcome } in set.explain(event, seq) {
        // Writing to a String cannot fail.
        writeln!(text, "  {:<8} {rule}{}", verdict(&outcome), reason(&outcome)).unwrap_or_default();
    }
    if !skipped.is_empty() {
        text += &format!("\nskipped by routers:\n{}\n", source::faults(skipped));
    }
    text += "\n";
    text += &result(&set.apply(event, seq), event);
    text
}

fn verdict(outcome: &RuleOutcome) -> &'static str {
    match outcome {
        RuleOutcome::Matched => "matches",
        RuleOutcome::SampledOut => "samples",
        RuleOutcome::Dropped => "drops",
        RuleOutcome::Disabled => "disabled",
        RuleOutcome::NotReached { .. } | RuleOutcome::Failed { .. } => "-",
    }
}

fn reason(outcome: &RuleOutcome) -> String {
    match outcome {
        RuleOutcome::Matched | RuleOutcome::Dropped | RuleOutcome::Disabled => String::new(),
        RuleOutcome::SampledOut => ": its sample does not keep this sequence".to_owned(),
        RuleOutcome::NotReached { ended_by } => format!(": not asked, since {ended_by} has ended the event"),
        RuleOutcome::Failed { path, actual, expected } => format!(": {path}: {expected}; the event has {actual}"),
    }
}

/// Where the event goes, and what is changed in it.
fn result(routed: &Routed<'_>, event: &Event) -> String {
    let last = routed.rules().last().map(|rule| rule.id.as_str()).unwrap_or_default();
    match routed.fate {
        Fate::Dropped(_) => return format!("goes nowhere: {last} drops it\n"),
        Fate::SampledOut(_) => return format!("goes nowhere: the sample of {last} does not keep it\n"),
        Fate::Kept => {}
    }
    let mut changed = event.clone();
    routed.change(&mut changed);
    let mut text = format!("goes to {}\n", target(routed, event));
    let mut line = |name: &str, before: String, after: String| {
        if before != after {
            writeln!(text, "  {name:<8} {after} (was {before})").unwrap_or_default();
        }
    };
    line("priority", event.priority.to_string(), changed.priority.to_string());
    line("tags", list(&event.tags), list(&changed.tags));
    line("rooms", list(&event.rooms), list(&changed.rooms));
    line("data", Value::Object(event.data.clone()).to_string(), Value::Object(changed.data).to_string());
    if let Some(ttl_ms) = routed.ttl_ms {
        writeln!(text, "  {:<8} {ttl_ms} ms", "of use").unwrap_or_default();
    }
    text
}

/// The sessions that get the event.
fn target(routed: &Routed<'_>, event: &Event) -> String {
    let whose = match &event.audience {
        Audience::Public => String::new(),
        Audience::User(user) => format!(" of the user {user}"),
    };
    let by_filter = format!("sessions{whose} with a filter that it passes");
    match routed.strategy {
        Strategy::Content => by_filter,
        Strategy::PriorityFirst => format!("{by_filter}, before the events that wait"),
        Strategy::LoadBalanced | Strategy::RoundRobin => match routed.chosen_room {
            Some(room) => format!("{by_filter}; of the rooms of its rule it is in {room} alone"),
            None => by_filter,
        },
        Strategy::Broadcast => match routed.handling().filter(|handling| !handling.rooms.is_empty()) {
            Some(handling) => format!("every session{whose} in one of the rooms {}", list(&handling.rooms)),
            None => format!("every session{whose}"),
        },
    }
}

fn list<T: ToString>(texts: &[T]) -> String {
    match texts {
        [] => "none".to_owned(),
        texts => texts.iter().map(T::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    use crate::cli::{Cli, Command};
    use crate::rules::RulesCommand;

    /// The explanation of an event under these rules.
    fn explanation(rules: &Value, args: &[&str], payload: &Value) -> String {
        let args = [&["tickwire", "rules", "test", "event.json"][..], args].concat();
        let Command::Rules { command: RulesCommand::Test(args) } = Cli::try_parse_from(args).unwrap().command else {
            panic!("it is not `rules test`")
        };
        let kinds = Kinds::default();
        let payload = payload.to_string().into_bytes();
        let event = sample(&args, &object::from_json(&payload).unwrap(), &payload, &kinds).unwrap();
        let (set, skipped) = RuleSet::compile(RuleRevision(4), rules.as_array().unwrap(), &kinds);
        explained(&set, &skipped, &event, Seq(args.seq))
    }

    #[test]
    fn explanation_names_what_matched_why_not_and_what_changes() {
        let rules = json!([
            { "id": "a", "when": { "kind": "pattern" }, "strategy": "priority_first", "add_tags": ["hot"] },
            { "id": "b", "order": 1, "when": { "conditions": [{ "field": "tier", "eq": "intraday" }] }, "drop": true },
            { "id": "c", "order": 2, "enabled": false, "ttl_ms": 5 },
            { "id": "d", "order": 3, "ttl_ms": 500, "set_priority": "high" },
        ]);
        let payload = json!({ "symbol": "AAPL", "pattern": "Doji", "tier": "daily", "confidence": 0.5 });
        let text = explanation(&rules, &[], &payload);
        assert!(text.starts_with("event pattern AAPL, for everyone\n4 rules, revision 4\n\n  matches  a\n"), "{text}");
        assert!(text.contains("\n  -        b: when.conditions[0].eq: "), "{text}");
        assert!(text.contains("\n  disabled c\n  matches  d\n"), "{text}");
        let expected = "\
goes to sessions with a filter that it passes, before the events that wait
  priority high (was low)
  tags     hot (was none)
  of use   500 ms
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn explanation_of_a_dropped_event_says_by_which_rule() {
        let rules = json!([{ "id": "quiet", "drop": true }, { "id": "then", "order": 1, "ttl_ms": 5 }]);
        let text = explanation(&rules, &["--kind", "market", "--key", "us"], &json!({ "regime": "bull" }));
        assert!(
            text.contains("\n  drops    quiet\n  -        then: not asked, since quiet has ended the event\n"),
            "{text}"
        );
        assert!(text.ends_with("\ngoes nowhere: quiet drops it\n"), "{text}");
    }

    #[test]
    fn broadcast_to_one_user_stays_with_the_user() {
        let rules = json!([{ "id": "all", "strategy": "broadcast" }]);
        let text = explanation(&rules, &["--kind", "backtest", "--key", "ann"], &json!({ "id": "b-1" }));
        assert!(text.ends_with("\ngoes to every session of the user ann\n"), "{text}");
    }
}
