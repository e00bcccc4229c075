//! Tests of a walk over the real files: its counts against a checked-in table, and properties of all events.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tickwire_feed::{FeedEvent, FeedKind, FeedStep, File, Tape};

const EXPECTED: &str = include_str!("counts.txt");

fn steps() -> Vec<FeedStep> {
    Tape::embedded(&File::ALL).expect("the embedded files are valid").feed().collect()
}

/// One line per file, detector and tier; for the market one per regime.
fn table(steps: &[FeedStep]) -> Vec<String> {
    let mut counts: BTreeMap<[&str; 3], usize> = BTreeMap::new();
    for step in steps {
        for event in &step.events {
            let (name, class) = match event.kind {
                FeedKind::Pattern => (text(event, "pattern"), text(event, "tier")),
                FeedKind::Market => ("market", text(event, "regime")),
            };
            *counts.entry([step.file.as_str(), name, class]).or_default() += 1;
        }
    }
    let lines = counts.into_iter();
    lines.map(|([file, name, class], count)| format!("{file:<9} {name:<17} {class:<13} {count:>4}")).collect()
}

fn text<'a>(event: &'a FeedEvent, field: &str) -> &'a str {
    event.payload[field].as_str().expect("the field is text")
}

#[test]
fn counts_match_the_table() {
    let found = table(&steps());
    let expected: Vec<&str> = EXPECTED.lines().skip(1).collect();
    let missing =
        expected.iter().filter(|line| !found.iter().any(|other| other == *line)).map(|line| format!("- {line}"));
    let surplus = found.iter().filter(|line| !expected.contains(&line.as_str())).map(|line| format!("+ {line}"));
    let differing: Vec<String> = missing.chain(surplus).collect();
    assert!(differing.is_empty(), "feed/tests/counts.txt (-) and the feed (+) differ:\n{}", differing.join("\n"));
    assert_eq!(found, expected, "the same lines in another order");
}

#[test]
fn every_walk_yields_the_same_steps() {
    let tape = Tape::embedded(&File::ALL).unwrap();
    assert_eq!(tape.feed().collect::<Vec<_>>(), tape.feed().collect::<Vec<_>>());
}

#[test]
fn walk_has_all_bars_in_time_order() {
    let tape = Tape::embedded(&File::ALL).unwrap();
    let steps: Vec<FeedStep> = tape.feed().collect();
    assert_eq!((tape.len(), tape.feed().len(), steps.len()), (2821, 2821, 2821));
    assert!(steps.is_sorted_by_key(|step| step.bar_time));
    assert_eq!(steps.iter().map(|step| step.bars).sum::<usize>(), 6 * 1258 + 1563);
}

#[test]
fn each_file_yields_the_same_alone_and_with_the_other() {
    let both = steps();
    for file in File::ALL {
        let alone: Vec<FeedStep> = Tape::embedded(&[file]).unwrap().feed().collect();
        let among: Vec<FeedStep> = both.iter().filter(|step| step.file == file).cloned().collect();
        assert_eq!(alone, among);
    }
}

#[test]
fn ids_are_unique() {
    let mut ids = BTreeSet::new();
    for event in steps().into_iter().flat_map(|step| step.events) {
        assert!(event.id.starts_with(&format!("{}:", event.key)), "{}", event.id);
        assert!(ids.insert(event.id.clone()), "{} twice", event.id);
    }
}

#[test]
fn payloads_are_complete_except_for_the_timestamp() {
    for step in steps() {
        for event in &step.events {
            let payload = &event.payload;
            assert_eq!(payload["bar_time"], step.bar_time.to_string());
            assert_eq!(payload["source"], "feed");
            assert_eq!(payload.get("timestamp"), None);
            assert!(!payload.values().any(Value::is_null), "{payload:?}");
            let confidence = match event.kind {
                FeedKind::Pattern => {
                    assert_eq!(payload["symbol"], event.key.as_str());
                    let combo = payload.contains_key("agrees_with");
                    assert_eq!(payload["tier"], if combo { "combo" } else { step.file.as_str() });
                    &payload["confidence"]
                }
                FeedKind::Market => {
                    assert_eq!((event.key.as_str(), step.file), ("US", File::Daily));
                    let risk_on = payload["risk_on_score"].as_f64().unwrap();
                    assert!((-1.0..=1.0).contains(&risk_on), "{payload:?}");
                    assert_eq!(payload["market_breadth"]["symbols"], 6);
                    &payload["regime_confidence"]
                }
            };
            assert!((0.5..=0.99).contains(&confidence.as_f64().unwrap()), "{payload:?}");
        }
    }
}

#[test]
fn volume_detectors_are_off_without_volume() {
    let steps = steps();
    let found = |file: File| -> BTreeSet<&str> {
        let events = steps.iter().filter(|step| step.file == file).flat_map(|step| &step.events);
        events.filter(|event| event.kind == FeedKind::Pattern).map(|event| text(event, "pattern")).collect()
    };
    let (daily, intraday) = (found(File::Daily), found(File::Intraday));
    assert_eq!(daily.difference(&intraday).copied().collect::<Vec<_>>(), ["BreakoutBO", "SurgeDetection"]);
    assert_eq!(intraday.difference(&daily).copied().collect::<Vec<_>>(), ["MomentumSurge", "QuickReversal"]);
    assert_eq!(daily.union(&intraday).count(), 12);
}
