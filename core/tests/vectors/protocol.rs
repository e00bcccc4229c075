//! Compares the documentation of the protocol with the vectors, the tables of codes and the presets.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tickwire_core::filter::presets::{Preset, PresetRequest};
use tickwire_core::protocol::codes::{CloseCode, Reconnect};

use crate::client_frames::ClientFrames;
use crate::read::{file, vectors};
use crate::server_frames::ServerFrames;

/// Every line of the protocol's documentation with a frame is a line of the vectors.
#[test]
fn documented_frames_are_those_of_the_vectors() {
    let client: ClientFrames = vectors("client_frames.json");
    let server: ServerFrames = vectors("server_frames.json");
    let known: BTreeSet<_> = (client.accepted.into_iter().map(|case| format!("→ {}", case.json)))
        .chain(server.frames.into_iter().map(|case| format!("← {}", case.json)))
        .collect();
    let protocol = file("../docs/protocol.md");
    let shown: Vec<_> = protocol.lines().filter(|line| line.starts_with(['→', '←'])).collect();
    assert!(!shown.is_empty());
    for line in shown {
        assert!(known.contains(line), "{line}");
    }
}

#[test]
fn documented_codes_are_those_of_the_tables() {
    let protocol = file("../docs/protocol.md");
    let (_, rest) = protocol.split_once("<!-- codes -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /codes -->").unwrap();
    assert_eq!(table.trim(), tickwire_core::protocol::codes::markdown().trim());
}

#[test]
fn documented_presets_have_the_numbers_of_the_code() {
    let protocol = file("../docs/protocol.md");
    let (_, rest) = protocol.split_once("<!-- presets -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /presets -->").unwrap();
    let head = [
        "| preset | `patterns` | `tiers` | `min_confidence` | `min_priority` | `market_hours_only` | `max_events_per_hour` |",
        "|---|---|---|---|---|---|---|",
    ];
    let rows = head.map(str::to_owned).into_iter().chain(Preset::ALL.into_iter().map(preset_row));
    assert_eq!(table.lines().collect::<Vec<_>>(), rows.collect::<Vec<_>>());
}

fn preset_row(preset: Preset) -> String {
    let of_client = json!(["of the client"]);
    let patterns = (preset == Preset::Specific).then_some(&of_client);
    let filter = json!(PresetRequest::new(preset, None, patterns).unwrap().filter());
    let list = |field: &str| match &filter[field] {
        list if *list == of_client => "those that the client names".to_owned(),
        Value::Array(names) => {
            names.iter().map(|name| format!("`{}`", name.as_str().unwrap())).collect::<Vec<_>>().join(", ")
        }
        _ => "any".to_owned(),
    };
    let hours = if filter["market_hours_only"] == true { "yes" } else { "no" };
    let quota = preset.max_events_per_hour().map_or_else(|| "no limit".to_owned(), |most| most.to_string());
    let (confidence, priority) = (&filter["min_confidence"], filter["min_priority"].as_str().unwrap());
    let lists = format!("{} | {}", list("patterns"), list("tiers"));
    format!("| `{preset}` | {lists} | {confidence} | `{priority}` | {hours} | {quota} |")
}

#[test]
fn web_page_offers_every_preset() {
    let page = file("../web/index.html");
    let (_, rest) = page.split_once("<select id=\"preset\">\n").unwrap();
    let (options, _) = rest.split_once("</select>").unwrap();
    let value = |line: &str| Some(line.trim().strip_prefix("<option value=\"")?.split_once('"')?.0.to_owned());
    let offered: Vec<_> = options.lines().filter_map(value).filter(|value| !value.is_empty()).collect();
    assert_eq!(offered, Preset::ALL.map(Preset::as_str));
}

/// The web page has a copy of the table.
#[test]
fn web_page_has_the_reconnect_table() {
    let page = file("../web/app.js");
    let (_, rest) = page.split_once("const RECONNECT = {\n").unwrap();
    let (table, _) = rest.split_once("};").unwrap();
    let expected: String =
        CloseCode::ALL.iter().map(|code| format!("  {}: \"{}\",\n", code.code(), code.reconnect().as_str())).collect();
    assert_eq!(table, expected);
}

/// Only causes that the client itself must fix are final, and the word of an operator. Time, a pause or a new session
/// fix all others.
#[test]
fn clients_reconnect_unless_they_must_fix_the_cause() {
    let words = |word| CloseCode::ALL.iter().filter(move |code| code.reconnect() == word).map(|code| code.code());
    assert_eq!(words(Reconnect::No).collect::<Vec<_>>(), [1002, 1007, 4001, 4003, 4014]);
    assert_eq!(words(Reconnect::NewToken).collect::<Vec<_>>(), [4009]);
    assert_eq!(words(Reconnect::Yes).collect::<Vec<_>>(), [4008, 4010]);
}
