//! Nodes write the log lines that `docs/logs.md` explains: each text is a string in the code of the nodes.

use std::fs;
use std::path::Path;

/// Where the code of the nodes is.
const FOLDERS: [&str; 4] = ["gateway/src", "node/src", "router-node/src", "src"];

/// The texts in the first column of the tables of log lines.
fn documented(document: &str) -> Vec<&str> {
    let section = document.split("\n## ").find(|section| section.starts_with("Logs\n")).unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|text| !text.is_empty()).collect()
}

/// What the code has for a documented text. A `…` stands for the rest of a string, at its beginning or its end.
fn literal(text: &str) -> String {
    match (text.strip_prefix('…'), text.strip_suffix('…')) {
        (Some(end), _) => format!("{end}\""),
        (None, Some(beginning)) => format!("\"{beginning}"),
        (None, None) => format!("\"{text}\""),
    }
}

/// Adds the code of a folder, without the unit tests at the end of a file.
fn add_code(folder: &Path, code: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_code(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = fs::read_to_string(&path).unwrap();
            code.push_str(file.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
        }
    }
}

#[test]
fn documented_log_lines_are_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/logs.md")).unwrap();
    let mut code = String::new();
    for folder in FOLDERS {
        add_code(&root.join(folder), &mut code);
    }
    let texts = documented(&document);
    assert!(texts.contains(&"session opened") && texts.contains(&"… for reading"), "both tables: {texts:?}");
    let missing: Vec<_> = texts.into_iter().filter(|text| !code.contains(&literal(text))).collect();
    assert!(missing.is_empty(), "no node logs {missing:?}");
}
