//! The admin server: liveness, readiness with what is missing, and metrics. It has a port of its own, on loopback by
//! default, and still answers while the node drains. It also has a thread of its own: however many requests arrive
//! there, the rest of the node does not wait for them.

mod readiness;
mod scrapes;

pub use readiness::{Check, Readiness, ReadinessReport};

use crate::config::AdminConfig;
use crate::http::{Deadlines, HttpLimits, HttpServer};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use scrapes::Scrapes;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
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

/// The server cannot listen on the address.
#[derive(Debug, Error)]
#[error("admin.listen = {listen}: cannot listen there: {source}; is another node using it?")]
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
        let routes = routes(readiness, metrics, shutdown.drain().clone());
        let limits = HttpLimits { connections: config.max_connections, deadlines: DEADLINES, proxies: Arc::default() };
        let listener = listener.into_std().map_err(failed)?;
        let (stopped, (result_sender, result)) = (stop.clone(), oneshot::channel());
        let work = move || {
            let served =
                || info_span!("thread", thread = "admin").in_scope(|| serve(listener, routes, limits, stopped));
            // If the receiver is gone, the node itself is gone.
            result_sender.send(catch_unwind(AssertUnwindSafe(served))).ok();
        };
        thread::Builder::new().name("admin".to_owned()).spawn(work).map_err(failed)?;
        let watched = async move {
            match result.await {
                Ok(Ok(Ok(()))) | Err(_) => {}
                Ok(Ok(Err(failure))) => error!(%failure, "admin server failed"),
                Ok(Err(panic)) => resume_unwind(panic),
            }
        };
        let server = shutdown.spawn_beside("admin", stop.clone(), watched);
        info!(%address, "admin server listening");
        Ok(Self { address, stop, server })
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
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        HttpServer::new("admin", listener, routes, limits).run(stop).await;
        Ok(())
    })
}

fn routes(readiness: Readiness, metrics: Metrics, drain: CancellationToken) -> Router {
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
        .route("/livez", live)
        .route("/readyz", ready.with_state((readiness, drain)))
        .route("/metrics", measured)
}
