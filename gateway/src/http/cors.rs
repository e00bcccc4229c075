//! The headers that let pages of other origins ask for a user's home gateway, status and saved subscriptions (CORS;
//! Fetch, 3.2).
//!
//! The answer depends on the origin, so every answer has `Vary: origin` for caches. A page whose origin may not connect
//! gets no CORS headers.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{HttpState, WRONG_METHOD, check_origin};

/// For how long a browser may cache the answer to a preflight, in seconds. Most browsers cap it at two hours.
const MAX_AGE: &str = "7200";

/// The headers of an answer that a page may read besides those that it may always read.
const EXPOSED: &str = "etag, retry-after, www-authenticate";

/// The methods of `/v1/connect`, `/v1/me` and the list of saved subscriptions.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// The methods of a saved subscription.
const METHODS_OF_SAVED: &str = "GET, HEAD, PUT, DELETE, OPTIONS";

/// The headers that a page may send, besides those that it may always send.
const HEADERS: &str = "authorization";

/// Those for a saved subscription.
const HEADERS_OF_SAVED: &str = "authorization, content-type, if-match, if-none-match";

/// Answers the preflight that precedes a request with a header such as `Authorization`.
pub(super) async fn preflight(State(state): State<Arc<HttpState>>, headers: HeaderMap) -> Response {
    answer_preflight(&state, &headers, METHODS, HEADERS)
}

/// Answers the preflight of a request about one saved subscription.
pub(super) async fn preflight_of_saved(State(state): State<Arc<HttpState>>, headers: HeaderMap) -> Response {
    answer_preflight(&state, &headers, METHODS_OF_SAVED, HEADERS_OF_SAVED)
}

/// Answers a method that an endpoint which only reads does not have.
pub(super) async fn wrong_method(State(state): State<Arc<HttpState>>, headers: HeaderMap) -> Response {
    refuse_method(&state, &headers, METHODS)
}

/// Answers a method that a saved subscription does not have.
pub(super) async fn wrong_method_of_saved(State(state): State<Arc<HttpState>>, headers: HeaderMap) -> Response {
    refuse_method(&state, &headers, METHODS_OF_SAVED)
}

fn answer_preflight(
    state: &HttpState,
    headers: &HeaderMap,
    methods: &'static str,
    allowed_headers: &'static str,
) -> Response {
    let mut response = match check_origin(headers, &state.allowed_origins) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => refused.into_response(),
    };
    add_headers(state, headers, &mut response);
    let is_allowed = response.status() == StatusCode::NO_CONTENT;
    let response_headers = response.headers_mut();
    response_headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    if is_allowed {
        response_headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        response_headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed_headers));
        response_headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    }
    response
}

fn refuse_method(state: &HttpState, headers: &HeaderMap, methods: &'static str) -> Response {
    let mut response = (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, methods)], WRONG_METHOD).into_response();
    add_headers(state, headers, &mut response);
    response
}

/// Adds the headers that let the page read the answer, also an error, if its origin may connect.
pub(crate) fn add_headers(state: &HttpState, headers: &HeaderMap, response: &mut Response) {
    let response_headers = response.headers_mut();
    response_headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = headers.get(header::ORIGIN)
        && check_origin(headers, &state.allowed_origins).is_ok()
    {
        response_headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        response_headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}
