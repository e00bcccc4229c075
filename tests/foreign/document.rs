//! The code blocks of our documents. The fence of a block names its language, and often a file, such as "```js ws.mjs".

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A code block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CodeBlock {
    /// The heading of its section, without that of the document.
    pub(super) section: String,
    /// The first word of its fence.
    pub(super) language: String,
    /// The rest of its fence.
    pub(super) name: String,
    /// Its lines.
    pub(super) text: String,
}

/// The files of a document, by name: each block with a name.
pub(super) fn files(document: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for block in code_blocks(document).into_iter().filter(|block| !block.name.is_empty()) {
        assert!(files.insert(block.name, block.text).is_none(), "a name stands twice");
    }
    files
}

/// All blocks of a document, in order.
pub(super) fn code_blocks(document: &str) -> Vec<CodeBlock> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    blocks(&fs::read_to_string(document).unwrap())
}

fn blocks(text: &str) -> Vec<CodeBlock> {
    let (mut blocks, mut section) = (Vec::new(), String::new());
    let mut block = None::<CodeBlock>;
    for line in text.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (Some(block), None) => block.text += &format!("{line}\n"),
            (None, Some(info)) => {
                let (language, name) = info.split_once(' ').unwrap_or((info, ""));
                let [section, language, name] = [section.as_str(), language, name].map(str::to_owned);
                block = Some(CodeBlock { section, language, name, text: String::new() });
            }
            (None, None) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    section = heading.to_owned();
                }
            }
        }
    }
    assert!(block.is_none(), "a block has no end");
    blocks
}

#[test]
fn blocks_have_their_section_language_and_name() {
    let text = "# T\n```sh\nno\n```\n## S\n```js a.mjs\n## one\n\n  two\n```\n```py b.py\nthree\n```\n";
    let block = |section: &str, language: &str, name: &str, text: &str| CodeBlock {
        section: section.to_owned(),
        language: language.to_owned(),
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let expected = [
        block("", "sh", "", "no\n"),
        block("S", "js", "a.mjs", "## one\n\n  two\n"),
        block("S", "py", "b.py", "three\n"),
    ];
    assert_eq!(blocks(text), expected);
}
