//! `GET /v1/me`: a user's own sessions on this gateway, with their subscriptions and counts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tickwire_core::ids::UserId;

use crate::http::identify::identify;
use crate::http::{CredentialsQuery, HttpRefusal, HttpState, check_origin, cors};

/// Answers with the status of the user that the credentials prove. Pages of other origins may ask if they may connect.
pub(super) async fn me(State(state): State<Arc<HttpState>>, query: CredentialsQuery, headers: HeaderMap) -> Response {
    let mut response = match user(&state, query, &headers) {
        Ok(user) => Json(state.users.status(&user).await).into_response(),
        Err(refused) => refused.into_response(),
    };
    // The answer is about one user, and old soon.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    cors::add_headers(&state, &headers, &mut response);
    response
}

fn user(state: &HttpState, query: CredentialsQuery, headers: &HeaderMap) -> Result<UserId, HttpRefusal> {
    check_origin(headers, &state.allowed_origins)?;
    Ok(identify(state, query, headers)?.user)
}
