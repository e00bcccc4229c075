//! `/v1/users/{user}/subscriptions/{name}` for operators, who may read and change what any user has saved.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use tickwire_core::ids::UserId;
use tickwire_node::api::ApiRefusal;

use super::bad_user;
use crate::saved::requests;
use crate::saved::store::{SavedError, SavedStore};

/// Who has saved what an operator has written.
const OPERATOR: &str = "operator";

/// The user and the name of a path.
type SavedPath = Result<Path<(String, String)>, PathRejection>;

pub(super) async fn show(State(store): State<Arc<SavedStore>>, path: SavedPath) -> Result<Response, ApiRefusal> {
    let (user, name) = read(path)?;
    requests::show(&store, &user, &name).await.map_err(ApiRefusal::from)
}

pub(super) async fn put(
    State(store): State<Arc<SavedStore>>,
    path: SavedPath,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiRefusal> {
    let (user, name) = read(path)?;
    let body = body.map_err(|rejection| ApiRefusal::new(rejection.status(), "bad_body", rejection.body_text()))?;
    requests::put(&store, &user, &name, &headers, &body, OPERATOR).await.map_err(ApiRefusal::from)
}

pub(super) async fn delete(
    State(store): State<Arc<SavedStore>>,
    path: SavedPath,
    headers: HeaderMap,
) -> Result<Response, ApiRefusal> {
    let (user, name) = read(path)?;
    requests::delete(&store, &user, &name, &headers).await.map_err(ApiRefusal::from)
}

fn read(path: SavedPath) -> Result<(UserId, String), ApiRefusal> {
    let Path((user, name)) = path.map_err(|rejection| bad_user(&rejection.body_text()))?;
    Ok((UserId::new(&user).map_err(|error| bad_user(&error.to_string()))?, name))
}

impl From<SavedError> for ApiRefusal {
    fn from(error: SavedError) -> Self {
        let (status, code) = error.refusal();
        Self::new(status, code, error.to_string())
    }
}
