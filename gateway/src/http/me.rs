//! `GET /v1/me`: a user's own sessions on this gateway, with their subscriptions and counts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use crate::http::user::{answer_user, user_of};
use crate::http::{CredentialsQuery, HttpState};

/// Answers with the status of the user that the credentials prove. Pages of other origins may ask if they may connect.
pub(super) async fn me(State(state): State<Arc<HttpState>>, query: CredentialsQuery, headers: HeaderMap) -> Response {
    let answer = match user_of(&state, query, &headers) {
        Ok(user) => Ok(Json(state.users.status(&user).await)),
        Err(refused) => Err(refused),
    };
    answer_user(&state, &headers, answer)
}
