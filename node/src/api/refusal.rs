//! The refusal of a request to an admin server: a stable code for programs, and a text for people that says what to do.

use crate::metrics;
use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// When to ask again after a refusal that passes, in seconds.
const RETRY_SECONDS: u32 = 1;

/// The most bytes of a body, unless its endpoint says otherwise: the default of axum.
pub const MAX_BODY: usize = 2 * 1024 * 1024;

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiRefusal {
    #[serde(skip)]
    status: StatusCode,
    code: &'static str,
    message: String,
    #[serde(flatten)]
    place: Option<FaultPlace>,
}

/// Where a document of the request is wrong, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct FaultPlace {
    path: String,
    hint: String,
}

impl ApiRefusal {
    /// A refusal with this status, and a code that does not change.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), place: None }
    }

    /// The document in the request is not valid at this path.
    pub fn invalid(code: &'static str, path: &str, reason: &str, hint: &str) -> Self {
        let message = format!("{path}: {reason}; {hint}");
        let place = Some(FaultPlace { path: path.to_owned(), hint: hint.to_owned() });
        Self { place, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message) }
    }

    /// A parameter or a field of the request is wrong.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The body of the request cannot be read, or has more than `most` bytes.
    pub fn unreadable_body(rejection: &BytesRejection, most: usize) -> Self {
        let code = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE { "too_large" } else { "bad_body" };
        Self::new(rejection.status(), code, unreadable_body(rejection, most))
    }

    /// It is not possible at the moment.
    pub fn later(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    pub(super) fn unauthenticated(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    pub(crate) fn no_such_endpoint() -> Self {
        let message = "no endpoint of this node has this path; /v1/openapi.json lists all, and routers have others than \
                       gateways";
        Self::new(StatusCode::NOT_FOUND, "no_such_endpoint", message)
    }

    /// The path has other methods. Its route adds them as the header `Allow`.
    pub(crate) fn method_not_allowed() -> Self {
        let message = "this path does not have this method; the header Allow has those that it has";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// Its code.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

/// Why a body of at most `most` bytes cannot be read, for people.
pub fn unreadable_body(rejection: &BytesRejection, most: usize) -> String {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body has more than {most} bytes: send a smaller one"),
        _ => format!("the body cannot be read: {}; repeat the request", rejection.body_text()),
    }
}

impl IntoResponse for ApiRefusal {
    fn into_response(self) -> Response {
        let (status, code) = (self.status, self.code);
        metrics::API_REFUSALS.with(code).increment(1);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750, 3.1: a challenge without credentials in the request has no error code.
            let challenge = match code {
                "no_token" | "no_secret" => HeaderValue::from_static("Bearer realm=\"tickwire\""),
                _ => HeaderValue::from_static("Bearer realm=\"tickwire\", error=\"invalid_token\""),
            };
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_SECONDS.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, Bytes};
    use axum::extract::{FromRequest, Request};

    #[tokio::test]
    async fn body_that_is_too_large_is_refused_with_the_limit() {
        let request = Request::new(Body::from(vec![0_u8; MAX_BODY + 1]));
        let rejection = Bytes::from_request(request, &()).await.unwrap_err();
        let refusal = ApiRefusal::unreadable_body(&rejection, MAX_BODY);
        assert_eq!((refusal.status, refusal.code), (StatusCode::PAYLOAD_TOO_LARGE, "too_large"));
        assert_eq!(refusal.message, "the body has more than 2097152 bytes: send a smaller one");
    }
}
