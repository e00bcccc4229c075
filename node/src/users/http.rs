//! The endpoints.

use super::gathering::Gathering;
use super::messages::{UserAction, UserAnswer};
use super::service::{UserService, UsersHere};
use crate::api::{Access, ApiRefusal, ApiRoutes, Caller, Endpoint, Input, JSON, Listener, field};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::sync::Arc;
use tickwire_core::ids::UserId;
use tracing::info;

/// The status of a user.
pub static USER: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/users/{user}",
    listener: Listener::Admin,
    access: Access::Operator,
    summary: "The sessions of a user on all gateways, with their subscriptions and counts",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        field("user", "string", "The user"),
        field("complete", "boolean", "Whether all gateways have answered, and all sessions are listed"),
        field("session_count", "integer", "How many sessions the user has on the gateways that have answered"),
        field("gateways", "array", "What each gateway has answered: rate, session_count, truncated, sessions"),
        field("silent", "array", "The gateways that have not answered"),
    ],
    others: &[(400, "The user is not valid"), (503, "Too many such requests wait; repeat it")],
};

/// Closes the sessions of a user.
pub static CLOSE_SESSIONS: Endpoint = Endpoint {
    method: "DELETE",
    path: "/v1/users/{user}/sessions",
    listener: Listener::Admin,
    access: Access::Operator,
    summary: "Closes the sessions of a user on all gateways with the code 4014",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        field("user", "string", "The user"),
        field("complete", "boolean", "Whether all gateways have answered"),
        field("closed", "integer", "How many sessions were closed"),
        field("gateways", "array", "How many sessions each gateway has closed"),
        field("silent", "array", "The gateways that have not answered"),
    ],
    others: &[
        (400, "The user is not valid"),
        (503, "Not all gateways have answered; the answer also has the fields of that with 200; repeat the request"),
    ],
};

/// Adds both to an admin server.
#[must_use]
pub fn add_routes<L: UsersHere>(routes: ApiRoutes, service: &Arc<UserService<L>>) -> ApiRoutes {
    routes
        .add(&USER, get(show::<L>).with_state(Arc::clone(service)))
        .add(&CLOSE_SESSIONS, delete(close::<L>).with_state(Arc::clone(service)))
}

/// The user in a path is not valid.
pub fn bad_user(reason: &str) -> ApiRefusal {
    ApiRefusal::bad_request("bad_user", format!("the user in the path is not valid: {reason}"))
}

/// The user of a path.
type UserOfPath = Result<Path<String>, PathRejection>;

async fn show<L: UsersHere>(
    State(service): State<Arc<UserService<L>>>,
    user: UserOfPath,
) -> Result<Json<Value>, ApiRefusal> {
    let user = read(user)?;
    let gathering = service.ask(&user, UserAction::Show).await?;
    Ok(Json(shown(&user, &gathering)))
}

async fn close<L: UsersHere>(
    State(service): State<Arc<UserService<L>>>,
    user: UserOfPath,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiRefusal> {
    let user = read(user)?;
    let gathering = service.ask(&user, UserAction::Close).await?;
    let (closed, report) = closed(&user, &gathering);
    let silent = gathering.silent().count();
    info!(user = user.as_str(), closed, silent, by = %caller, "sessions of a user closed over HTTP");
    let status = if gathering.is_complete() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(report)).into_response())
}

fn read(user: UserOfPath) -> Result<UserId, ApiRefusal> {
    let Path(user) = user.map_err(|rejection| bad_user(&rejection.body_text()))?;
    UserId::new(&user).map_err(|error| bad_user(&error.to_string()))
}

/// The sessions on each gateway.
fn shown(user: &UserId, gathering: &Gathering) -> Value {
    let (mut session_count, mut is_truncated, mut gateways) = (0_u64, false, Vec::new());
    for (gateway, answer) in gathering.answers() {
        let UserAnswer::Sessions(list) = answer else { continue };
        session_count = session_count.saturating_add(list.session_count);
        is_truncated |= list.is_truncated();
        gateways.push(json!({
            "gateway": gateway.id.as_str(),
            "rate": list.rate,
            "session_count": list.session_count,
            "truncated": list.is_truncated(),
            "sessions": list.sessions,
        }));
    }
    json!({
        "user": user.as_str(),
        "complete": gathering.is_complete() && !is_truncated,
        "session_count": session_count,
        "gateways": gateways,
        "silent": gathering.silent().collect::<Vec<_>>(),
    })
}

/// How many sessions were closed, and the answer that says so. If it is not complete, it is a refusal as well.
fn closed(user: &UserId, gathering: &Gathering) -> (u64, Value) {
    let (mut closed, mut gateways) = (0_u64, Vec::new());
    for (gateway, answer) in gathering.answers() {
        let UserAnswer::Closed(count) = answer else { continue };
        closed = closed.saturating_add(*count);
        gateways.push(json!({ "gateway": gateway.id.as_str(), "closed": count }));
    }
    let silent: Vec<&str> = gathering.silent().collect();
    let mut report = json!({
        "user": user.as_str(),
        "complete": gathering.is_complete(),
        "closed": closed,
        "gateways": gateways,
        "silent": silent,
    });
    if !gathering.is_complete() {
        report["code"] = json!("incomplete");
        report["message"] = json!(format!(
            "{} did not answer in time, and may still have sessions of the user; repeat the request",
            silent.join(", ")
        ));
    }
    (closed, report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::messages::SessionList;
    use tickwire_core::ids::{NodeId, NodeRef, Nonce};

    fn node(name: &str) -> NodeRef {
        NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
    }

    /// What the first of two gateways has answered.
    fn half(answer: UserAnswer) -> Gathering {
        let mut gathering = Gathering::default();
        for gateway in ["gw-1", "gw-2"] {
            gathering.expect(&node(gateway));
        }
        gathering.note(node("gw-1"), answer, 10);
        gathering
    }

    #[test]
    fn partial_answer_names_the_gateways_that_are_silent() {
        let ann = UserId::new("ann").unwrap();
        let list = SessionList::new(Value::Null, [json!({ "session": "gw-1-0-7" })].into_iter());
        let expected = json!({
            "user": "ann",
            "complete": false,
            "session_count": 1,
            "gateways": [{
                "gateway": "gw-1", "rate": null, "session_count": 1, "truncated": false,
                "sessions": [{ "session": "gw-1-0-7" }],
            }],
            "silent": ["gw-2"],
        });
        assert_eq!(shown(&ann, &half(UserAnswer::Sessions(list))), expected);

        let (count, report) = closed(&ann, &half(UserAnswer::Closed(3)));
        assert_eq!((count, &report["closed"], &report["code"]), (3, &json!(3), &json!("incomplete")));
        assert_eq!(report["gateways"], json!([{ "gateway": "gw-1", "closed": 3 }]));
        assert!(report["message"].as_str().unwrap().starts_with("gw-2 did not answer"), "{report}");
    }

    #[test]
    fn complete_answer_lists_every_session_of_every_gateway() {
        let ann = UserId::new("ann").unwrap();
        let mut gathering = Gathering::default();
        assert_eq!(shown(&ann, &gathering)["complete"], true);
        let session = json!({ "session": "s" });
        gathering.expect(&node("gw-1"));
        let cut = SessionList::new(Value::Null, std::iter::repeat_n(session, 1_000));
        gathering.note(node("gw-1"), UserAnswer::Sessions(cut), 10);
        let report = shown(&ann, &gathering);
        assert_eq!((&report["complete"], &report["session_count"]), (&json!(false), &json!(1_000)));
        assert_eq!(report["gateways"][0]["truncated"], true);
    }

    #[test]
    fn forged_counts_beyond_all_numbers_are_the_largest_one() {
        let ann = UserId::new("ann").unwrap();
        let of_two = |answer: &UserAnswer| {
            let mut gathering = Gathering::default();
            for gateway in ["gw-1", "gw-2"] {
                gathering.expect(&node(gateway));
                gathering.note(node(gateway), answer.clone(), 10);
            }
            gathering
        };
        assert_eq!(closed(&ann, &of_two(&UserAnswer::Closed(u64::MAX))).0, u64::MAX);
        let list = SessionList { session_count: u64::MAX, rate: Value::Null, sessions: Vec::new() };
        assert_eq!(shown(&ann, &of_two(&UserAnswer::Sessions(list)))["session_count"], u64::MAX);
    }
}
