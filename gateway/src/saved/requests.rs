//! Serves those who read and change saved subscriptions over HTTP. `http/saved.rs` and `status/saved.rs` say who may,
//! and turn an error into the refusal of their server.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tickwire_core::event::object::{self, ObjectError};
use tickwire_core::ids::UserId;
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{FrameError, SubscriptionName, SubscriptionRequest};
use tickwire_node::api::{BadPrecondition, Caller, Precondition, entity_tag};
use tickwire_node::clock::timestamp_now;
use tracing::{debug, info};

use super::record::{SavedRecord, SavedSubscription};
use super::store::{SavedError, SavedStore};

/// Who has saved what an operator has written. Users see only that.
pub(super) const OPERATOR: &str = "operator";

/// Who changes saved subscriptions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SavedWriter<'w> {
    /// The user itself.
    User,
    /// An operator; the log has who it was.
    Operator(&'w Caller),
}

/// A saved subscription, and whose it is.
#[derive(Serialize)]
struct SavedAnswer<'a> {
    user: &'a UserId,
    name: &'a SubscriptionName,
    #[serde(flatten)]
    saved: &'a SavedSubscription,
}

/// All saved subscriptions of a user.
#[derive(Serialize)]
struct AllSavedAnswer<'a> {
    user: &'a UserId,
    subscriptions: &'a BTreeMap<SubscriptionName, SavedSubscription>,
}

/// Answers with all saved subscriptions of a user.
pub(crate) async fn list(store: &SavedStore, user: &UserId) -> Result<Response, SavedError> {
    let (SavedRecord { subscriptions }, revision) = store.read_in_turn(user).await?;
    Ok(([entity_tag(revision)], Json(AllSavedAnswer { user, subscriptions: &subscriptions })).into_response())
}

/// Answers with a saved subscription.
pub(crate) async fn show(store: &SavedStore, user: &UserId, name: &str) -> Result<Response, SavedError> {
    let name = read_name(name)?;
    let (record, revision) = store.read_in_turn(user).await?;
    let saved = record.subscriptions.get(&name).ok_or(SavedError::Missing)?;
    Ok(answer(user, &name, saved, revision))
}

/// Saves a subscription.
pub(crate) async fn put(
    store: &SavedStore,
    user: &UserId,
    name: &str,
    headers: &HeaderMap,
    body: &[u8],
    writer: SavedWriter<'_>,
) -> Result<Response, SavedError> {
    let (name, precondition) = (read_name(name)?, Precondition::read(headers)?);
    let request = SubscriptionRequest::read(object::from_json(body).map_err(|error| bad_body(&error))?)?;
    let now = timestamp_now();
    let by = match writer {
        SavedWriter::User => user.as_str(),
        SavedWriter::Operator(_) => OPERATOR,
    };
    let written = store.edit(user, |record, revision| {
        expect(&precondition, record, &name, revision)?;
        record.put(name.clone(), request.clone(), now, by);
        record.check(&name, &store.config, &store.kinds)?;
        record.subscriptions.get(&name).cloned().ok_or(SavedError::Missing)
    });
    let (saved, revision) = written.await?;
    match writer {
        SavedWriter::Operator(by) => {
            info!(%user, subscription = name.as_str(), revision, %by, "saved subscription written over HTTP");
        }
        SavedWriter::User => debug!(%user, subscription = name.as_str(), revision, "saved subscription written"),
    }
    Ok(answer(user, &name, &saved, revision))
}

/// Deletes a saved subscription.
pub(crate) async fn delete(
    store: &SavedStore,
    user: &UserId,
    name: &str,
    headers: &HeaderMap,
    writer: SavedWriter<'_>,
) -> Result<Response, SavedError> {
    let (name, precondition) = (read_name(name)?, Precondition::read(headers)?);
    let deleted = store.edit(user, |record, revision| {
        // What is not there is missing, whatever the request expects of it (RFC 9110, 13.2.1).
        if !record.subscriptions.contains_key(&name) {
            return Err(SavedError::Missing);
        }
        expect(&precondition, record, &name, revision)?;
        record.subscriptions.remove(&name);
        Ok(())
    });
    deleted.await?;
    match writer {
        SavedWriter::Operator(by) => {
            info!(%user, subscription = name.as_str(), %by, "saved subscription deleted over HTTP");
        }
        SavedWriter::User => debug!(%user, subscription = name.as_str(), "saved subscription deleted"),
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses a change that expects something else of what is saved. The revision is that of all that the user has saved,
/// so a new name may depend on the others.
fn expect(
    precondition: &Precondition,
    record: &SavedRecord,
    name: &SubscriptionName,
    revision: u64,
) -> Result<(), SavedError> {
    let exists = record.subscriptions.contains_key(name);
    if precondition.admits(exists, revision) { Ok(()) } else { Err(SavedError::OtherRevision) }
}

impl SavedError {
    /// The status of a refusal, and its code for programs.
    pub(crate) fn refusal(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Subscription(_) => (StatusCode::BAD_REQUEST, "bad_subscription"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::BadPrecondition(_) => (StatusCode::BAD_REQUEST, BadPrecondition::CODE),
            Self::Missing => (StatusCode::NOT_FOUND, "no_such_subscription"),
            Self::NewerVersion => (StatusCode::CONFLICT, "newer_version"),
            Self::OtherRevision => (StatusCode::PRECONDITION_FAILED, "other_revision"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }
}

fn answer(user: &UserId, name: &SubscriptionName, saved: &SavedSubscription, revision: u64) -> Response {
    ([entity_tag(revision)], Json(SavedAnswer { user, name, saved })).into_response()
}

/// The refusal of a body that is not an object.
pub(super) fn bad_body(error: &ObjectError) -> SavedError {
    FrameError { code: ErrorCode::BadFrame, message: error.to_string(), id: None }.into()
}

fn read_name(name: &str) -> Result<SubscriptionName, SavedError> {
    SubscriptionName::new(name).map_err(|error| SavedError::BadRequest(format!("the name in the path: {error}")))
}

#[cfg(test)]
mod tests {
    use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
    use axum::http::{HeaderName, HeaderValue};
    use serde_json::json;
    use tickwire_core::event::Timestamp;

    use super::*;

    fn name(text: &str) -> SubscriptionName {
        SubscriptionName::new(text).unwrap()
    }

    #[test]
    fn condition_is_about_the_name_and_the_revision_of_all_that_is_saved() {
        let fields = serde_json::from_value(json!({ "preset": "daily" })).unwrap();
        let mut record = SavedRecord::default();
        record.put(name("a"), SubscriptionRequest::read(fields).unwrap(), Timestamp(0), "ann");
        let refused = |header: HeaderName, value: &'static str, named: &str| {
            let headers = HeaderMap::from_iter([(header, HeaderValue::from_static(value))]);
            let precondition = Precondition::read(&headers).unwrap();
            expect(&precondition, &record, &name(named), 17).err().map(|error| error.refusal())
        };
        let other = Some((StatusCode::PRECONDITION_FAILED, "other_revision"));
        for named in ["a", "b"] {
            assert_eq!(refused(IF_MATCH, "\"17\"", named), None, "{named}");
            assert_eq!(refused(IF_MATCH, "\"16\"", named), other, "{named}");
        }
        assert_eq!((refused(IF_MATCH, "*", "a"), refused(IF_MATCH, "*", "b")), (None, other));
        assert_eq!((refused(IF_NONE_MATCH, "*", "a"), refused(IF_NONE_MATCH, "*", "b")), (other, None));
    }

    #[test]
    fn malformed_condition_is_refused_with_its_code() {
        let headers = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static("17"))]);
        let refused = Precondition::read(&headers).map_err(|error| SavedError::from(error).refusal());
        assert_eq!(refused, Err((StatusCode::BAD_REQUEST, "bad_precondition")));
    }
}
