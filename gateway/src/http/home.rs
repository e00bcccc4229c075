//! `GET /v1/connect`: names the home gateway of a user. For a client that connects there, no gateway has to announce
//! its user as a stray to the routers. A client that connects elsewhere is served as well.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tickwire_core::ids::NodeId;

use crate::http::identify::identify;
use crate::http::{CredentialsQuery, HttpRefusal, HttpState, check_origin, cors};
use crate::metrics;

/// When to ask again if no gateway is known, in seconds.
const RETRY_SECONDS: u32 = 1;

/// The placeholder for the gateway's name in `gateway.connect_url`.
const PLACEHOLDER: &str = "{gateway}";

/// Where to connect.
#[derive(Serialize)]
struct Home {
    gateway: NodeId,
    url: String,
}

/// Names the home gateway of the user that the credentials prove. Pages of other origins may ask if they may connect.
pub(crate) async fn connect(
    State(state): State<Arc<HttpState>>,
    query: CredentialsQuery,
    headers: HeaderMap,
) -> Response {
    let found = find(&state, query, &headers);
    let mut response = found.map_or_else(HttpRefusal::into_response, |home| Json(home).into_response());
    let status = response.status();
    metrics::HOME_REQUESTS.with(status.as_u16().to_string()).increment(1);
    // It is about one user, and old as soon as the view changes.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    cors::add_headers(&state, &headers, &mut response);
    response
}

fn find(state: &HttpState, query: CredentialsQuery, headers: &HeaderMap) -> Result<Home, HttpRefusal> {
    check_origin(headers, &state.allowed_origins)?;
    if state.connect_url.is_empty() {
        let message = "this cluster has no gateway.connect_url, so it names no home; connect to /v1/stream here";
        return Err(HttpRefusal::new(StatusCode::NOT_FOUND, message));
    }
    let identity = identify(state, query, headers)?;
    let view = state.view.borrow();
    let Some(home) = view.home(&identity.user) else {
        return Err(HttpRefusal::later("no gateway is known at the moment; try again", RETRY_SECONDS));
    };
    let url = state.connect_url.replace(PLACEHOLDER, home.id.as_str());
    Ok(Home { gateway: home.id.clone(), url })
}
