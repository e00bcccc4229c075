//! Saves subscriptions of many users in one request, for operators who assign portfolios.
//!
//! The users succeed or fail independently. With `atomic` nothing is written unless everything is valid, and if a write
//! fails, those before it are undone. An undo expects the revision that was written, so it never takes back what
//! somebody else has written meanwhile. A request that has begun does not end with its connection: the node owns it, and
//! finishes it before it stops.

use std::convert::identity;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::Value;
use tickwire_core::event::Timestamp;
use tickwire_core::event::object::{self, Object};
use tickwire_core::ids::UserId;
use tickwire_core::protocol::{FrameError, SubscriptionName, SubscriptionRequest};
use tickwire_node::api::Caller;
use tickwire_node::clock::timestamp_now;
use tickwire_node::shutdown::Shutdown;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::record::SavedRecord;
use super::requests::{OPERATOR, bad_body};
use super::store::{SavedError, SavedStore};

/// How many characters of a wrong name an error shows.
const SHOWN: usize = 64;

/// How many users one request may have.
const MAX_USERS: usize = 1_000;

/// How many requests are under way at the same time. They outlive their connections, so these do not bound them.
const REQUESTS: usize = 4;

/// How many users of a request are read or written at the same time.
const LANES: usize = 8;

/// The field of the body.
const FIELD: &str = "subscriptions";

/// What a request saves for one user.
#[derive(Debug)]
struct Assignment {
    user: UserId,
    wanted: Vec<(SubscriptionName, SubscriptionRequest)>,
}

/// The saved subscriptions of a user before and after an assignment.
struct Prepared {
    user: UserId,
    before: SavedRecord,
    after: SavedRecord,
    revision: u64,
}

/// What became of the assignment of one user.
#[derive(Debug, Serialize)]
struct UserResult {
    user: String,
    saved: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize)]
struct BulkAnswer {
    saved: usize,
    results: Vec<UserResult>,
}

/// Serves the requests.
#[derive(Debug)]
pub(crate) struct BulkWriter {
    store: Arc<SavedStore>,
    shutdown: Shutdown,
    requests: Arc<Semaphore>,
}

impl BulkWriter {
    /// Requests write to this store, and the drain of this node waits for them.
    pub(crate) fn new(store: Arc<SavedStore>, shutdown: Shutdown) -> Self {
        Self { store, shutdown, requests: Arc::new(Semaphore::new(REQUESTS)) }
    }

    /// Saves the subscriptions in the body, each for its user, also if the client does not wait for the answer.
    pub(crate) async fn put_all(&self, is_atomic: bool, body: &[u8], by: Caller) -> Result<Response, SavedError> {
        let assignments = read(body)?;
        let turn = Arc::clone(&self.requests).try_acquire_owned().map_err(|_| SavedError::Busy)?;
        let store = Arc::clone(&self.store);
        let work = async move {
            let answer = put_all(&store, is_atomic, assignments, &by).await;
            drop(turn);
            answer
        };
        let answer = self.shutdown.spawn_work("saved subscriptions of many users", work).ok_or(SavedError::Stopping)?;
        answer.await.map_err(|_| SavedError::Stopping)
    }
}

async fn put_all(store: &SavedStore, is_atomic: bool, assignments: Vec<UserAssignment>, by: &Caller) -> Response {
    let now = timestamp_now();
    let results = if is_atomic {
        put_atomically(store, assignments, now).await
    } else {
        let saves = assignments.into_iter().map(|(user, assignment)| put_one(store, user, assignment, now));
        stream::iter(saves).buffered(LANES).collect::<Vec<_>>().await
    };
    let saved = results.iter().filter(|result| result.saved).count();
    info!(users = results.len(), saved, is_atomic, %by, "saved subscriptions of several users written over HTTP");
    let status = if is_atomic && saved < results.len() { StatusCode::CONFLICT } else { StatusCode::OK };
    (status, Json(BulkAnswer { saved, results })).into_response()
}

async fn put_one(
    store: &SavedStore,
    user: String,
    assignment: Result<Assignment, SavedError>,
    now: Timestamp,
) -> UserResult {
    let done = async {
        let Assignment { user, wanted } = assignment?;
        store.edit(&user, |record, _| assign(store, record, &wanted, now)).await
    };
    match done.await {
        Ok(_) => UserResult::saved(user),
        Err(error) => UserResult::failed(user, &error),
    }
}

async fn put_atomically(store: &SavedStore, assignments: Vec<UserAssignment>, now: Timestamp) -> Vec<UserResult> {
    let prepares = assignments.into_iter().map(|(user, assignment)| prepare(store, user, assignment, now));
    let prepared: Vec<Result<Prepared, UserResult>> = stream::iter(prepares).buffered(LANES).collect().await;
    if prepared.iter().any(Result::is_err) {
        return prepared.into_iter().map(|one| one.map_or_else(identity, Prepared::not_saved)).collect();
    }
    let writes = prepared.into_iter().flatten().map(|one| write(store, one));
    let written: Vec<(Prepared, Result<Option<u64>, SavedError>)> =
        stream::iter(writes).buffered(LANES).collect().await;
    if written.iter().all(|(_, written)| written.is_ok()) {
        return written.into_iter().map(|(one, _)| UserResult::saved(one.user.to_string())).collect();
    }
    let undos = written.into_iter().map(|(one, written)| undo(store, one, written));
    stream::iter(undos).buffered(LANES).collect().await
}

/// Reads what a user has, and checks what the user would have.
async fn prepare(
    store: &SavedStore,
    user: String,
    assignment: Result<Assignment, SavedError>,
    now: Timestamp,
) -> Result<Prepared, UserResult> {
    let prepared = async {
        let Assignment { user, wanted } = assignment?;
        let (before, revision) = store.read(&user).await?;
        let mut after = before.clone();
        assign(store, &mut after, &wanted, now)?;
        Ok::<_, SavedError>(Prepared { user, before, after, revision })
    };
    prepared.await.map_err(|error| UserResult::failed(user, &error))
}

/// Writes what a user has now. Returns the revision; `None` if nothing has changed, so that there is nothing to write.
async fn write(store: &SavedStore, one: Prepared) -> (Prepared, Result<Option<u64>, SavedError>) {
    let written = match one.after == one.before {
        true => Ok(None),
        false => store.replace(&one.user, &one.after, one.revision).await.map(Some),
    };
    (one, written)
}

/// Undoes the write of a user, if there was one.
async fn undo(store: &SavedStore, one: Prepared, written: Result<Option<u64>, SavedError>) -> UserResult {
    let revision = match written {
        Ok(Some(revision)) => revision,
        Ok(None) => return one.not_saved(),
        Err(error) => return UserResult::failed(one.user.to_string(), &error),
    };
    match store.replace(&one.user, &one.before, revision).await {
        Ok(_) => one.not_saved(),
        Err(error) => {
            warn!(user = %one.user, %error, "saved subscriptions not restored after a failed atomic request");
            UserResult { saved: true, ..UserResult::failed(one.user.to_string(), &error) }
        }
    }
}

/// Saves all subscriptions of an assignment in a record.
fn assign(
    store: &SavedStore,
    record: &mut SavedRecord,
    wanted: &[(SubscriptionName, SubscriptionRequest)],
    now: Timestamp,
) -> Result<(), SavedError> {
    for (name, request) in wanted {
        record.put(name.clone(), request.clone(), now, OPERATOR);
    }
    for (name, _) in wanted {
        record.check(name, &store.config, &store.kinds)?;
    }
    Ok(())
}

/// What a request asks for one user, or what is wrong with it.
type UserAssignment = (String, Result<Assignment, SavedError>);

/// The assignments in a body, in the order of the users. A fault of one user is that of its assignment.
fn read(body: &[u8]) -> Result<Vec<UserAssignment>, SavedError> {
    let mut fields = object::from_json(body).map_err(|error| bad_body(&error))?;
    let users = match (fields.remove(FIELD), fields.is_empty()) {
        (Some(Value::Object(users)), true) => users,
        _ => {
            let message = "the body must be {\"subscriptions\":{user:{name:{…}}}} and nothing else";
            return Err(SavedError::BadRequest(message.to_owned()));
        }
    };
    if users.len() > MAX_USERS {
        return Err(SavedError::BadRequest(format!(
            "a request may have {MAX_USERS} users, this one has {}",
            users.len()
        )));
    }
    Ok(users.into_iter().map(|(user, wanted)| (user.clone(), read_one(&user, wanted))).collect())
}

fn read_one(user: &str, wanted: Value) -> Result<Assignment, SavedError> {
    let user = UserId::new(user).map_err(|error| SavedError::BadRequest(error.to_string()))?;
    let wanted = entries(wanted)?;
    let one = |(name, fields): (String, Value)| {
        let name = name_of(&name)?;
        let request = SubscriptionRequest::read(entries(fields)?).map_err(|error| of_subscription(&name, error))?;
        Ok::<_, SavedError>((name, request))
    };
    Ok(Assignment { user, wanted: wanted.into_iter().map(one).collect::<Result<_, _>>()? })
}

/// The name of a subscription. Of one that is refused the error shows the beginning.
fn name_of(text: &str) -> Result<SubscriptionName, SavedError> {
    SubscriptionName::new(text).map_err(|error| {
        let shown: String = text.chars().take(SHOWN).collect();
        SavedError::BadRequest(format!("{shown:?}: {error}"))
    })
}

/// What is wrong with one subscription of a user, who may have others in the same body.
fn of_subscription(name: &SubscriptionName, error: FrameError) -> FrameError {
    FrameError { message: format!("{:?}: {}", name.as_str(), error.message), ..error }
}

fn entries(value: Value) -> Result<Object, SavedError> {
    match value {
        Value::Object(entries) => Ok(entries),
        _ => Err(SavedError::BadRequest("each user and each subscription must be an object".to_owned())),
    }
}

impl Prepared {
    /// The result for a user who is as before because of a fault of another one.
    fn not_saved(self) -> UserResult {
        let message = Some("not saved because of a fault of another user".to_owned());
        UserResult { user: self.user.to_string(), saved: false, code: Some("not_saved"), message }
    }
}

impl UserResult {
    fn saved(user: String) -> Self {
        Self { user, saved: true, code: None, message: None }
    }

    fn failed(user: String, error: &SavedError) -> Self {
        Self { user, saved: false, code: Some(error.refusal().1), message: Some(error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fault_of_a_user_is_that_of_its_assignment() {
        let body = json!({ "subscriptions": {
            "ann": { "a": { "preset": "daily" }, "b": { "filter": {} } },
            "bob": { "*": {} },
            "eve": { "a": { "window_ms": 5_000 } },
            "max": 7,
        }});
        let read = read(body.to_string().as_bytes()).unwrap();
        let shown: Vec<_> = read.iter().map(|(user, one)| (user.as_str(), one.as_ref().ok())).collect();
        let counts: Vec<_> = shown.iter().map(|(user, one)| (*user, one.map(|one| one.wanted.len()))).collect();
        assert_eq!(counts, [("ann", Some(2)), ("bob", None), ("eve", None), ("max", None)]);
        let faults: Vec<_> = read.iter().filter_map(|(_, one)| Some(one.as_ref().err()?.to_string())).collect();
        assert!(faults[0].starts_with("\"*\": "), "{faults:?}");
        assert!(faults[1].starts_with("415: \"a\": window_ms: "), "{faults:?}");
    }

    #[test]
    fn body_is_one_object_of_at_most_so_many_users() {
        let many: Object = (0..=MAX_USERS).map(|number| (format!("u{number}"), json!({}))).collect();
        for body in [json!({}), json!([]), json!({ "subscriptions": {}, "x": 1 }), json!({ "subscriptions": many })] {
            assert!(read(body.to_string().as_bytes()).is_err(), "{body}");
        }
        assert!(read(b"{\"subscriptions\":{}}").unwrap().is_empty());
    }
}
