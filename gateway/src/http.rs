//! The HTTP side: the demo page, the question for a user's [`home`], and the upgrade to a WebSocket at `/v1/stream`.
//!
//! An upgraded socket is taken out of the HTTP server's hands at once, so its buffers go and its end is ours alone.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics::counter;
use serde::Deserialize;
use tickwire_core::frames::Encoding;
use tickwire_core::ring::View;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use tungstenite::handshake::derive_accept_key;

use crate::admission::Admission;
use crate::auth::Credentials;
use crate::home;
use crate::lobby::Lobby;
use crate::socket::{Reader, Socket};

/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes that the head of a request may have.
const HEAD_BYTES: usize = 16 * 1024;

/// The pause after an accept that failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When a client that found no place may look again.
const FULL_RETRY_SECONDS: u32 = 5;

/// How long the upgrade itself may take once it was answered.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);

/// The HTTP front: what its routes need.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) lobby: Arc<Lobby>,
    pub(crate) admission: Admission,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) connect_url: String,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) max_frame_bytes: usize,
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: CancellationToken,
}

/// Accepts connections until the drain, then lets requests under way end.
pub(crate) async fn serve(listener: TcpListener, front: Front) {
    let (tasks, drain) = (front.tasks.clone(), front.drain.clone());
    let service = TowerToHyperService::new(routes(front));
    loop {
        let tcp = tokio::select! {
            () = drain.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        counter!("tickwire_gateway_connections_total").increment(1);
        if let Err(error) = tcp.set_nodelay(true) {
            debug!(%error, "a connection broke at once");
            continue;
        }
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
        let connection = http.serve_connection(TokioIo::new(tcp), service.clone()).with_upgrades();
        let drain = drain.clone();
        tasks.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = drain.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                debug!(%error, "a connection ended");
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

fn routes(front: Front) -> Router {
    let page =
        |mime: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, mime)], text) });
    Router::new()
        .route("/", page("text/html; charset=utf-8", include_str!("../../web/index.html")))
        .route("/app.js", page("text/javascript; charset=utf-8", include_str!("../../web/app.js")))
        .route("/style.css", page("text/css; charset=utf-8", include_str!("../../web/style.css")))
        .route("/v1/connect", get(home::connect))
        .route("/v1/stream", get(stream))
        .with_state(Arc::new(front))
}

/// How a client may say who it is in the address: browsers can set no headers.
#[derive(Deserialize)]
pub(crate) struct Offered {
    token: Option<String>,
    user: Option<String>,
}

/// A request that does not become a WebSocket: the status, and what to do about it.
type Refused = (StatusCode, String);

async fn stream(
    State(front): State<Arc<Front>>,
    Query(offered): Query<Offered>,
    mut request: Request,
) -> Result<Response, Response> {
    let refused = |(status, message): Refused| {
        counter!("tickwire_gateway_refused_upgrades_total", "status" => status.as_u16().to_string()).increment(1);
        (status, message + "\n").into_response()
    };
    let headers = request.headers();
    let key = check_upgrade(headers).map_err(refused)?.to_owned();
    check_origin(headers, &front.allowed_origins).map_err(refused)?;
    let encoding = choose_encoding(headers).map_err(refused)?;
    let credentials = offered_credentials(headers, offered).map_err(refused)?;
    let busy = |message: &str, retry_after: u32| {
        let mut response = refused((StatusCode::SERVICE_UNAVAILABLE, message.to_owned()));
        response.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
        response
    };
    let Ok(place) = Arc::clone(&front.places).try_acquire_owned() else {
        return Err(busy("this gateway is full; try another", FULL_RETRY_SECONDS));
    };
    front.admission.admit().map_err(|seconds| busy("too many connect at the same time; try again later", seconds))?;
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(refused((StatusCode::UPGRADE_REQUIRED, "WebSocket needs HTTP/1.1".to_owned())));
    };
    let lobby = Arc::clone(&front.lobby);
    let (max_frame_bytes, drain) = (front.max_frame_bytes, front.drain.clone());
    front.tasks.spawn(async move {
        let admitted = async {
            match timeout(UPGRADE_TIMEOUT, upgrade).await {
                Ok(Ok(upgraded)) => match upgraded.downcast::<TokioIo<TcpStream>>() {
                    Ok(parts) => {
                        let reader = Reader::new(parts.read_buf.into(), max_frame_bytes);
                        let socket = Socket::new(parts.io.into_inner(), reader, encoding.unwrap_or(Encoding::Json));
                        lobby.admit(socket, credentials, place).await;
                    }
                    Err(_) => warn!("an upgraded connection is not a TCP socket"),
                },
                Ok(Err(error)) => debug!(%error, "an upgrade failed"),
                Err(_) => debug!("an upgrade took too long"),
            }
        };
        tokio::select! {
            () = admitted => {}
            () = drain.cancelled() => {}
        }
    });
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
    if let Some(encoding) = encoding {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, encoding.sub_protocol());
    }
    response.body(Body::empty()).map_err(|error| refused((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

/// The client's key, if the request is a WebSocket upgrade (RFC 6455, 4.2.1).
fn check_upgrade(headers: &HeaderMap) -> Result<&str, Refused> {
    let has = |name: HeaderName, word: &str| {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| lists(value, word))
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err((StatusCode::UPGRADE_REQUIRED, "connect with a WebSocket client".to_owned()));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err((StatusCode::BAD_REQUEST, "WebSocket version 13 is spoken here".to_owned()));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    key.ok_or_else(|| (StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing".to_owned()))
}

pub(crate) fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refused> {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    match origin {
        Some(origin) if !allowed.is_empty() && !allowed.iter().any(|one| one == origin) => {
            Err((StatusCode::FORBIDDEN, format!("pages of {origin} may not connect (gateway.allowed_origins)")))
        }
        _ => Ok(()),
    }
}

/// The first sub-protocol offered that is spoken here; `None` if none was offered, which means JSON.
fn choose_encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Refused> {
    let offers: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    match offers.iter().find_map(|name| Encoding::from_sub_protocol(name)) {
        None if !offers.is_empty() => {
            let known = Encoding::ALL.map(Encoding::sub_protocol).join(", ");
            Err((StatusCode::BAD_REQUEST, format!("no known sub-protocol among {offers:?}; there are: {known}")))
        }
        chosen => Ok(chosen),
    }
}

pub(crate) fn offered_credentials(headers: &HeaderMap, offered: Offered) -> Result<Option<Credentials>, Refused> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let token =
            token.ok_or_else(|| (StatusCode::BAD_REQUEST, "Authorization: Bearer <token> is expected".to_owned()))?;
        return Ok(Some(Credentials::Token(token.to_owned())));
    }
    Ok(offered.token.map(Credentials::Token).or(offered.user.map(Credentials::Name)))
}

/// Whether a header's list of words has `word`, in any case.
fn lists(value: &str, word: &str) -> bool {
    value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
}
