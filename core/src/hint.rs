//! Bounded error texts about untrusted input: an error repeats at most `SHOWN` bytes of a sender's text, and searches a
//! hint only if the text is short enough to be a misspelled name.

use serde_json::Value;

/// The most bytes of a sender's text that an error repeats.
pub(crate) const SHOWN: usize = 80;

/// The longest text for which a hint is searched, in bytes. All known names are much shorter.
const MAX_HINTED: usize = 64;

/// The most bytes of names that a hint lists.
const MAX_LISTED: usize = 300;

/// The most bytes of an error's text.
pub(crate) const MAX_ERROR: usize = 600;

/// The type of a value, for an error message.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// An unexpected value, for an error message: a number is shown itself, anything else by its type.
pub(crate) fn found(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => type_of(other).to_owned(),
    }
}

/// The first bytes of a text, at most `most`, and `…` if there are more.
fn start(text: &str, most: usize) -> (&str, &'static str) {
    match text.get(..text.floor_char_boundary(most)) {
        Some(start) if start.len() < text.len() => (start, "…"),
        _ => (text, ""),
    }
}

/// A sender's text for an error message, cut to [`SHOWN`] bytes.
pub(crate) fn clipped(text: &str) -> String {
    let (start, more) = start(text, SHOWN);
    format!("{start}{more}")
}

/// A sender's text for an error message, in quotes, cut to [`SHOWN`] bytes.
pub(crate) fn quoted(text: &str) -> String {
    let (start, more) = start(text, SHOWN);
    format!("{start:?}{more}")
}

/// An error's text, cut to [`MAX_ERROR`] bytes.
pub(crate) fn bounded(mut text: String) -> String {
    if text.len() > MAX_ERROR {
        text.truncate(text.floor_char_boundary(MAX_ERROR));
        text.push('…');
    }
    text
}

/// The hint for an unknown name: the nearest known name, else a list of all.
pub(crate) fn hint<'a>(found: &str, allowed: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(name) = probably_meant(found, allowed.clone()) {
        return format!("did you mean {}?", quoted(name));
    }
    listed(allowed)
}

/// The hint for an unknown name of a short list: the nearest known name, if one is near, and the list.
pub(crate) fn hint_with_list<'a>(found: &str, allowed: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let list = listed(allowed.clone());
    match probably_meant(found, allowed) {
        Some(name) => format!("did you mean {}? {list}", quoted(name)),
        None => list,
    }
}

fn listed<'a>(allowed: impl IntoIterator<Item = &'a str>) -> String {
    let list = allowed.into_iter().collect::<Vec<_>>().join(", ");
    let (list, more) = start(&list, MAX_LISTED);
    format!("it must be one of {list}{more}")
}

/// The known name that a text was probably meant to be.
fn probably_meant<'a>(found: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if found.len() > MAX_HINTED {
        return None;
    }
    let (distance, name) = nearest(found, allowed)?;
    (distance <= 1 + name.len() / 3).then_some(name)
}

/// The known name that a text resembles most, in relation to their lengths; `None` if no name is known. The text may be
/// of any length, so it must come from a trusted source.
pub fn most_similar<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |name: &str| strsim::normalized_damerau_levenshtein(found, name);
    known.into_iter().max_by(|one, other| similarity(one).total_cmp(&similarity(other)))
}

/// The nearest of all known names, and how many edits lead to it; `None` if no name is known. Letter case does not
/// count.
fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    let found = found.to_ascii_lowercase();
    known.into_iter().map(|name| (strsim::damerau_levenshtein(&found, name), name)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_texts_and_hints_are_bounded() {
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(clipped(&"ä".repeat(50)), "ä".repeat(40) + "…");
        assert!(quoted(&"\u{10ffff}".repeat(1_000)).len() < 250);
        assert_eq!(bounded("x".repeat(MAX_ERROR)), "x".repeat(MAX_ERROR));
        assert_eq!(bounded("ä".repeat(MAX_ERROR)).len(), MAX_ERROR + "…".len());
        let names = (0..1_000).map(|i| format!("name{i}")).collect::<Vec<_>>();
        assert!(hint("colour", names.iter().map(String::as_str)).len() < 350);
    }

    #[test]
    fn no_hint_for_a_text_longer_than_any_name() {
        let long = "symbols".repeat(10);
        assert_eq!(probably_meant(&long, [long.as_str()]), None);
        assert_eq!(probably_meant(&long[..63], [&long[..63]]), Some(&long[..63]));
    }

    #[test]
    fn hint_is_the_nearest_name_or_the_whole_list_or_both() {
        let allowed = ["symbols", "tiers"];
        assert_eq!(hint("Symbol", allowed), "did you mean \"symbols\"?");
        assert_eq!(hint("colour", allowed), "it must be one of symbols, tiers");
        let both = "did you mean \"symbols\"? it must be one of symbols, tiers";
        assert_eq!(hint_with_list("Symbol", allowed), both);
        assert_eq!(hint_with_list("colour", allowed), "it must be one of symbols, tiers");
    }
}
