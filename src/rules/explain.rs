//! Applies rules to a sample event, and explains the result in a screen of text.

use serde_json::Value;
use std::collections::BTreeSet;
use tickwire_core::event::decode::{RawMessage, decode};
use tickwire_core::event::object::{self, Object};
use tickwire_core::event::{Audience, Event, Kinds, Strategy, Timestamp, key};
use tickwire_core::ids::Seq;
use tickwire_core::rules::{Explanation, Fate, Routed, RuleOutcome, RuleRevision, RuleSet, SkippedRule};
use tickwire_node::clock::{millis, wall_clock};

use super::connection::Connection;
use super::list::ClusterRules;
use super::screen::Screen;
use super::{RulesError, TestArgs, source};

/// The most fields of the data whose change is shown.
const SHOWN_FIELDS: usize = 8;

/// The most characters of a value of the data that are shown.
const SHOWN_VALUE: usize = 60;

/// Explains what the rules do with the event of a file.
pub(super) async fn test(args: &TestArgs) -> Result<String, RulesError> {
    let payload = source::read(&args.event)?;
    let object = object::from_json(&payload)
        .map_err(|error| RulesError::NotAnEvent { path: args.event.clone(), reason: error.to_string() })?;
    let kinds = args.nats.load()?.events.taken();
    let event = sample(args, &object, &payload, &kinds)?;
    let compiled = |rules: &[Value]| RuleSet::compile(RuleRevision(0), rules, &kinds);
    let (set, skipped) = match &args.rules {
        Some(path) => compiled(&source::rules(path)?),
        None if args.defaults => compiled(&source::defaults()?),
        None => {
            let connection = Connection::open(&args.nats).await?;
            let done = connection.unless_denied(ClusterRules::read(&connection.bucket, &connection.kinds)).await;
            let ClusterRules { set, skipped, .. } = connection.close(done).await?;
            (set, skipped)
        }
    };
    Ok(explained(&set, &skipped, &event, Seq(args.seq)))
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
    let mut text = Screen::default();
    text.add(&format!("event {}", described(event)));
    text.add(&format!("{}, revision {}", source::count_of(set.rules().len()), set.revision().0));
    text.add("");
    for Explanation { rule, outcome } in set.explain(event, seq) {
        text.add(&format!("  {:<8} {rule}{}", verdict(&outcome), reason(&outcome)));
    }
    if !skipped.is_empty() {
        text.add("");
        text.add("skipped by routers:");
        source::faults(skipped).lines().for_each(|fault| text.add(fault));
    }
    text.add("");
    result(&mut text, &set.apply(event, seq), event);
    text.0
}

/// What an event is, in a few words.
fn described(event: &Event) -> String {
    let words = [
        event.pattern.as_ref().map(|pattern| pattern.as_str().to_owned()),
        event.tier.map(|tier| tier.as_str().to_owned()),
        event.regime.map(|regime| regime.as_str().to_owned()),
        event.confidence.map(|confidence| format!("confidence {}", confidence.get())),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    let words = if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) };
    format!("{} {}{words}", event.kind, event.key)
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
        RuleOutcome::Failed { path, actual, expected } => format!(": {path}: {expected}; it is {actual}"),
    }
}

/// Where the event goes, and what is changed in it.
fn result(text: &mut Screen, routed: &Routed<'_>, event: &Event) {
    let last = routed.rules().last().map(|rule| rule.id.as_str()).unwrap_or_default();
    match routed.fate {
        Fate::Dropped(_) => return text.add(&format!("goes nowhere: {last} drops it")),
        Fate::SampledOut(_) => return text.add(&format!("goes nowhere: the sample of {last} does not keep it")),
        Fate::Kept => {}
    }
    let mut changed = event.clone();
    routed.change(&mut changed);
    text.add(&format!("goes to {}", target(routed, event)));
    let by = routed.strategy_rule().map(|rule| format!(", by {}", rule.id)).unwrap_or_default();
    text.field("strategy", &format!("{}{by}", routed.strategy));
    text.field("audience", &audience(&event.audience));
    text.field("gateways", &gateways(routed.strategy, &event.audience));
    text.change("priority", &event.priority.to_string(), &changed.priority.to_string());
    text.change("tags", &list(&event.tags), &list(&changed.tags));
    text.change("rooms", &list(&event.rooms), &list(&changed.rooms));
    let ttl = routed.ttl_ms.map_or_else(|| "none".to_owned(), |millis| format!("{millis} ms after it was stored"));
    text.field("ttl", &ttl);
    change_of_data(text, &event.data, &changed.data);
}

fn audience(audience: &Audience) -> String {
    match audience {
        Audience::Public => "everyone".to_owned(),
        Audience::User(user) => format!("the user {user} alone"),
    }
}

/// The gateways that routers send the event to.
fn gateways(strategy: Strategy, audience: &Audience) -> String {
    match (audience, strategy) {
        (Audience::User(user), _) => format!("the home gateway of {user}, and others with a session of {user}"),
        (Audience::Public, Strategy::Broadcast) => "all".to_owned(),
        (Audience::Public, _) => "those whose interest it matches".to_owned(),
    }
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
            None => format!("every session{whose} that has a subscription"),
        },
    }
}

fn list<T: ToString>(texts: &[T]) -> String {
    match texts {
        [] => "none".to_owned(),
        texts => texts.iter().map(T::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Adds the fields of the data that rules change.
fn change_of_data(text: &mut Screen, before: &Object, after: &Object) {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed: Vec<&String> = names.into_iter().filter(|name| before.get(*name) != after.get(*name)).collect();
    for name in changed.iter().take(SHOWN_FIELDS) {
        let [before, after] = [before, after].map(|data| data.get(*name).map_or_else(|| "absent".to_owned(), short));
        text.change(&format!("data.{name}"), &before, &after);
    }
    if let Some(more @ 1..) = changed.len().checked_sub(SHOWN_FIELDS) {
        text.field("data", &format!("{more} more changed"));
    }
}

/// A value as JSON, cut to [`SHOWN_VALUE`] characters.
fn short(value: &Value) -> String {
    let json = value.to_string();
    match json.char_indices().nth(SHOWN_VALUE) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json,
    }
}

#[cfg(test)]
mod tests;
