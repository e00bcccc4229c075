//! Vectors of the messages between nodes and of positions, byte by byte.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tickwire_core::alerts::{AlertsAnswer, AlertsRequest};
use tickwire_core::coverage::section::Batch;
use tickwire_core::event::Event;
use tickwire_core::ids::{EpochId, Seq};
use tickwire_core::interest::{Delta, InterestBeat, SnapshotPart};
use tickwire_core::placement::View;
use tickwire_core::placement::duplicate_names::NodeAnnouncement;
use tickwire_core::protocol::position::{Position, PositionError};
use tickwire_core::replay::{ReplayAnswer, ReplayRequest};
use tickwire_core::storage::StorageReport;
use tickwire_core::wire::{self, WireError};

use crate::read::{from_hex, vectors};

#[derive(Deserialize)]
struct NodeVectors {
    messages: Vec<MessageVector>,
    positions: Vec<PositionVector>,
    bad_positions: Vec<String>,
}

#[derive(Deserialize)]
struct MessageVector {
    /// The type of message.
    message: String,
    /// The message as JSON, field by field.
    value: serde_json::Value,
    hex: String,
}

#[derive(Deserialize)]
struct PositionVector {
    epoch_id: u64,
    seqs: Vec<u64>,
    text: String,
}

fn check<T: DeserializeOwned + serde::Serialize>(vector: &MessageVector) {
    let bytes = from_hex(&vector.hex);
    let read: T = wire::decode(&bytes).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), vector.value, "{}", vector.message);
    assert_eq!(wire::encode(&read).unwrap(), bytes, "{}", vector.message);
}

/// Events that older routers have sent end before `context`, or before `handling`.
#[test]
fn event_without_the_last_field_is_read() {
    let vectors = vectors::<NodeVectors>("nodes.json").messages;
    let vector = vectors.iter().find(|vector| vector.message == "event").unwrap();
    for (header, absent) in [("01dc0011", "c0"), ("01dc0010", "c0c0")] {
        let shorter = vector.hex.replacen("01dc0012", header, 1);
        let bytes = from_hex(shorter.strip_suffix(absent).unwrap());
        assert_eq!(serde_json::to_value(wire::decode::<Event>(&bytes).unwrap()).unwrap(), vector.value, "{header}");
    }
}

#[test]
fn messages_between_nodes_are_encoded_as_documented() {
    for vector in vectors::<NodeVectors>("nodes.json").messages {
        match vector.message.as_str() {
            "batch" => check::<Batch<Bytes>>(&vector),
            "event" => check::<Event>(&vector),
            "delta" => check::<Delta>(&vector),
            "snapshot_part" => check::<SnapshotPart>(&vector),
            "interest_beat" => check::<InterestBeat>(&vector),
            "view" => check::<View>(&vector),
            "replay_request" => check::<ReplayRequest>(&vector),
            "replay_answer" => check::<ReplayAnswer<Bytes>>(&vector),
            "alerts_request" => check::<AlertsRequest>(&vector),
            "alerts_answer" => check::<AlertsAnswer<Bytes>>(&vector),
            "bearer" => check::<NodeAnnouncement>(&vector),
            "storage_report" => check::<StorageReport>(&vector),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn empty_malformed_and_other_version_messages_are_refused() {
    assert!(matches!(wire::decode::<View>(&[]), Err(WireError::Empty)));
    assert!(matches!(wire::decode::<View>(&[2, 0x92, 0, 0x90]), Err(WireError::Version { found: 2 })));
    assert!(matches!(wire::decode::<View>(&[1, 0xc1]), Err(WireError::Malformed(_))));
    let found = wire::decode::<ReplayRequest>(&[2, 0x96]);
    assert!(matches!(found, Err(WireError::Version { found: 2 })));
}

#[test]
fn positions_are_encoded_as_documented() {
    for vector in vectors::<NodeVectors>("nodes.json").positions {
        let position =
            Position { epoch_id: EpochId(vector.epoch_id), seqs: vector.seqs.into_iter().map(Seq).collect() };
        assert_eq!(position.to_string(), vector.text);
        assert_eq!(vector.text.parse(), Ok(position));
    }
}

#[test]
fn malformed_positions_are_refused() {
    for text in vectors::<NodeVectors>("nodes.json").bad_positions {
        assert_eq!(text.parse::<Position>(), Err(PositionError::Malformed), "{text}");
    }
    assert_eq!("Ag".parse::<Position>(), Err(PositionError::Layout { found: 2 }));
}

#[test]
fn position_with_too_many_partitions_is_refused_by_its_first_bytes() {
    let of = |partitions: usize| Position { epoch_id: EpochId(1), seqs: vec![Seq(0); partitions] }.to_string();
    assert_eq!(of(1024).parse::<Position>().unwrap().seqs.len(), 1024);
    assert_eq!(of(1025).parse::<Position>(), Err(PositionError::Partitions { found: 1025 }));
    // The bytes after the count are not decoded.
    let text = format!("{}{}", &of(49_000)[..40], "!".repeat(65_000));
    assert_eq!(text.parse::<Position>(), Err(PositionError::Partitions { found: 49_000 }));
}

proptest::proptest! {
    #[test]
    fn positions_round_trip(epoch_id: u64, seqs: Vec<u64>) {
        let position = Position { epoch_id: EpochId(epoch_id), seqs: seqs.into_iter().map(Seq).collect() };
        proptest::prop_assert_eq!(position.to_string().parse(), Ok(position));
    }

    #[test]
    fn any_text_is_parsed_as_a_position_or_refused(text in "[A-Za-z0-9_=-]{0,60}") {
        if let Ok(position) = text.parse::<Position>() {
            proptest::prop_assert_eq!(position.to_string().parse(), Ok(position));
        }
    }
}
