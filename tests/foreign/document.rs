//! The files in our documents: each code block whose fence has a file name, such as "```js ws.mjs".

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The files of a document, by name.
pub(super) fn files(document: &str) -> BTreeMap<String, String> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    blocks(&fs::read_to_string(document).unwrap())
}

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
fn blocks_with_a_file_name_are_files() {
    let text = "text\n```sh\nno\n```\n```js a.mjs\none\n\n  two\n```\n```py b.py\nthree\n```\n";
    let expected = [("a.mjs", "one\n\n  two\n"), ("b.py", "three\n")];
    assert_eq!(blocks(text), expected.map(|(name, program)| (name.to_owned(), program.to_owned())).into());
}
