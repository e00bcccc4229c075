//! The programs of `docs/clients.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use tickwire_core::protocol::codes::{CloseCode, Reconnect};

use crate::foreign::document::files;

/// What the programs say of where a gateway is and who they are, and of where NATS is.
const GATEWAY: &str = "ws://127.0.0.1:8080/v1/stream?user=ann";
const NATS: &str = "nats://127.0.0.1:4222";

/// A module that the document has for browsers, and tells users of Node to save under another name.
const RENAMED: (&str, &str) = ("follow.js", "follow.mjs");

/// The programs and modules, by the names of their files.
pub(super) struct Programs(BTreeMap<String, String>);

impl Programs {
    /// Those of the document.
    pub(super) fn read() -> Self {
        Self(files("clients.md"))
    }

    /// The names of all.
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
fn the_programs_come_back_after_a_close_as_its_code_says() {
    let of = |wanted: &[Reconnect]| -> BTreeSet<u16> {
        let codes = CloseCode::ALL.iter().filter(|code| wanted.contains(&code.reconnect()));
        codes.map(|code| code.code()).collect()
    };
    let programs = Programs::read();
    for name in ["follow.js", "session.py", "Resume.java"] {
        let program = &programs.0[name];
        // A new token would have to come from somewhere.
        assert_eq!(listed(program, "FINAL"), of(&[Reconnect::No, Reconnect::NewToken]), "{name}");
        assert_eq!(listed(program, "AFTER"), of(&[Reconnect::After]), "{name}");
    }
}
