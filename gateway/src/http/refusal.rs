//! The refusal of a request: its status, the reason, and what the client may do about it.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// The challenge. RFC 6750 requires at least one parameter after the scheme.
const CHALLENGE: &str = "Bearer realm=\"tickwire\"";

/// The longest reason in a header, in bytes.
const LONGEST_REASON: usize = 200;

/// A refused request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpRefusal {
    pub(crate) status: StatusCode,
    message: String,
    /// The header that belongs to the status, such as `Retry-After`.
    advice: Option<(HeaderName, HeaderValue)>,
}

impl HttpRefusal {
    /// A refusal with this status. The message says what to do about it.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), advice: None }
    }

    /// The request has no credentials (RFC 6750, 3.1: the challenge has no error code then).
    pub(crate) fn unnamed(message: impl Into<String>) -> Self {
        Self::challenged(StatusCode::UNAUTHORIZED, message.into(), None)
    }

    /// The request's token is not valid.
    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::challenged(StatusCode::UNAUTHORIZED, message.into(), Some("invalid_token"))
    }

    /// The request's credentials are malformed.
    pub(crate) fn unreadable_credentials(message: impl Into<String>) -> Self {
        Self::challenged(StatusCode::BAD_REQUEST, message.into(), Some("invalid_request"))
    }

    /// The client may retry after `seconds`.
    pub(crate) fn later(message: impl Into<String>, seconds: u32) -> Self {
        let advice = Some((header::RETRY_AFTER, seconds.into()));
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message: message.into(), advice }
    }

    fn challenged(status: StatusCode, message: String, error: Option<&str>) -> Self {
        let challenge = error.map_or_else(
            || CHALLENGE.to_owned(),
            |error| format!("{CHALLENGE}, error=\"{error}\", error_description=\"{}\"", described(&message)),
        );
        // The description has plain characters only, so it is always a valid header value.
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

/// A reason in the characters that a description may have (RFC 6750, 3): printable ASCII without quotes and
/// backslashes. It is cut at [`LONGEST_REASON`].
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
    fn challenge_has_the_parameters_of_rfc_6750() {
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
    fn refused_client_gets_a_time_to_retry() {
        let response = HttpRefusal::later("full", 5).into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::RETRY_AFTER]),
            (503, &"5".parse().unwrap())
        );
    }
}
