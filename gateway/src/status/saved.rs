//! `/v1/users/{user}/subscriptions` and what is below it for operators, who may read and change what any user has
//! saved, and `/v1/subscriptions`, by which they change it for many users.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use tickwire_core::ids::UserId;
use tickwire_node::api::{ApiRefusal, Caller, MAX_BODY};
use tickwire_node::users::bad_user;

use crate::saved::bulk::BulkWriter;
use crate::saved::requests::{self, SavedWriter};
use crate::saved::store::{SavedError, SavedStore};

/// The user and the name of a path.
type SavedPath = Result<Path<(String, String)>, PathRejection>;

pub(super) async fn list(
    State(store): State<Arc<SavedStore>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiRefusal> {
    let Path(user) = path.map_err(|rejection| bad_user(&rejection.body_text()))?;
    requests::list(&store, &read_user(&user)?).await.map_err(ApiRefusal::from)
}

pub(super) async fn show(State(store): State<Arc<SavedStore>>, path: SavedPath) -> Result<Response, ApiRefusal> {
    let (user, name) = read(path)?;
    requests::show(&store, &user, &name).await.map_err(ApiRefusal::from)
}

pub(super) async fn put(
    State(store): State<Arc<SavedStore>>,
    path: SavedPath,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiRefusal> {
    let (user, name) = read(path)?;
    let body = body.map_err(|rejection| ApiRefusal::unreadable_body(&rejection, MAX_BODY))?;
    let writer = SavedWriter::Operator(&caller);
    requests::put(&store, &user, &name, &headers, &body, writer).await.map_err(ApiRefusal::from)
}

pub(super) async fn delete(
    State(store): State<Arc<SavedStore>>,
    path: SavedPath,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, ApiRefusal> {
    let (user, name) = read(path)?;
    let writer = SavedWriter::Operator(&caller);
    requests::delete(&store, &user, &name, &headers, writer).await.map_err(ApiRefusal::from)
}

/// The query of a request for many users.
#[derive(Deserialize)]
pub(super) struct BulkQuery {
    /// Whether nothing is saved if anything cannot be saved.
    #[serde(default)]
    atomic: bool,
}

pub(super) async fn put_all(
    State(writer): State<Arc<BulkWriter>>,
    query: Result<Query<BulkQuery>, QueryRejection>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiRefusal> {
    let Query(BulkQuery { atomic }) =
        query.map_err(|rejection| ApiRefusal::bad_request("bad_request", rejection.body_text()))?;
    let body = body.map_err(|rejection| ApiRefusal::unreadable_body(&rejection, MAX_BODY))?;
    writer.put_all(atomic, &body, caller).await.map_err(ApiRefusal::from)
}

fn read(path: SavedPath) -> Result<(UserId, String), ApiRefusal> {
    let Path((user, name)) = path.map_err(|rejection| bad_user(&rejection.body_text()))?;
    Ok((read_user(&user)?, name))
}

fn read_user(user: &str) -> Result<UserId, ApiRefusal> {
    UserId::new(user).map_err(|error| bad_user(&error.to_string()))
}

impl From<SavedError> for ApiRefusal {
    fn from(error: SavedError) -> Self {
        let (status, code) = error.refusal();
        Self::new(status, code, error.to_string())
    }
}
