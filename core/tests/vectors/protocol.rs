//! The documentation of the protocol shows what the vectors and the tables of codes say.

use std::collections::BTreeSet;

use crate::client_frames::ClientFrames;
use crate::read::{file, vectors};
use crate::server_frames::ServerFrames;

/// Every line of the protocol's documentation that shows a frame is a line of the vectors.
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
    assert_eq!(table.trim(), tickwire_core::codes::markdown().trim());
}
