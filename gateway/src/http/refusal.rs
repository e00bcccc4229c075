//! A request that is refused: with which status, why, and what its sender may do about it.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Whom a token is asked for. RFC 6750 wants at least one parameter behind the scheme.
const CHALLENGE: &str = "Bearer realm=\"tickwire\"";

/// The longest reason that a header repeats, in bytes.
const LONGEST_REASON: usize = 200;

/// A request that does not become what it asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpRefusal {
    pub(crate) status: StatusCode,
    message: String,
    /// What the status asks for beside the reason.
    advice: Option<(HeaderName, HeaderValue)>,
}

impl HttpRefusal {
    /// Refused with this status, and what to do about it.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), advice: None }
    }

    /// One that does not say who it is (RFC 6750, 3.1: without an error code).
    pub(crate) fn unnamed(message: impl Into<String>) -> Self {
        Self::challenged(StatusCode::UNAUTHORIZED, message.into(), None)
    }

    /// One whose token is not taken.
    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::challenged(StatusCode::UNAUTHORIZED, message.into(), Some("invalid_token"))
    }

    /// One that says wrongly who it is.
    pub(crate) fn unreadable_credentials(message: impl Into<String>) -> Self {
        Self::challenged(StatusCode::BAD_REQUEST, message.into(), Some("invalid_request"))
    }

    /// One that may come again after so many seconds.
    pub(crate) fn later(message: impl Into<String>, seconds: u32) -> Self {
        let advice = Some((header::RETRY_AFTER, seconds.into()));
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message: message.into(), advice }
    }

    fn challenged(status: StatusCode, message: String, error: Option<&str>) -> Self {
        let challenge = error.map_or_else(
            || CHALLENGE.to_owned(),
            |error| format!("{CHALLENGE}, error=\"{error}\", error_description=\"{}\"", described(&message)),
        );
        // A description of plain characters makes a value of a header always.
        let challenge = HeaderValue::try_from(challenge).unwrap_or(HeaderValue::from_static(CHALLENGE));
        Self { status, message, advice: Some((header::WWW_AUTHENTICATE, challenge)) }
    }
}

impl IntoResponse for HttpRefusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.message + "\n").into_response();
        response.headers_mut().extend(self.advice);
        response
    }
}

/// A reason in the characters that a description may have (RFC 6750, 3): printable ASCII without quotes and backslashes.
fn described(reason: &str) -> String {
    let plain = |c: char| match c {
        '"' | '`' => '\'',
        ' '..='~' if c != '\\' => c,
        _ => '?',
    };
    reason.chars().map(plain).take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The challenge of an answer.
    fn challenge(refused: HttpRefusal) -> (u16, String) {
        let response = refused.into_response();
        let value = response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned();
        (response.status().as_u16(), value)
    }

    #[test]
    fn every_challenge_says_what_rfc_6750_asks_for() {
        let realm = "Bearer realm=\"tickwire\"";
        assert_eq!(challenge(HttpRefusal::unnamed("who are you?")), (401, realm.to_owned()));
        let expired = challenge(HttpRefusal::unauthenticated("the token's `exp` is \"x\\\u{e9}…\""));
        let description = "error=\"invalid_token\", error_description=\"the token's 'exp' is 'x???'\"";
        assert_eq!(expired, (401, format!("{realm}, {description}")));
        let (status, value) = challenge(HttpRefusal::unreadable_credentials("x".repeat(10_000)));
        assert_eq!((status, value.len() < 300), (400, true));
        assert!(value.contains("error=\"invalid_request\""), "{value}");
    }

    #[test]
    fn who_may_come_again_is_told_when() {
        let response = HttpRefusal::later("full", 5).into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::RETRY_AFTER]),
            (503, &"5".parse().unwrap())
        );
    }
}
