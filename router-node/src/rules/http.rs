//! Answers operators who read and change the rules over HTTP. A change is checked as a router would compile it, and
//! logged with its writer. Routers apply it when they look at the bucket.

use super::book::RuleOrigin;
use super::endpoints::{DELETE_RULE, MAX_RULE_BODY, PUT_RULE, RULE, RULES};
use super::list;
use crate::decode::Decoder;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::ids::NodeId;
use tickwire_core::rules::{Rule, RuleFault};
use tickwire_node::api::{ApiRefusal, ApiRoutes, Caller, Precondition, entity_tag};
use tickwire_node::bucket::BucketEntry;
use tickwire_node::names;
use tickwire_node::rule_bucket::{RuleBucket, RuleBucketError, StoredRule};
use tracing::info;

/// What the handlers work with.
#[derive(Debug)]
pub(crate) struct RulesApi {
    pub(crate) node: NodeId,
    pub(crate) bucket: RuleBucket,
    /// It has the rules that are applied, and the kinds of this cluster.
    pub(crate) decoder: Arc<Decoder>,
}

/// Adds the endpoints to the admin server.
pub(crate) fn add_routes(routes: ApiRoutes, api: &Arc<RulesApi>) -> ApiRoutes {
    routes
        .add(&RULES, get(all).with_state(Arc::clone(api)))
        .add(&RULE, get(one).with_state(Arc::clone(api)))
        .add(&PUT_RULE, put(write).layer(DefaultBodyLimit::max(MAX_RULE_BODY)).with_state(Arc::clone(api)))
        .add(&DELETE_RULE, delete(remove).with_state(Arc::clone(api)))
}

/// The id in a path.
type IdOfPath = Result<Path<String>, PathRejection>;

async fn all(State(api): State<Arc<RulesApi>>) -> Json<Value> {
    let rules = &api.decoder.rules;
    let known = rules.known();
    Json(list::all(&api.node, &known, &rules.usages(&known.set)))
}

async fn one(State(api): State<Arc<RulesApi>>, id: IdOfPath) -> Result<Response, ApiRefusal> {
    let id = read_id(id)?;
    let entry = stored_entry(&api, &id).await?.ok_or_else(|| unknown(&id))?;
    let body = list::one(&entry, &api.decoder.rules.known(), &api.decoder.kinds);
    Ok(answer(entry.revision, body))
}

async fn write(
    State(api): State<Arc<RulesApi>>,
    id: IdOfPath,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiRefusal> {
    let id = read_id(id)?;
    let precondition = Precondition::read(&headers)?;
    let body = body.map_err(|rejection| ApiRefusal::unreadable_body(&rejection, MAX_RULE_BODY))?;
    let rule = Rule::from_json(&body, &api.decoder.kinds).map_err(|fault| invalid(&fault))?;
    if rule.id.as_str() != id {
        let reason = format!("it is {}, and the path has {id}", rule.id);
        return Err(ApiRefusal::invalid("bad_rule", "id", &reason, "write the same id in both"));
    }
    let stored =
        StoredRule { rule: json!(rule), updated_by: caller.to_string(), updated_at: Some(jiff::Timestamp::now()) };
    let new = BTreeMap::from([(id.clone(), stored.clone())]);
    let skipped = api.bucket.would_skip(&new, &api.decoder.kinds).await.map_err(|error| failed(&error))?;
    if let Some(skipped) = skipped.first() {
        return Err(invalid(&skipped.fault));
    }
    let expected =
        if precondition.is_none() { None } else { expected(&precondition, stored_entry(&api, &id).await?.as_ref())? };
    let revision = api.bucket.put(&id, &stored, expected).await.map_err(|error| failed(&error))?;
    let StoredRule { rule, updated_by, updated_at } = stored;
    info!(rule = id, revision, by = updated_by, "rule written over HTTP");
    let origin = RuleOrigin { revision, updated_by, updated_at };
    Ok(answer(revision, list::described(&id, &origin, &rule, None)))
}

async fn remove(
    State(api): State<Arc<RulesApi>>,
    id: IdOfPath,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiRefusal> {
    let id = read_id(id)?;
    let precondition = Precondition::read(&headers)?;
    let entry = stored_entry(&api, &id).await?.ok_or_else(|| unknown(&id))?;
    let expected = expected(&precondition, Some(&entry))?;
    api.bucket.delete(&id, expected).await.map_err(|error| failed(&error))?;
    info!(rule = id, revision = entry.revision, by = %caller, "rule deleted over HTTP");
    Ok(StatusCode::NO_CONTENT)
}

/// The entry of a rule; `None` if there is no such rule.
async fn stored_entry(api: &RulesApi, id: &str) -> Result<Option<BucketEntry>, ApiRefusal> {
    api.bucket.entry_of(id).await.map_err(|error| failed(&error))
}

/// The revision that the key of a rule must still have when the rule is changed; `None` if any will do.
fn expected(precondition: &Precondition, entry: Option<&BucketEntry>) -> Result<Option<u64>, ApiRefusal> {
    let revision = entry.map_or(0, |entry| entry.revision);
    match (precondition.is_none(), precondition.admits(entry.is_some(), revision)) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(revision)),
        (false, false) => Err(changed()),
    }
}

/// A rule with its revision as the entity tag.
fn answer(revision: u64, body: Value) -> Response {
    ([entity_tag(revision)], Json(body)).into_response()
}

/// Reads the id in a path. It becomes a part of a subject.
fn read_id(id: IdOfPath) -> Result<String, ApiRefusal> {
    let refused = |reason: &str| ApiRefusal::bad_request("bad_rule_id", format!("the id in the path {reason}"));
    let Path(id) = id.map_err(|rejection| refused(&format!("cannot be read: {}", rejection.body_text())))?;
    if names::is_token(&id) { Ok(id) } else { Err(refused(names::TOKEN_RULE)) }
}

fn invalid(fault: &RuleFault) -> ApiRefusal {
    ApiRefusal::invalid("bad_rule", &fault.path, &fault.reason, &fault.hint)
}

fn unknown(id: &str) -> ApiRefusal {
    ApiRefusal::new(StatusCode::NOT_FOUND, "no_such_rule", format!("there is no rule {id}; GET /v1/rules lists all"))
}

fn changed() -> ApiRefusal {
    let message = "the rule has another revision: read it again, and repeat the change with its ETag";
    ApiRefusal::new(StatusCode::PRECONDITION_FAILED, "other_revision", message)
}

fn failed(error: &RuleBucketError) -> ApiRefusal {
    match error {
        RuleBucketError::OtherRevision { .. } => changed(),
        RuleBucketError::Missing | RuleBucketError::TooLarge { .. } | RuleBucketError::Unavailable { .. } => {
            ApiRefusal::later("rules_unavailable", error.to_string())
        }
    }
}
