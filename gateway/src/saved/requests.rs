//! Serves those who read and change saved subscriptions over HTTP. `http/saved.rs` and `status/saved.rs` say who may,
//! and turn an error into the refusal of their server.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tickwire_core::event::object::{self, ObjectError};
use tickwire_core::ids::UserId;
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{FrameError, SubscriptionName, SubscriptionRequest};
use tickwire_node::clock::timestamp_now;

use super::record::SavedSubscription;
use super::store::{Precondition, SavedError, SavedStore};

/// A saved subscription, and whose it is.
#[derive(Serialize)]
struct SavedAnswer<'a> {
    user: &'a UserId,
    name: &'a SubscriptionName,
    #[serde(flatten)]
    saved: &'a SavedSubscription,
}

/// Answers with a saved subscription.
pub(crate) async fn show(store: &SavedStore, user: &UserId, name: &str) -> Result<Response, SavedError> {
    let name = read_name(name)?;
    let (record, revision) = store.read(user).await?;
    let saved = record.subscriptions.get(&name).ok_or(SavedError::Missing)?;
    Ok(answer(user, &name, saved, revision))
}

/// Saves a subscription. `by` is the name of who does it.
pub(crate) async fn put(
    store: &SavedStore,
    user: &UserId,
    name: &str,
    headers: &HeaderMap,
    body: &[u8],
    by: &str,
) -> Result<Response, SavedError> {
    let (name, precondition) = (read_name(name)?, precondition(headers)?);
    let request = SubscriptionRequest::read(object::from_json(body).map_err(|error| bad_body(&error))?)?;
    let now = timestamp_now();
    let written = store.edit(user, precondition, |record| {
        record.put(name.clone(), request.clone(), now, by);
        record.check(&name, &store.config, &store.kinds)?;
        record.subscriptions.get(&name).cloned().ok_or(SavedError::Missing)
    });
    let (saved, revision) = written.await?;
    Ok(answer(user, &name, &saved, revision))
}

/// Deletes a saved subscription.
pub(crate) async fn delete(
    store: &SavedStore,
    user: &UserId,
    name: &str,
    headers: &HeaderMap,
) -> Result<Response, SavedError> {
    let (name, precondition) = (read_name(name)?, precondition(headers)?);
    let deleted = store
        .edit(user, precondition, |record| record.subscriptions.remove(&name).map(drop).ok_or(SavedError::Missing));
    deleted.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl SavedError {
    /// The status of a refusal, and its code for programs.
    pub(crate) fn refusal(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Subscription(_) => (StatusCode::BAD_REQUEST, "bad_subscription"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Missing => (StatusCode::NOT_FOUND, "no_such_subscription"),
            Self::OtherRevision => (StatusCode::PRECONDITION_FAILED, "other_revision"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }
}

fn answer(user: &UserId, name: &SubscriptionName, saved: &SavedSubscription, revision: u64) -> Response {
    let mut response = Json(SavedAnswer { user, name, saved }).into_response();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The refusal of a body that is not an object.
pub(super) fn bad_body(error: &ObjectError) -> SavedError {
    FrameError { code: ErrorCode::BadFrame, message: error.to_string(), id: None }.into()
}

pub(super) fn read_name(name: &str) -> Result<SubscriptionName, SavedError> {
    SubscriptionName::new(name).map_err(|error| SavedError::BadRequest(format!("the name in the path: {error}")))
}

/// The revision in `If-Match`, if the request has that header.
fn precondition(headers: &HeaderMap) -> Result<Precondition, SavedError> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let (value, more) = (values.next(), values.next());
    let Some(value) = value else { return Ok(Precondition::Any) };
    let revision = value.to_str().ok().and_then(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    match (revision, more) {
        (Some(revision), None) => Ok(Precondition::Revision(revision)),
        _ => Err(SavedError::BadRequest("If-Match must be one ETag of an earlier answer, with its quotes".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_is_one_revision_in_quotes() {
        let read = |values: &[&'static str]| {
            let values = values.iter().map(|value| (header::IF_MATCH, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                headers.append(name, value);
            }
            precondition(&headers).map_err(|error| error.refusal().0.as_u16())
        };
        assert_eq!(read(&[]), Ok(Precondition::Any));
        assert_eq!(read(&["\"17\""]), Ok(Precondition::Revision(17)));
        for bad in [&["17"][..], &["*"], &["W/\"17\""], &["\"x\""], &["\"1\"", "\"2\""]] {
            assert_eq!(read(bad), Err(400), "{bad:?}");
        }
    }
}
