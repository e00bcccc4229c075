//! Texts of strangers, before a terminal gets them: names, messages of events, and reasons of servers. A control
//! character in one of them could move the cursor, change the title of the window, or hide what is there. A line break
//! could forge a line, and a mark for the direction of writing could show the parts of a line in another order.

use std::borrow::Cow;
use std::fmt::Write;

/// The text as one line: each character that a terminal follows instead of showing it becomes a space.
pub fn in_line(text: &str) -> Cow<'_, str> {
    replaced(text, is_followed)
}

/// The same for a text of several lines, which keeps its line breaks and tabs.
pub fn in_lines(text: &str) -> Cow<'_, str> {
    replaced(text, |it| is_followed(it) && !matches!(it, '\n' | '\t'))
}

/// The same for JSON. Nothing is lost, since such characters are escaped; those below U+0020 are already.
pub fn in_json(text: &str) -> Cow<'_, str> {
    let is_wrong = |it: char| is_followed(it) && it >= ' ';
    if !text.contains(is_wrong) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for it in text.chars() {
        if is_wrong(it) {
            // Writing to a string cannot fail, and all of them are below U+10000.
            write!(escaped, "\\u{:04x}", u32::from(it)).unwrap_or_default();
        } else {
            escaped.push(it);
        }
    }
    Cow::Owned(escaped)
}

fn replaced(text: &str, is_wrong: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_wrong) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|it| if is_wrong(it) { ' ' } else { it }).collect()
}

/// Whether a terminal follows a character: it is a control character, a mark for the direction of writing, or one that
/// separates lines or paragraphs.
fn is_followed(it: char) -> bool {
    it.is_control()
        || matches!(it, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const HOSTILE: &str = "a\u{1b}[2Jb\u{9b}2J\r\n\tc\u{7f}\u{202e}d\u{2066}e\u{2028}";

    #[test]
    fn nothing_that_a_terminal_follows_stays_in_a_line() {
        assert_eq!(in_line(HOSTILE), "a [2Jb 2J   c  d e ");
        assert_eq!(in_lines(HOSTILE), "a [2Jb 2J \n\tc  d e ");
        for plain in ["", "BRK.B é 価格 🙂", "a  b"] {
            assert!(matches!(in_line(plain), Cow::Borrowed(text) if text == plain), "{plain}");
        }
    }

    #[test]
    fn json_stays_the_same_and_has_no_such_character_but_line_breaks() {
        let value = json!({ "message": HOSTILE, HOSTILE: "é 🙂" });
        for text in [value.to_string(), format!("{value:#}\n")] {
            let shown = in_json(&text);
            assert!(!shown.replace('\n', "").contains(is_followed), "{shown:?}");
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
        }
        assert!(matches!(in_json("{\n\t\"é\": 1\n}"), Cow::Borrowed(_)));
    }
}
