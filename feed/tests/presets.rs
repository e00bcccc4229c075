//! Tests of the presets on one walk over the real files: how many events each one passes, against a checked-in table.
//!
//! Here an event happens at the time of its bar, so intraday events lie within market hours. `tickwire feed` gives events
//! the current time instead, and then `intraday_scalping` passes some only while the exchange is open.

use serde_json::{Value, json};
use tickwire_core::event::decode::{RawMessage, decode};
use tickwire_core::event::{Event, Kinds, Tier, Timestamp, key};
use tickwire_core::filter::presets::{Preset, PresetRequest};
use tickwire_core::ids::Seq;
use tickwire_feed::{FeedEvent, File, Tape};

const EXPECTED: &str = include_str!("presets.txt");

/// The patterns for `specific`.
const PATTERNS: [&str; 2] = ["BreakoutBO", "Hammer"];

fn events() -> Vec<Event> {
    let tape = Tape::embedded(&File::ALL).expect("the embedded files are valid");
    tape.feed().flat_map(|step| step.events).map(decoded).collect()
}

/// The event as a router decodes it, with the time of its bar.
fn decoded(event: FeedEvent) -> Event {
    let key_token = key::encode(&event.key);
    let mut payload = event.payload;
    let bar_time = payload["bar_time"].clone();
    payload.insert("timestamp".to_owned(), bar_time);
    let payload = Value::Object(payload).to_string();
    let raw = RawMessage {
        kind_token: event.kind.as_str(),
        key_token: &key_token,
        content_type: None,
        msg_id: Some(&event.id),
        payload: payload.as_bytes(),
        stream: "EVENTS",
        seq: Seq(1),
        stored: Timestamp(0),
    };
    decode(&raw, &Kinds::default()).expect("the feed's events are valid")
}

/// One line per preset: the events that pass, by tier and in all.
fn table(events: &[Event]) -> Vec<String> {
    let line = |preset: Preset| {
        let patterns = (preset == Preset::Specific).then(|| json!(PATTERNS));
        let request = PresetRequest::new(preset, None, patterns.as_ref()).expect("the lists are valid");
        let filter = request.filter();
        let passed: Vec<&Event> = events.iter().filter(|event| filter.matches(event)).collect();
        let of = |tier: Tier| passed.iter().filter(|event| event.tier == Some(tier)).count();
        let [daily, intraday, combo] = [Tier::Daily, Tier::Intraday, Tier::Combo].map(of);
        format!("{:<17} {daily:>5} {intraday:>8} {combo:>5} {:>5}", preset.as_str(), passed.len())
    };
    Preset::ALL.into_iter().map(line).collect()
}

#[test]
fn each_preset_passes_the_events_of_the_table() {
    let found = table(&events());
    let expected: Vec<&str> = EXPECTED.lines().skip(1).collect();
    assert_eq!(found, expected, "feed/tests/presets.txt differs; the whole table is now:\n{}", found.join("\n"));
}
