//! The programs of `docs/clients.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use tickwire_core::protocol::codes::{CloseCode, Reconnect};

use crate::examples::refusals;
use crate::foreign::document::files;

/// The addresses of the gateway (with the user) and of NATS in the programs.
const GATEWAY: &str = "ws://127.0.0.1:8080/v1/stream?user=ann";
const NATS: &str = "nats://127.0.0.1:4222";

/// A module of the document for browsers, which users of Node save with another name.
const RENAMED: (&str, &str) = ("follow.js", "follow.mjs");

/// The programs and modules, by file name.
pub(super) struct Programs(BTreeMap<String, String>);

impl Programs {
    /// Reads them from the document.
    pub(super) fn read() -> Self {
        Self(files("clients.md"))
    }

    /// All file names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Writes all into a folder, for a client with this name at this gateway.
    pub(super) fn write(&self, folder: &Path, gateway: SocketAddr, user: &str, nats: &str) {
        fs::create_dir(folder).unwrap();
        for (name, program) in &self.0 {
            let gateway = format!("ws://{gateway}/v1/stream?user={user}");
            let program = program.replace(GATEWAY, &gateway).replace(NATS, nats);
            if name == RENAMED.0 {
                fs::write(folder.join(RENAMED.1), &program).unwrap();
            }
            fs::write(folder.join(name), program).unwrap();
        }
    }
}

/// The numbers that a program lists on the line of this name.
fn listed(program: &str, name: &str) -> BTreeSet<u16> {
    let line = program.lines().find(|line| line.contains(&format!("{name} ="))).unwrap();
    let (_, list) = line.split_once('=').unwrap();
    list.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[test]
fn documented_programs_reconnect_as_the_close_table_says() {
    let of = |wanted: &[Reconnect]| -> BTreeSet<u16> {
        let codes = CloseCode::ALL.iter().filter(|code| wanted.contains(&code.reconnect()));
        codes.map(|code| code.code()).collect()
    };
    let programs = Programs::read();
    for name in ["follow.js", "session.py", "Resume.java"] {
        let program = &programs.0[name];
        // The programs cannot get a new token.
        assert_eq!(listed(program, "FINAL"), of(&[Reconnect::No, Reconnect::NewToken]), "{name}");
        assert_eq!(listed(program, "AFTER"), of(&[Reconnect::After]), "{name}");
        assert_eq!(listed(program, "CLOSING"), refusals(), "{name}");
    }
}
