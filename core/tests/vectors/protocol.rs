//! Compares the documentation of the protocol with the vectors and the tables of codes.

use std::collections::BTreeSet;

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

/// Only causes that the client itself must fix are final. Time, a pause or a new session fix all others.
#[test]
fn clients_reconnect_unless_they_must_fix_the_cause() {
    let words = |word| CloseCode::ALL.iter().filter(move |code| code.reconnect() == word).map(|code| code.code());
    assert_eq!(words(Reconnect::No).collect::<Vec<_>>(), [1002, 1007, 4001, 4003]);
    assert_eq!(words(Reconnect::NewToken).collect::<Vec<_>>(), [4009]);
    assert_eq!(words(Reconnect::Yes).collect::<Vec<_>>(), [4008, 4010]);
}
