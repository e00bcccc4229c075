//! The headers that make a change depend on a revision (RFC 9110, 13.1): `If-Match` and `If-None-Match`. The entity tag
//! of what a request changes is its revision, so that two writers do not overwrite each other. Pure.

use super::ApiRefusal;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use thiserror::Error;

/// What a request expects of what it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Precondition {
    if_match: Option<TagList>,
    if_none_match: Option<TagList>,
}

/// A header with one of these conditions cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "If-Match and If-None-Match must be *, or entity tags as in the ETag of an answer, such as \"7\" with the quotes"
)]
pub struct BadPrecondition;

impl BadPrecondition {
    /// The code of the refusal.
    pub const CODE: &'static str = "bad_precondition";
}

impl From<BadPrecondition> for ApiRefusal {
    fn from(error: BadPrecondition) -> Self {
        Self::bad_request(BadPrecondition::CODE, error.to_string())
    }
}

/// The value of such a header.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TagList {
    /// `*`: whatever is there.
    Any,
    /// The revisions among the tags. A tag that is no revision matches nothing.
    Revisions { strong: Vec<u64>, weak: Vec<u64> },
}

impl Precondition {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// When one of them is malformed.
    pub fn read(headers: &HeaderMap) -> Result<Self, BadPrecondition> {
        Ok(Self { if_match: list(headers, &header::IF_MATCH)?, if_none_match: list(headers, &header::IF_NONE_MATCH)? })
    }

    /// Whether the request expects nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// Whether the request may make its change. `exists` says whether there is what it changes, and `revision` is the
    /// number in its entity tag; 0 is no revision.
    #[must_use]
    pub fn admits(&self, exists: bool, revision: u64) -> bool {
        let is_one = |revisions: &[u64]| revision > 0 && revisions.contains(&revision);
        let is_matched = match &self.if_match {
            None => true,
            Some(TagList::Any) => exists,
            // Only equal strong tags are the same here (RFC 9110, 13.1.1).
            Some(TagList::Revisions { strong, .. }) => is_one(strong),
        };
        is_matched
            && match &self.if_none_match {
                None => true,
                Some(TagList::Any) => !exists,
                Some(TagList::Revisions { strong, weak }) => !is_one(strong) && !is_one(weak),
            }
    }
}

/// The header with the entity tag of a revision.
#[must_use]
pub fn entity_tag(revision: u64) -> (HeaderName, HeaderValue) {
    // Digits in quotes are always a valid value.
    let value = HeaderValue::try_from(format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"0\""));
    (header::ETAG, value)
}

/// The tags in all lines of a header, which are one list; `None` without the header.
fn list(headers: &HeaderMap, name: &HeaderName) -> Result<Option<TagList>, BadPrecondition> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    if let [line] = lines[..]
        && line.trim_ascii() == b"*"
    {
        return Ok(Some(TagList::Any));
    }
    let (mut strong, mut weak, mut count) = (Vec::new(), Vec::new(), 0_usize);
    for line in lines {
        let mut rest = line;
        while let Some(tag) = next_tag(&mut rest)? {
            count += 1;
            let revisions = if tag.is_weak { &mut weak } else { &mut strong };
            revisions.extend(revision(tag.opaque));
        }
    }
    if count == 0 { Err(BadPrecondition) } else { Ok(Some(TagList::Revisions { strong, weak })) }
}

/// An entity tag (RFC 9110, 8.8.3), without its quotes.
struct EntityTag<'h> {
    opaque: &'h [u8],
    is_weak: bool,
}

/// Takes the next tag of a list from its text; `None` at the end. Elements of a list may be empty (RFC 9110, 5.6.1).
fn next_tag<'h>(rest: &mut &'h [u8]) -> Result<Option<EntityTag<'h>>, BadPrecondition> {
    let mut text = rest.trim_ascii_start();
    while let [b',', after @ ..] = text {
        text = after.trim_ascii_start();
    }
    if text.is_empty() {
        *rest = text;
        return Ok(None);
    }
    let (is_weak, quoted) = match text {
        [b'W', b'/', quoted @ ..] => (true, quoted),
        quoted => (false, quoted),
    };
    let [b'"', inside @ ..] = quoted else { return Err(BadPrecondition) };
    let end = inside.iter().position(|byte| *byte == b'"').ok_or(BadPrecondition)?;
    let (opaque, after) = (&inside[..end], inside[end + 1..].trim_ascii_start());
    if !opaque.iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..)) || !matches!(after, [] | [b',', ..]) {
        return Err(BadPrecondition);
    }
    *rest = after;
    Ok(Some(EntityTag { opaque, is_weak }))
}

/// The revision that a tag names, if it is spelled as [`entity_tag`] spells it.
fn revision(opaque: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(opaque).ok()?;
    let revision: u64 = text.parse().ok()?;
    (revision > 0 && revision.to_string() == text).then_some(revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::{IF_MATCH as IS, IF_NONE_MATCH as IS_NOT};

    fn read(sent: &[(HeaderName, &str)]) -> Result<Precondition, BadPrecondition> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Precondition::read(&headers)
    }

    /// Whether the headers admit a change of what is not there, and of what has the revision 7 and 8.
    fn admits(sent: &[(HeaderName, &str)]) -> [bool; 3] {
        let precondition = read(sent).unwrap();
        assert_eq!(precondition.is_none(), sent.is_empty());
        [precondition.admits(false, 0), precondition.admits(true, 7), precondition.admits(true, 8)]
    }

    #[test]
    fn request_without_conditions_may_change_anything() {
        assert_eq!(admits(&[]), [true, true, true]);
    }

    #[test]
    fn if_match_asks_for_one_of_its_revisions_or_for_any() {
        assert_eq!(admits(&[(IS, "*")]), [false, true, true]);
        assert_eq!(admits(&[(IS, "\"7\"")]), [false, true, false]);
        assert_eq!(admits(&[(IS, " \"6\" ,, \"8\",")]), [false, false, true]);
        assert_eq!(admits(&[(IS, "\"7\""), (IS, "\"8\"")]), [false, true, true]);
    }

    #[test]
    fn if_none_match_asks_for_none_of_its_revisions_or_for_nothing() {
        assert_eq!(admits(&[(IS_NOT, "*")]), [true, false, false]);
        assert_eq!(admits(&[(IS_NOT, "\"7\"")]), [true, false, true]);
        assert_eq!(admits(&[(IS, "\"7\", \"8\""), (IS_NOT, "\"8\"")]), [false, true, false]);
        assert_eq!(admits(&[(IS, "*"), (IS_NOT, "*")]), [false, false, false]);
    }

    #[test]
    fn weak_tag_matches_only_for_if_none_match() {
        assert_eq!(admits(&[(IS, "W/\"7\"")]), [false, false, false]);
        assert_eq!(admits(&[(IS_NOT, "W/\"7\"")]), [true, false, true]);
    }

    #[test]
    fn tag_that_is_no_revision_matches_nothing() {
        for foreign in ["\"\"", "\"a,b\"", "\"07\"", "\"+7\"", "\"0\"", "\"99999999999999999999\"", "\"\u{fc}\""] {
            assert_eq!(admits(&[(IS, foreign)]), [false, false, false], "{foreign}");
            assert_eq!(admits(&[(IS_NOT, foreign)]), [true, true, true], "{foreign}");
        }
    }

    #[test]
    fn malformed_conditions_are_refused() {
        let malformed =
            ["7", "'7'", "\"7", "7\"", "\"7\"8", "\"7\" \"8\"", "w/\"7\"", "W/7", "\"a b\"", "*, \"7\"", "**", "", ","];
        for text in malformed {
            assert_eq!(read(&[(IS, text)]), Err(BadPrecondition), "{text}");
            assert_eq!(read(&[(IS_NOT, text)]), Err(BadPrecondition), "{text}");
        }
        assert_eq!(read(&[(IS, "*"), (IS, "\"7\"")]), Err(BadPrecondition));
        assert_eq!(ApiRefusal::from(BadPrecondition).code(), "bad_precondition");
    }

    #[test]
    fn entity_tag_of_an_answer_is_a_condition_of_the_next_request() {
        let (name, value) = entity_tag(7);
        assert_eq!((name, value.to_str().unwrap()), (header::ETAG, "\"7\""));
        assert_eq!(admits(&[(IS, value.to_str().unwrap())]), [false, true, false]);
    }
}
