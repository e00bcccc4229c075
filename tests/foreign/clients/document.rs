//! The programs of `docs/clients.md`: each block of code whose fence names a file.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

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
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
        Self(blocks(&fs::read_to_string(document).unwrap()))
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

/// The blocks that name a file, as in "```js ws.mjs".
fn blocks(text: &str) -> BTreeMap<String, String> {
    let mut blocks = BTreeMap::new();
    let mut block = None::<(String, String)>;
    for line in text.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (Some(_), Some(_)) => {
                let (name, program) = block.take().unwrap();
                assert!(name.is_empty() || blocks.insert(name, program).is_none(), "a name stands twice");
            }
            (Some((_, program)), None) => *program += &format!("{line}\n"),
            (None, Some(info)) => {
                let name = info.split_once(' ').map_or("", |(_, name)| name);
                block = Some((name.to_owned(), String::new()));
            }
            (None, None) => {}
        }
    }
    assert!(block.is_none(), "a block has no end");
    blocks
}

#[test]
fn the_blocks_that_name_a_file_are_programs() {
    let text = "text\n```sh\nno\n```\n```js a.mjs\none\n\n  two\n```\n```py b.py\nthree\n```\n";
    let expected = [("a.mjs", "one\n\n  two\n"), ("b.py", "three\n")];
    assert_eq!(blocks(text), expected.map(|(name, program)| (name.to_owned(), program.to_owned())).into());
}
