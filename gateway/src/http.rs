//! The HTTP side: the demo page, the request for a user's [`home`] gateway, and the upgrade to a WebSocket at
//! `/v1/stream`.
//!
//! * `upgrade` checks that a request is a valid WebSocket upgrade, and answers it;
//! * [`home`] names the home gateway of a user, and `me` answers with the sessions of a user. `identify` checks who
//!   asks, and [`cors`] lets pages of other origins ask;
//! * `saved` lets users read and change their saved subscriptions. `user` has what it shares with `me`;
//! * `refusal` is the answer to a refused request, and [`starting`] refuses all while the gateway starts.
//!
//! An upgraded socket is taken from the HTTP server at once: this frees the server's buffers, and only the gateway
//! closes the socket.

pub(crate) mod cors;
pub(crate) mod home;
mod identify;
mod me;
mod refusal;
mod saved;
pub(crate) mod starting;
mod upgrade;
mod user;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::upgrade::OnUpgrade;
use rand::Rng;
use serde::Deserialize;
use tickwire_core::placement::View;
use tickwire_core::protocol::Encoding;
use tickwire_node::api::document;
use tickwire_node::clock::wall_clock;
use tickwire_node::config::{GatewayConfig, ProxyProtocol, WebOrigin};
use tickwire_node::http::{
    ClientNetwork, ConnectionSlot, ConnectionSlots, Deadlines, FORWARDED_FOR, HttpLimits, HttpPeer, HttpServer,
    Proxies, into_tcp,
};
use tickwire_node::shutdown::contain;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::auth::{AuthError, Credentials, Identity};
use crate::handshake::admission::{Admission, Caller};
use crate::handshake::capacity::Capacity;

use crate::handshake::{Handshake, MAX_UNNAMED_BYTES};
use crate::metrics;
use crate::saved::store::SavedStore;
use crate::socket::{MessageReader, ReadRate, TcpSocket};
use crate::status::endpoints::{ALL_SAVED, CONNECT, ME, PUBLIC, PUBLIC_OPENAPI, SAVED, STREAM};
use crate::status::users::Users;

pub(crate) use crate::http::refusal::HttpRefusal;
pub(crate) use crate::http::upgrade::offered_credentials;

/// When a client may try again after the gateway was full, in seconds.
const FULL_RETRY_SECONDS: u32 = 5;

/// The longest retry time for a client that connects while the gateway stops, in seconds. Each gets a random one.
const MOST_DRAIN_RETRY_SECONDS: u32 = 3;

/// How long the upgrade may take after it was answered.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a stopping gateway still answers requests at least, even without sessions. Balancers and clients learn
/// late that it stops, and a client that gets no answer does not know when to retry.
const LEAST_DRAIN: Duration = Duration::from_secs(1);

/// How many characters of an origin a refusal repeats.
const SHOWN_ORIGIN: usize = 80;

/// The type of the scripts of the demo page.
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the routes need.
#[derive(Debug)]
pub(crate) struct HttpState {
    pub(crate) handshake: Arc<Handshake>,
    pub(crate) users: Arc<Users>,
    pub(crate) saved: Arc<SavedStore>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) connect_url: String,
    pub(crate) allowed_origins: Vec<WebOrigin>,
    admission: Admission,
    proxies: Arc<Proxies>,
    /// One permit for each session that this gateway accepts.
    sessions: Arc<Semaphore>,
    /// The places for unauthenticated connections. Each of these holds a session permit as well.
    unnamed: ConnectionSlots,
    limits: HttpLimits,
    max_frame_bytes: usize,
    rate: ReadRate,
    tasks: TaskTracker,
    drain: CancellationToken,
}

impl HttpState {
    pub(crate) fn new(
        handshake: Handshake,
        users: Arc<Users>,
        saved: Arc<SavedStore>,
        config: &GatewayConfig,
        capacity: &Capacity,
        view: watch::Receiver<Arc<View>>,
        drain: CancellationToken,
    ) -> Self {
        let proxies = Arc::new(Proxies::new(config.trusted_proxies.clone()));
        Self {
            handshake: Arc::new(handshake),
            users,
            saved,
            view,
            connect_url: config.connect_url.clone(),
            allowed_origins: config.allowed_origins.clone(),
            admission: Admission::new(config.admission_rate),
            sessions: Arc::new(Semaphore::new(capacity.sessions)),
            unnamed: ConnectionSlots::new(capacity.unnamed, Arc::clone(&proxies)),
            limits: HttpLimits {
                connections: capacity.connections,
                deadlines: deadlines(config),
                proxies: Arc::clone(&proxies),
                proxy_headers: config.proxy_protocol == ProxyProtocol::Required,
            },
            proxies,
            max_frame_bytes: config.max_frame_bytes,
            rate: ReadRate { frames: config.read_frames, bytes: config.read_bytes },
            tasks: TaskTracker::new(),
            drain,
        }
    }
}

fn deadlines(config: &GatewayConfig) -> Deadlines {
    Deadlines { head: config.head_timeout, idle: config.idle_timeout, write: config.write_timeout }
}

/// Serves until the drain is over. It is over when all shards have ended, and a shard ends when its last session has
/// left. Until then every request is answered, if only with a refusal and a retry time.
pub(crate) async fn serve(listener: TcpListener, state: HttpState) {
    let (tasks, drain, handshake) = (state.tasks.clone(), state.drain.clone(), Arc::clone(&state.handshake));
    let limits = state.limits.clone();
    let stop = CancellationToken::new();
    let server = HttpServer::new("gateway", listener, routes(state), limits).closing(drain.clone()).run(stop.clone());
    let drained = async {
        drain.cancelled().await;
        tokio::join!(sleep(LEAST_DRAIN), handshake.wait_for_shards());
        stop.cancel();
    };
    tokio::join!(server, drained);
    tasks.close();
    tasks.wait().await;
}

/// The text of a 405.
const WRONG_METHOD: &str = "this path does not have this method; the header Allow has those that it has\n";

fn routes(state: HttpState) -> Router {
    let page =
        |mime: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, mime)], text) });
    // Only a GET becomes a WebSocket, and axum passes a HEAD to the handler of GET unless HEAD has its own handler.
    let only_get = || async { (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")], WRONG_METHOD) };
    let body = DefaultBodyLimit::max(state.max_frame_bytes);
    let saved = get(saved::show).put(saved::put).delete(saved::delete);
    let saved = saved.options(cors::preflight_of_saved).fallback(cors::wrong_method_of_saved);
    Router::new()
        .route("/", get(index))
        .route("/app.js", page(SCRIPT, include_str!("../../web/app.js")))
        .route("/alerts.js", page(SCRIPT, include_str!("../../web/alerts.js")))
        .route("/messages.js", page(SCRIPT, include_str!("../../web/messages.js")))
        .route("/page.js", page(SCRIPT, include_str!("../../web/page.js")))
        .route("/table.js", page(SCRIPT, include_str!("../../web/table.js")))
        .route("/style.css", page("text/css; charset=utf-8", include_str!("../../web/style.css")))
        .route(CONNECT.path, get(home::connect).options(cors::preflight).fallback(cors::wrong_method))
        .route(ME.path, get(me::me).options(cors::preflight).fallback(cors::wrong_method))
        .route(ALL_SAVED.path, get(saved::list).options(cors::preflight).fallback(cors::wrong_method))
        .route(SAVED.path, saved.layer(body))
        .route(STREAM.path, get(stream).head(only_get).fallback(only_get))
        .route(PUBLIC_OPENAPI.path, get(|| std::future::ready(Json(public_document()))))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, WRONG_METHOD))
        .fallback(not_found)
        .with_state(Arc::new(state))
}

/// The document of the endpoints for clients.
fn public_document() -> serde_json::Value {
    let endpoints: Vec<_> = PUBLIC.into_iter().chain([&PUBLIC_OPENAPI]).collect();
    document(&endpoints)
}

/// The demo page. A WebSocket client without the path of the stream would take the page for a broken server.
async fn index(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if crate::http::upgrade::is_asked_for(&headers) {
        return not_found(method, uri).await;
    }
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("../../web/index.html")).into_response()
}

/// Answers a request that no route takes. `OPTIONS *` asks about the server itself (RFC 9110, 9.3.7).
async fn not_found(method: Method, uri: Uri) -> Response {
    match (method, uri.path()) {
        (Method::OPTIONS, "*") => (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, HEAD, OPTIONS")]).into_response(),
        _ => (StatusCode::NOT_FOUND, "no such page; clients connect to /v1/stream\n").into_response(),
    }
}

/// What the query of a URL may have: credentials, since browsers cannot set headers on a WebSocket request, and a wish
/// for the session.
#[derive(Deserialize)]
pub(crate) struct OfferedQuery {
    token: Option<String>,
    user: Option<String>,
    /// Whether a session gets the saved subscriptions of its user. It does unless this says no.
    saved: Option<bool>,
}

/// The query. It is rejected when it has a parameter twice.
pub(crate) type CredentialsQuery = Result<Query<OfferedQuery>, QueryRejection>;

/// Reads the credentials in the query.
pub(crate) fn read_query(query: CredentialsQuery) -> Result<OfferedQuery, HttpRefusal> {
    let message = "the query may have `token`, `user` and `saved` (`true` or `false`) once each";
    query.map(|Query(offered)| offered).map_err(|_| HttpRefusal::unreadable_credentials(message))
}

/// The places of an admitted connection: one among the sessions and, until it is authenticated, one among the unnamed.
struct AdmittedConnection {
    session: OwnedSemaphorePermit,
    unnamed: Option<ConnectionSlot>,
}

async fn stream(
    State(state): State<Arc<HttpState>>,
    Extension(HttpPeer(peer)): Extension<HttpPeer>,
    query: CredentialsQuery,
    mut request: Request,
) -> Result<Response, Response> {
    metrics::CONNECTIONS.increment(1);
    let StreamRequest { key, encoding, credentials, takes_saved } = read(&state, &request, query).map_err(refuse)?;
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(refuse(HttpRefusal::new(StatusCode::UPGRADE_REQUIRED, "WebSocket needs HTTP/1.1")));
    };
    let forwarded = request.headers().get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let peer = state.proxies.client(peer.ip(), forwarded);
    let network = ClientNetwork::of(peer);
    let named = credentials.map(|credentials| state.handshake.authenticator.check(wall_clock(), &credentials));
    let place = admit(&state, network, named.as_ref()).map_err(busy)?;
    let accepted = crate::http::upgrade::accept(&key, encoding);
    state.tasks.spawn(contain(
        "handshake",
        run_handshake(Arc::clone(&state), upgrade, (encoding, peer, takes_saved), named, place),
    ));
    Ok(accepted)
}

/// What a request for a WebSocket asks for.
struct StreamRequest {
    key: String,
    encoding: Option<Encoding>,
    credentials: Option<Credentials>,
    takes_saved: bool,
}

/// Reads a request for a WebSocket.
fn read(state: &HttpState, request: &Request, query: CredentialsQuery) -> Result<StreamRequest, HttpRefusal> {
    let headers = request.headers();
    let key = crate::http::upgrade::check(request)?.to_owned();
    check_origin(headers, &state.allowed_origins)?;
    let encoding = crate::http::upgrade::choose_encoding(headers)?;
    let offered = read_query(query)?;
    let takes_saved = offered.saved.unwrap_or(true);
    Ok(StreamRequest { key, encoding, credentials: offered_credentials(headers, offered)?, takes_saved })
}

/// Why a connection gets no place now, and after how many seconds it may try again.
type BusyReason = (&'static str, u32);

/// Finds a place for a connection.
fn admit(
    state: &HttpState,
    network: ClientNetwork,
    named: Option<&Result<Identity, AuthError>>,
) -> Result<AdmittedConnection, BusyReason> {
    if state.drain.is_cancelled() {
        let seconds = rand::rng().random_range(1..=MOST_DRAIN_RETRY_SECONDS);
        return Err(("this gateway is shutting down; try another", seconds));
    }
    let Ok(session) = Arc::clone(&state.sessions).try_acquire_owned() else {
        return Err(("this gateway is full; try another", FULL_RETRY_SECONDS));
    };
    let caller = match named {
        Some(Ok(identity)) => Caller::User(&identity.user),
        _ => Caller::Unnamed(network),
    };
    let is_unnamed = matches!(caller, Caller::Unnamed(_));
    let admitted = state.admission.admit(caller);
    admitted.map_err(|seconds| ("too many clients connect at the same time; try again later", seconds))?;
    let unnamed = if is_unnamed {
        let now = state.admission.now();
        let displace = || {
            metrics::DISPLACED_SOCKETS.increment(1);
            state.unnamed.take_over(network, now)
        };
        let place = state.unnamed.take(network, now).or_else(displace);
        Some(place.ok_or(("too many unauthenticated clients; try again later", FULL_RETRY_SECONDS))?)
    } else {
        None
    };
    Ok(AdmittedConnection { session, unnamed })
}

/// Takes an upgraded connection through the handshake to its shard.
async fn run_handshake(
    state: Arc<HttpState>,
    upgrade: OnUpgrade,
    (encoding, peer, takes_saved): (Option<Encoding>, IpAddr, bool),
    named: Option<Result<Identity, AuthError>>,
    place: AdmittedConnection,
) {
    let (tcp, read) = match timeout(UPGRADE_TIMEOUT, upgrade).await {
        Ok(Ok(upgraded)) => match into_tcp(upgraded) {
            Some(parts) => parts,
            None => return warn!("upgraded connection is not a TCP socket"),
        },
        Ok(Err(error)) => return debug!(%error, "upgrade failed"),
        Err(_) => return debug!("upgrade timed out"),
    };
    let max_frame_bytes = state.max_frame_bytes.min(MAX_UNNAMED_BYTES);
    let reader = MessageReader::new(&read, max_frame_bytes);
    let socket = TcpSocket::new(tcp, reader, state.rate, encoding.unwrap_or(Encoding::Json));
    let AdmittedConnection { session, unnamed } = place;
    if let Some((mut socket, identity)) =
        state.handshake.authenticate_or_refuse(socket, named, unnamed, &state.drain).await
    {
        socket.set_max_frame_bytes(state.max_frame_bytes);
        state.handshake.start_session(socket, identity, peer, takes_saved, session).await;
    }
}

/// Refuses a request of a page whose origin may not connect.
pub(crate) fn check_origin(headers: &HeaderMap, allowed: &[WebOrigin]) -> Result<(), HttpRefusal> {
    match headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
        Some(origin) if !allowed.is_empty() && !allowed.iter().any(|one| one.has(origin)) => {
            let origin = crate::http::upgrade::clipped(origin, SHOWN_ORIGIN);
            let message = format!("pages of {origin} may not connect (gateway.allowed_origins)");
            Err(HttpRefusal::new(StatusCode::FORBIDDEN, message))
        }
        _ => Ok(()),
    }
}

/// The answer to a request for a WebSocket that is refused.
fn refuse(refused: HttpRefusal) -> Response {
    metrics::REFUSED_UPGRADES.with(refused.status.as_u16().to_string()).increment(1);
    let mut response = refused.into_response();
    crate::http::upgrade::explain(&mut response);
    response
}

/// The answer to a connection that gets no place now.
fn busy((message, retry_after): BusyReason) -> Response {
    let mut response = refuse(HttpRefusal::later(message, retry_after));
    // It does not become a session, so it need not keep the connection.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
