//! Patterns of event types: a glob or a regex.
//!
//! The type of an event is the name of its pattern, such as `BreakoutBO`; for an event without a pattern its kind, such
//! as `market`. It is compared as written.

use std::fmt;

use compact_str::CompactString;
use regex::{Regex, RegexBuilder};

use super::limits::{MAX_REGEX_CACHE, MAX_REGEX_COMPILED};
use crate::event::Event;

/// The type of `event`.
pub(super) fn type_of_event(event: &Event) -> &str {
    event.pattern.as_ref().map_or_else(|| event.kind.as_str(), |pattern| pattern.as_str())
}

/// Which types match. A search takes time in proportion to the length of the type.
#[derive(Clone, Debug)]
pub(super) enum TypePattern {
    /// The whole type matches: `*` stands for any characters, `?` for one character.
    Glob(CompactString),
    /// A part of the type matches.
    Regex(Regex),
}

impl TypePattern {
    /// Compiles a regex within the limits.
    pub(super) fn regex(text: &str) -> Result<Self, regex::Error> {
        let compiled =
            RegexBuilder::new(text).size_limit(MAX_REGEX_COMPILED).dfa_size_limit(MAX_REGEX_CACHE).build()?;
        Ok(Self::Regex(compiled))
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Glob(glob) => glob_matches(glob, text),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glob(glob) => write!(f, "the glob {glob:?}"),
            Self::Regex(regex) => write!(f, "the regex {:?}", regex.as_str()),
        }
    }
}

/// Matches without recursion: after a mismatch only the last `*` takes one more character, which is enough, since an
/// earlier `*` could give it nothing better. Both texts are short, so the product of their lengths bounds the steps.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (pattern, bytes) = (glob.as_bytes(), text.as_bytes());
    let char_len = |at: usize| text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < bytes.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(b'?') => {
                p += 1;
                t += char_len(t);
            }
            Some(byte) if *byte == bytes[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, from)) = star else { return false };
                let from = from + char_len(from);
                star = Some((after, from));
                (p, t) = (after, from);
            }
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(glob: &str) -> Regex {
        let escaped = regex::escape(glob).replace(r"\*", ".*").replace(r"\?", ".");
        Regex::new(&format!("^(?s:{escaped})$")).unwrap()
    }

    #[test]
    fn glob_matches_the_whole_type() {
        for (glob, text, is_match) in [
            ("BreakoutBO", "BreakoutBO", true),
            ("Breakout*", "BreakoutBO", true),
            ("Breakout*", "Breakout", true),
            ("Breakout", "BreakoutBO", false),
            ("*BO", "BreakoutBO", true),
            ("B?eakout*", "BreakoutBO", true),
            ("breakout*", "BreakoutBO", false),
            ("?", "é", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(glob_matches(glob, text), is_match, "{glob} on {text}");
        }
    }

    #[test]
    fn regex_matches_a_part_of_the_type_unless_it_is_anchored() {
        assert!(TypePattern::regex("out").unwrap().matches("BreakoutBO"));
        assert!(!TypePattern::regex("^out").unwrap().matches("BreakoutBO"));
    }

    #[test]
    fn regex_that_grows_when_compiled_is_refused() {
        assert!(matches!(TypePattern::regex(r"\w{1000}"), Err(regex::Error::CompiledTooBig(_))));
    }

    proptest! {
        #[test]
        fn glob_agrees_with_a_regex(glob in "[ab*?é]{0,8}", text in "[abé]{0,8}") {
            prop_assert_eq!(glob_matches(&glob, &text), naive(&glob).is_match(&text), "{} on {}", glob, text);
        }
    }
}
