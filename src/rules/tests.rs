//! The flags of `tickwire rules`, and what needs no cluster.

use super::*;
use clap::Parser;
use serde_json::{Value, json};
use std::io::Write;
use tempfile::NamedTempFile;
use tickwire_core::event::Kinds;

use crate::cli::{Cli, Command};

fn parsed(args: &[&str]) -> Result<RulesCommand, clap::Error> {
    let cli = Cli::try_parse_from(["tickwire", "rules"].iter().chain(args))?;
    let Command::Rules { command } = cli.command else { panic!("not a rules command") };
    Ok(command)
}

fn file(rules: &Value) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    write!(file, "{rules}").unwrap();
    file
}

fn validated(rules: &Value) -> Result<String, RulesError> {
    source::validate(file(rules).path(), &Kinds::default())
}

#[test]
fn put_takes_a_file_or_the_defaults() {
    assert!(matches!(parsed(&["put", "rules.json"]).unwrap(), RulesCommand::Put(args) if !args.defaults));
    assert!(matches!(parsed(&["put", "--defaults"]).unwrap(), RulesCommand::Put(args) if args.file.is_none()));
    let expected = parsed(&["put", "rule.json", "--if-match", "0"]).unwrap();
    assert!(matches!(expected, RulesCommand::Put(args) if args.if_match == Some(0)));
    for wrong in
        [&["put"][..], &["put", "rules.json", "--defaults"], &["put", "--defaults", "--if-match", "3"], &["get"]]
    {
        assert!(parsed(wrong).is_err(), "{wrong:?}");
    }
    assert!(parsed(&["delete", "a", "--if-match", "0"]).is_err(), "a rule that exists has a revision");
    assert!(matches!(parsed(&["list", "--json"]).unwrap(), RulesCommand::List { json: true, .. }));
}

#[test]
fn one_rule_and_lists_of_rules_are_validated() {
    assert_eq!(validated(&json!({ "id": "a", "ttl_ms": 5 })).unwrap(), "1 rule, all valid\n");
    assert_eq!(validated(&json!(source::defaults().unwrap())).unwrap(), "8 rules, all valid\n");
    assert_eq!(validated(&json!([])).unwrap(), "0 rules, all valid\n", "the copy of a cluster without rules");
    let error = validated(&json!(7)).unwrap_err();
    assert!(matches!(error, RulesError::NotRules { .. }) && error.is_usage(), "{error}");
    let missing = source::validate(std::path::Path::new("/no/such/file"), &Kinds::default()).unwrap_err();
    assert!(matches!(missing, RulesError::Read { .. }) && !missing.is_usage(), "{missing}");
}

#[test]
fn rules_in_which_a_name_stands_twice_are_refused() {
    let rule = r#"{"id":"a","when":{"type":"Breakout*","type":"Doji"},"drop":true}"#;
    for text in [rule.to_owned(), format!("[{rule}]")] {
        let mut file = NamedTempFile::new().unwrap();
        write!(file, "{text}").unwrap();
        let error = source::validate(file.path(), &Kinds::default()).unwrap_err();
        let RulesError::NotRules { reason, .. } = &error else { panic!("{error}") };
        assert!(reason.contains("the name \"type\" stands twice"), "{reason}");
    }
}

#[test]
fn every_fault_is_named_with_its_rule_and_path() {
    let rules = json!([
        { "id": "a", "ttl_ms": 0 },
        { "id": "b", "when": { "conditions": [{ "field": "confidense", "min": 0.5 }] }, "drop": true },
        { "ttl_ms": 5 },
    ]);
    let error = validated(&rules).unwrap_err();
    let RulesError::Invalid { faults } = &error else { panic!("{error}") };
    let lines: Vec<&str> = faults.lines().collect();
    assert_eq!(lines.len(), 3, "{faults}");
    assert!(lines[0].starts_with("  a: ttl_ms: "), "{faults}");
    assert!(lines[1].starts_with("  b: when.conditions[0].field: "), "{faults}");
    assert!(lines[2].starts_with("  (without an id): rule: "), "{faults}");
    assert!(error.is_usage());
}

#[test]
fn examples_of_the_document_are_valid() {
    let document = include_str!("../../docs/rules.md");
    let blocks: Vec<&str> = document.split("```json\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let rule: Value = serde_json::from_str(block).unwrap();
        assert_eq!(validated(&rule).unwrap(), "1 rule, all valid\n", "{block}");
    }
}

#[tokio::test]
async fn expected_revision_is_refused_for_several_rules_before_anything_is_asked() {
    let file = file(&json!([{ "id": "a", "ttl_ms": 5 }, { "id": "b", "ttl_ms": 5 }]));
    let path = file.path().to_str().unwrap();
    let command = parsed(&["put", path, "--if-match", "3", "--nats", "nats://127.0.0.1:1"]).unwrap();
    let error = command.run().await.unwrap_err();
    assert!(matches!(error, RulesError::SeveralRules { count: 2 }), "{error}");
}
