//! `GET /v1/connect`: which gateway is a user's home. A client that connects there spares the cluster an announcement
//! and every alert a detour; one that does not is served as well.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use metrics::{counter, describe_counter};
use serde::Serialize;
use tickwire_core::ids::NodeId;
use tickwire_node::clock::wall_clock;

use crate::http::{Front, Offered, Refused, check_origin, cors, offered_credentials};

/// What stands for the gateway's name in `gateway.connect_url`.
const PLACE: &str = "{gateway}";

/// Where to connect.
#[derive(Serialize)]
struct Home {
    gateway: NodeId,
    url: String,
}

/// Names the home of the user that the credentials prove. Pages of other origins may ask, if they may connect.
pub(crate) async fn connect(
    State(front): State<Arc<Front>>,
    Query(offered): Query<Offered>,
    headers: HeaderMap,
) -> Response {
    let mut response = match find(&front, offered, &headers) {
        Ok(home) => Json(home).into_response(),
        Err((status, message)) => (status, message + "\n").into_response(),
    };
    let status = response.status();
    counter!("tickwire_gateway_home_requests_total", "status" => status.as_u16().to_string()).increment(1);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    cors::tell(&front, &headers, &mut response);
    response
}

fn find(front: &Front, offered: Offered, headers: &HeaderMap) -> Result<Home, Refused> {
    check_origin(headers, &front.allowed_origins)?;
    if front.connect_url.is_empty() {
        let message = "this cluster names no homes (gateway.connect_url); connect to /v1/stream here";
        return Err((StatusCode::NOT_FOUND, message.to_owned()));
    }
    let Some(credentials) = offered_credentials(headers, offered)? else {
        let message = "say who you are: Authorization: Bearer <token>, or ?token=";
        return Err((StatusCode::UNAUTHORIZED, message.to_owned()));
    };
    let identity = front.lobby.authenticator.check(wall_clock(), &credentials);
    let identity = identity.map_err(|error| (StatusCode::UNAUTHORIZED, error.to_string()))?;
    let view = front.view.borrow();
    let Some(home) = view.home(&identity.user) else {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "no gateway is known at the moment; try again".to_owned()));
    };
    let url = front.connect_url.replace(PLACE, home.id.as_str());
    Ok(Home { gateway: home.id.clone(), url })
}

pub(crate) fn describe() {
    describe_counter!("tickwire_gateway_home_requests_total", "Questions for a user's home, by status of the answer");
}
