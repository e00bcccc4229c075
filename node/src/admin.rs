//! The admin server: liveness, readiness with what is missing, and metrics. It has a port of its own, on loopback by
//! default, and still answers while the node drains. It also has a thread of its own: however many requests arrive
//! there, the rest of the node does not wait for them.
//!
//! It answers from the start of the node on. The [status](crate::status) needs parts that start later, so its endpoints
//! are added when these have started. The thread also takes the [readings](Readings) of the metrics that the status needs.

mod distribution;
mod readiness;
mod readings;
mod scrapes;

pub use distribution::Distribution;
pub use readiness::{Check, CheckReport, Readiness, ReadinessReport};
pub use readings::{Reading, Readings};

use crate::api::{Access, ApiRefusal, Endpoint, Input, JSON, Listener, field};
use crate::config::AdminConfig;
use crate::http::{Deadlines, HttpLimits, HttpServer};
use crate::listen_error;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use scrapes::Scrapes;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{io, thread};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, info_span, warn};

/// How long the server may take to end after the stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How long its peers may take. A scraper connects again within a minute.
const DEADLINES: Deadlines =
    Deadlines { head: Duration::from_secs(5), idle: Duration::from_secs(75), write: Duration::from_secs(10) };

/// Whether the process runs.
static LIVEZ: Endpoint = Endpoint {
    method: "GET",
    path: "/livez",
    listener: Listener::Admin,
    access: Access::Anyone,
    summary: "Whether the process runs",
    input: Input::NONE,
    status: 200,
    media: "text/plain",
    fields: &[],
    others: &[],
};

/// Whether the node can work.
static READYZ: Endpoint = Endpoint {
    method: "GET",
    path: "/readyz",
    listener: Listener::Admin,
    access: Access::Anyone,
    summary: "Whether the node can work, and what is missing",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        field("ready", "boolean", "Whether nothing is missing"),
        field("checks", "array", "Every check, with what is missing"),
    ],
    others: &[(503, "Something is missing; the answer has the same fields")],
};

/// The metrics.
static METRICS: Endpoint = Endpoint {
    method: "GET",
    path: "/metrics",
    listener: Listener::Admin,
    access: Access::Anyone,
    summary: "The metrics, in the text format of Prometheus",
    input: Input::NONE,
    status: 200,
    media: "text/plain",
    fields: &[],
    others: &[],
};

/// The endpoints that every admin server has from its start on.
pub static FIRST: [&Endpoint; 3] = [&LIVEZ, &READYZ, &METRICS];

/// The server cannot listen on the address.
#[derive(Debug, Error)]
#[error("admin.listen = {listen}: cannot listen there: {source}; {}", listen_error::advice(source))]
pub struct AdminError {
    listen: SocketAddr,
    source: io::Error,
}

/// A running admin server.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
    /// The routes under `/v1`, once the node has started.
    status: Arc<OnceLock<Router>>,
    readings: Arc<Readings>,
}

impl Admin {
    /// Listens and serves. Once the drain begins the node counts as not ready, so that it gets no new work.
    ///
    /// # Errors
    /// When the server cannot listen on the address, or the system cannot start a thread.
    pub async fn start(
        config: &AdminConfig,
        readiness: Readiness,
        metrics: Metrics,
        shutdown: &Shutdown,
    ) -> Result<Self, AdminError> {
        let listen = config.listen;
        let failed = |source| AdminError { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let (status, readings) = (Arc::default(), Arc::new(Readings::new(metrics.clone())));
        let routes = routes(readiness, metrics, shutdown.drain().clone(), Arc::clone(&status));
        let limits = HttpLimits {
            connections: config.max_connections,
            deadlines: DEADLINES,
            proxies: Arc::default(),
            proxy_headers: false,
        };
        let listener = listener.into_std().map_err(failed)?;
        let (stopped, (result_sender, result)) = (stop.clone(), oneshot::channel());
        let taken = Arc::clone(&readings);
        let work = move || {
            let served =
                || info_span!("thread", thread = "admin").in_scope(|| serve(listener, routes, limits, stopped, &taken));
            // If the receiver is gone, the node itself is gone.
            result_sender.send(catch_unwind(AssertUnwindSafe(served))).ok();
        };
        thread::Builder::new().name("admin".to_owned()).spawn(work).map_err(failed)?;
        let watched = async move {
            match result.await {
                Ok(Ok(Ok(()))) | Err(_) => {}
                Ok(Ok(Err(failure))) => error!(reason = %failure, "admin server failed"),
                Ok(Err(panic)) => resume_unwind(panic),
            }
        };
        let server = shutdown.spawn_beside("admin", stop.clone(), watched);
        info!(%address, "admin server listening");
        Ok(Self { address, stop, server, status, readings })
    }

    /// Adds further routes, those under `/v1`. Only the first call counts.
    pub(crate) fn open(&self, routes: Router) {
        self.status.set(routes).ok();
    }

    /// The readings of the metrics.
    pub(crate) fn readings(&self) -> Arc<Readings> {
        Arc::clone(&self.readings)
    }

    /// The address that it listens on; if port 0 was configured, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and waits for the answers in progress. The last thing that a node does.
    pub async fn stop(self) {
        self.stop.cancel();
        let abort = self.server.abort_handle();
        if timeout(STOP_GRACE, self.server).await.is_err() {
            warn!("admin requests not finished in time, aborted");
            abort.abort();
        }
    }
}

/// Serves on this thread until `stop` is cancelled.
fn serve(
    listener: std::net::TcpListener,
    routes: Router,
    limits: HttpLimits,
    stop: CancellationToken,
    readings: &Readings,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let server = HttpServer::new("admin", listener, routes, limits).run(stop);
        tokio::select! {
            () = server => {}
            () = readings.run() => {}
        }
        Ok(())
    })
}

/// Answers a request for anything else. It is no route with a parameter, because the parameters of the inner routes would
/// be added to it.
async fn anything_else(State(status): State<Arc<OnceLock<Router>>>, request: Request) -> Response {
    let Some(routes) = status.get() else {
        return match request.uri().path().starts_with("/v1/") {
            true => ApiRefusal::later("not_started", "the node is starting; see /readyz").into_response(),
            false => ApiRefusal::no_such_endpoint().into_response(),
        };
    };
    TowerToHyperService::new(routes.clone()).call(request).await.unwrap_or_else(|never| match never {})
}

fn routes(readiness: Readiness, metrics: Metrics, drain: CancellationToken, status: Arc<OnceLock<Router>>) -> Router {
    let live = get(|| async { "ok\n" });
    let ready = get(|State((readiness, drain)): State<(Readiness, CancellationToken)>| async move {
        let report = readiness.report(drain.is_cancelled());
        let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(report)).into_response()
    });
    let scrapes = Arc::new(Scrapes::new(move || metrics.render()));
    let measured = get(async move || {
        let text = scrapes.text().await;
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
    });
    Router::new()
        .route(LIVEZ.path, live)
        .route(READYZ.path, ready.with_state((readiness, drain)))
        .route(METRICS.path, measured)
        .method_not_allowed_fallback(async || ApiRefusal::method_not_allowed())
        .fallback(anything_else)
        .with_state(status)
}
