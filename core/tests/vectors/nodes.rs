//! Vectors of the messages between nodes and of positions, byte by byte. `other_crates.json` has the messages that
//! other crates define; these crates test them.

use bytes::Bytes;
use serde::Deserialize;
use tickwire_core::alerts::{AlertsAnswer, AlertsRequest};
use tickwire_core::context::MarketRecord;
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
use tickwire_testkit::MessageVector;

use crate::read::{from_hex, vectors};

#[derive(Deserialize)]
struct NodeVectors {
    messages: Vec<MessageVector>,
    positions: Vec<PositionVector>,
    bad_positions: Vec<String>,
}

#[derive(Deserialize)]
struct PositionVector {
    epoch_id: u64,
    seqs: Vec<u64>,
    text: String,
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
fn messages_between_nodes_are_encoded_as_documented_and_read_with_further_fields() {
    for vector in vectors::<NodeVectors>("nodes.json").messages {
        match vector.message.as_str() {
            "batch" => vector.check::<Batch<Bytes>>(),
            "event" => vector.check::<Event>(),
            "delta" => vector.check::<Delta>(),
            "snapshot_part" => vector.check::<SnapshotPart>(),
            "interest_beat" => vector.check::<InterestBeat>(),
            "view" => vector.check::<View>(),
            "replay_request" => vector.check::<ReplayRequest>(),
            "replay_answer" => vector.check::<ReplayAnswer<Bytes>>(),
            "alerts_request" => vector.check::<AlertsRequest>(),
            "alerts_answer" => vector.check::<AlertsAnswer<Bytes>>(),
            "bearer" => vector.check::<NodeAnnouncement>(),
            "storage_report" => vector.check::<StorageReport>(),
            "market_record" => vector.check::<MarketRecord>(),
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
