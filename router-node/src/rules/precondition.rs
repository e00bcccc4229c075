//! The headers that make a change of a rule depend on its revision (RFC 9110, 13.1). The entity tag of a rule is its
//! revision, so that two operators do not overwrite each other.

use axum::http::{HeaderMap, HeaderName, header};
use tickwire_node::api::ApiRefusal;

/// Which revision a rule must have before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precondition {
    /// Any, or none.
    None,
    /// Any: the rule exists.
    Exists,
    /// None: there is no such rule.
    Absent,
    /// This one.
    Revision(u64),
}

impl Precondition {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// When they have no meaning here.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, ApiRefusal> {
        match (one(headers, &header::IF_MATCH)?, one(headers, &header::IF_NONE_MATCH)?) {
            (None, None) => Ok(Self::None),
            (Some("*"), None) => Ok(Self::Exists),
            (None, Some("*")) => Ok(Self::Absent),
            (Some(tag), None) => revision(tag).map(Self::Revision).ok_or_else(refusal),
            _ => Err(refusal()),
        }
    }
}

/// The entity tag of a revision.
pub(super) fn entity_tag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The revision of an entity tag.
fn revision(tag: &str) -> Option<u64> {
    let text = tag.strip_prefix('"')?.strip_suffix('"')?;
    let revision: u64 = text.parse().ok()?;
    (revision > 0 && revision.to_string() == text).then_some(revision)
}

/// The only value of a header, if it has one.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, ApiRefusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(text.trim())).map_err(|_| refusal()),
        (Some(_), Some(_)) => Err(refusal()),
    }
}

fn refusal() -> ApiRefusal {
    let message =
        "send If-Match with the ETag of the rule, such as \"7\", or with *; or If-None-Match: * for a new rule";
    ApiRefusal::bad_request("bad_precondition", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sent: &[(&HeaderName, &str)]) -> Result<Precondition, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, value.parse().unwrap());
        }
        Precondition::read(&headers).map_err(|refusal| refusal.code())
    }

    #[test]
    fn headers_name_the_revision_that_a_rule_must_have() {
        let (is, is_not) = (&header::IF_MATCH, &header::IF_NONE_MATCH);
        assert_eq!(read(&[]), Ok(Precondition::None));
        assert_eq!(read(&[(is, "*")]), Ok(Precondition::Exists));
        assert_eq!(read(&[(is_not, "*")]), Ok(Precondition::Absent));
        assert_eq!(read(&[(is, entity_tag(7).as_str())]), Ok(Precondition::Revision(7)));
        let refused: [&[(&HeaderName, &str)]; 8] = [
            &[(is, "7")],
            &[(is, "W/\"7\"")],
            &[(is, "\"0\"")],
            &[(is, "\"07\"")],
            &[(is, "\"7\", \"8\"")],
            &[(is, "\"7\""), (is, "\"8\"")],
            &[(is_not, "\"7\"")],
            &[(is, "*"), (is_not, "*")],
        ];
        for sent in refused {
            assert_eq!(read(sent), Err("bad_precondition"), "{sent:?}");
        }
    }
}
