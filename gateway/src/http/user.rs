//! What all requests of a user about itself have in common: who asks, and how the answer goes back.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tickwire_core::ids::UserId;

use crate::http::identify::identify;
use crate::http::{CredentialsQuery, HttpRefusal, HttpState, check_origin, cors};
use crate::metrics;

/// The user that the credentials of a request prove. A page whose origin may not connect may not ask either.
pub(super) fn user_of(state: &HttpState, query: CredentialsQuery, headers: &HeaderMap) -> Result<UserId, HttpRefusal> {
    check_origin(headers, &state.allowed_origins)?;
    Ok(identify(state, query, headers)?.user)
}

/// The answer to a request with these headers. It is about one user, and old soon, so no cache keeps it. Pages of other
/// origins may read it if they may connect.
pub(super) fn answer_user(
    state: &HttpState,
    headers: &HeaderMap,
    answer: Result<impl IntoResponse, HttpRefusal>,
) -> Response {
    let mut response = answer.map_or_else(HttpRefusal::into_response, IntoResponse::into_response);
    metrics::USER_REQUESTS.with(response.status().as_u16().to_string()).increment(1);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    cors::add_headers(state, headers, &mut response);
    response
}
