//! Tables of documents that are written from the code. A test compares each with its document.

use std::path::Path;
use std::{env, fs};

/// The variable that makes [`assert_table`] write a table that differs.
const WRITE: &str = "TICKWIRE_WRITE_DOCS";

/// Fails unless the table under this heading of the Markdown document has these rows, in this order. If the variable
/// `TICKWIRE_WRITE_DOCS` is set, it writes them instead.
///
/// # Panics
/// When the rows differ, or the document has no table there, or cannot be read or written.
pub fn assert_table(document: &Path, heading: &str, rows: &str) {
    let text = fs::read_to_string(document).expect("the document can be read");
    let Some((before, found, after)) = table(&text, heading) else {
        panic!("{} has no table under `## {heading}`", document.display());
    };
    if found == rows {
        return;
    }
    if env::var_os(WRITE).is_some() {
        return fs::write(document, [before, rows, after].concat()).expect("the document can be written");
    }
    let differs = rows.lines().zip(found.lines()).find(|(row, found)| row != found);
    panic!("{} differs under `## {heading}`, {WRITE}=1 writes it: {differs:?}", document.display());
}

/// What is before the rows of the first table under a heading, the rows, and what is after them.
fn table<'a>(text: &'a str, heading: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let section = text.find(&format!("\n## {heading}\n"))?;
    let rule = section + text[section..].find("\n|---")? + 1;
    let begin = rule + text[rule..].find('\n')? + 1;
    let (before, rest) = text.split_at(begin);
    let length = rest.split_inclusive('\n').take_while(|line| line.starts_with('|')).map(str::len).sum();
    let (rows, after) = rest.split_at(length);
    Some((before, rows, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_between_what_is_around_them() {
        let text = "# M\n\n## A\n\n| m |\n|---|---|\n| 1 |\n| 2 |\n\n## B\n";
        let (before, rows, after) = table(text, "A").unwrap();
        assert!(before.ends_with("\n|---|---|\n"));
        assert_eq!((rows, after), ("| 1 |\n| 2 |\n", "\n## B\n"));
        assert_eq!(table(text, "B"), None);
    }
}
