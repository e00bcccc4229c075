//! `/v1/users/{user}/subscriptions` and what is below it for users: each may read and change its own saved
//! subscriptions.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use tickwire_core::ids::UserId;
use tickwire_node::api::unreadable_body;

use crate::http::user::{answer_user, user_of};
use crate::http::{CredentialsQuery, HttpRefusal, HttpState};
use crate::saved::requests::{self, SavedWriter};
use crate::saved::store::SavedError;

/// When to try again if NATS does not answer, in seconds.
const RETRY_SECONDS: u32 = 1;

/// The user and the name of a path.
type SavedPath = Result<Path<(String, String)>, PathRejection>;

/// Answers with all saved subscriptions of the user.
pub(super) async fn list(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
    query: CredentialsQuery,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let user = user_of(&state, query, &headers)?;
        let Path(named) = path.map_err(|rejection| bad_path(&rejection))?;
        check_owner(&user, &named)?;
        requests::list(&state.saved, &user).await.map_err(HttpRefusal::from)
    };
    answer_user(&state, &headers, answer.await)
}

/// Answers with a saved subscription.
pub(super) async fn show(
    State(state): State<Arc<HttpState>>,
    path: SavedPath,
    query: CredentialsQuery,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let (user, name) = owner(&state, path, query, &headers)?;
        requests::show(&state.saved, &user, &name).await.map_err(HttpRefusal::from)
    };
    answer_user(&state, &headers, answer.await)
}

/// Saves a subscription.
pub(super) async fn put(
    State(state): State<Arc<HttpState>>,
    path: SavedPath,
    query: CredentialsQuery,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let answer = async {
        let (user, name) = owner(&state, path, query, &headers)?;
        // After the credentials: the gateway keeps no body of a stranger.
        let body = Bytes::from_request(request, &()).await.map_err(|rejection| {
            HttpRefusal::new(rejection.status(), unreadable_body(&rejection, state.max_frame_bytes))
        })?;
        requests::put(&state.saved, &user, &name, &headers, &body, SavedWriter::User).await.map_err(HttpRefusal::from)
    };
    answer_user(&state, &headers, answer.await)
}

/// Deletes a saved subscription.
pub(super) async fn delete(
    State(state): State<Arc<HttpState>>,
    path: SavedPath,
    query: CredentialsQuery,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let (user, name) = owner(&state, path, query, &headers)?;
        requests::delete(&state.saved, &user, &name, &headers, SavedWriter::User).await.map_err(HttpRefusal::from)
    };
    answer_user(&state, &headers, answer.await)
}

/// The user of the path, if the credentials prove that it is the one who asks, and the name of the subscription.
fn owner(
    state: &HttpState,
    path: SavedPath,
    query: CredentialsQuery,
    headers: &HeaderMap,
) -> Result<(UserId, String), HttpRefusal> {
    let user = user_of(state, query, headers)?;
    let Path((named, name)) = path.map_err(|rejection| bad_path(&rejection))?;
    check_owner(&user, &named)?;
    Ok((user, name))
}

fn bad_path(rejection: &PathRejection) -> HttpRefusal {
    HttpRefusal::new(StatusCode::BAD_REQUEST, rejection.body_text())
}

/// Refuses a user who asks about another one.
fn check_owner(user: &UserId, named: &str) -> Result<(), HttpRefusal> {
    if named == user.as_str() {
        return Ok(());
    }
    let message = "a user may read and change only its own saved subscriptions";
    Err(HttpRefusal::new(StatusCode::FORBIDDEN, message))
}

impl From<SavedError> for HttpRefusal {
    fn from(error: SavedError) -> Self {
        match error.refusal().0 {
            StatusCode::SERVICE_UNAVAILABLE => Self::later(error.to_string(), RETRY_SECONDS),
            status => Self::new(status, error.to_string()),
        }
    }
}
