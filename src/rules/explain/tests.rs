//! What is explained of sample events, and of those of the demo.

use super::*;
use clap::Parser;
use serde_json::json;
use std::io::Write;
use tempfile::NamedTempFile;
use tickwire_feed::{FeedEvent, File, Tape};

use crate::cli::{Cli, Command};
use crate::rules::RulesCommand;

/// A screen.
const LINES: usize = 24;
const COLUMNS: usize = 100;

/// The event of the demo in `docs/rules.md`.
const IN_DOCUMENT: &str = "GOOG:BreakoutBO:2011-01-18";

const DOCUMENT: &str = include_str!("../../../docs/rules.md");

fn parsed(args: &[&str]) -> TestArgs {
    let args = [&["tickwire", "rules", "test"][..], args].concat();
    match Cli::try_parse_from(args).unwrap().command {
        Command::Rules { command: RulesCommand::Test(args) } => args,
        _ => panic!("it is not `rules test`"),
    }
}

/// The explanation of an event under these rules.
fn explanation(rules: &[Value], args: &[&str], payload: &Value) -> String {
    let args = parsed(&[&["event.json"][..], args].concat());
    let kinds = Kinds::default();
    let payload = payload.to_string().into_bytes();
    let event = sample(&args, &object::from_json(&payload).unwrap(), &payload, &kinds).unwrap();
    let (set, skipped) = RuleSet::compile(RuleRevision(4), rules, &kinds);
    explained(&set, &skipped, &event, Seq(args.seq))
}

/// The block of the document with this fence.
fn block(fence: &str) -> &'static str {
    let (_, rest) = DOCUMENT.split_once(&format!("```{fence}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// All events of the demo.
fn demo() -> Vec<FeedEvent> {
    Tape::embedded(&File::ALL).unwrap().feed().flat_map(|step| step.events).collect()
}

#[test]
fn explanation_names_what_matched_why_not_and_what_changes() {
    let rules = [
        json!({ "id": "a", "when": { "kind": "pattern" }, "strategy": "priority_first", "add_tags": ["hot"] }),
        json!({ "id": "b", "order": 1, "when": { "conditions": [{ "field": "tier", "eq": "intraday" }] }, "drop": true }),
        json!({ "id": "c", "order": 2, "enabled": false, "ttl_ms": 5 }),
        json!({
            "id": "d", "order": 3, "ttl_ms": 500, "set_priority": "high",
            "transform": { "set": { "data.desk": "equities" }, "drop": ["data.debug"] },
        }),
    ];
    let payload = json!({
        "symbol": "AAPL", "pattern": "Doji", "tier": "daily", "confidence": 0.5, "debug": true, "price": 187.25,
    });
    let expected = "\
event pattern AAPL (Doji, daily, confidence 0.5)
4 rules, revision 4

  matches  a
  -        b: when.conditions[0].eq: tier must be \"intraday\"; it is \"daily\"
  disabled c
  matches  d

goes to sessions with a filter that it passes, before the events that wait
  strategy priority_first, by a
  audience everyone
  gateways those whose interest it matches
  priority high (was low)
  tags     hot (was none)
  rooms    none
  ttl      500 ms after it was stored
  data.debug absent (was true)
  data.desk \"equities\" (was absent)
";
    assert_eq!(explanation(&rules, &[], &payload), expected);
}

#[test]
fn explanation_of_a_dropped_event_says_by_which_rule() {
    let rules = [json!({ "id": "quiet", "drop": true }), json!({ "id": "then", "order": 1, "ttl_ms": 5 })];
    let text = explanation(&rules, &["--kind", "market", "--key", "us"], &json!({ "regime": "bull" }));
    assert!(
        text.contains("\n  drops    quiet\n  -        then: not asked, since quiet has ended the event\n"),
        "{text}"
    );
    assert!(text.ends_with("\ngoes nowhere: quiet drops it\n"), "{text}");
}

#[test]
fn broadcast_to_one_user_stays_with_the_user() {
    let rules = [json!({ "id": "all", "strategy": "broadcast" })];
    let text = explanation(&rules, &["--kind", "backtest", "--key", "ann"], &json!({ "id": "b-1" }));
    let expected = "
goes to every session of the user ann that has a subscription
  strategy broadcast, by all
  audience the user ann alone
  gateways the home gateway of ann, and others with a session of ann
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn few_and_short_changes_of_the_data_are_shown() {
    let drop: Vec<String> = (0..=SHOWN_FIELDS).map(|number| format!("data.f{number}")).collect();
    let rules = [json!({ "id": "bare", "transform": { "drop": drop } })];
    let mut payload = json!({ "symbol": "AAPL", "pattern": "Doji" });
    for number in 0..=SHOWN_FIELDS {
        payload[format!("f{number}")] = json!("x".repeat(1_000));
    }
    let text = explanation(&rules, &[], &payload);
    assert!(text.ends_with("\n  data     1 more changed\n"), "{text}");
    assert_eq!(text.matches("data.f").count(), SHOWN_FIELDS);
    assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
}

#[tokio::test]
async fn explanation_in_the_document_is_that_of_an_event_of_the_demo() {
    let found = demo().into_iter().find(|event| event.id == IN_DOCUMENT).unwrap();
    let shown: Value = serde_json::from_str(block("json event.json")).unwrap();
    assert_eq!(shown, Value::Object(found.payload));
    let mut file = NamedTempFile::new().unwrap();
    write!(file, "{shown}").unwrap();
    let text = test(&parsed(&[file.path().to_str().unwrap(), "--defaults"])).await.unwrap();
    let expected = block("console").strip_prefix("$ tickwire rules test event.json --defaults\n").unwrap();
    assert_eq!(text, expected);
}

#[test]
fn every_event_of_the_demo_is_explained_in_a_screen() {
    let rules = source::defaults().unwrap();
    let events = demo();
    assert!(events.len() > 2_000);
    for event in events {
        let args = ["--kind", event.kind.as_str(), "--key", &event.key];
        let text = explanation(&rules, &args, &Value::Object(event.payload));
        assert!(text.lines().count() <= LINES, "{}:\n{text}", event.id);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{}:\n{text}", event.id);
    }
}
