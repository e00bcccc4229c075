//! The admin server: whether the node lives, whether it is ready and if not what is missing, and its metrics. It has
//! a port of its own, on loopback unless told otherwise, and goes on answering while the node drains. It has a thread of
//! its own, too: whatever is asked there, and however often, what the node does for others does not wait behind it.

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

/// How long the server may take to end once it is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How long its peers may take. Those who scrape come again within a minute.
const DEADLINES: Deadlines =
    Deadlines { head: Duration::from_secs(5), idle: Duration::from_secs(75), write: Duration::from_secs(10) };

/// The address cannot be listened on.
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
    /// Listens and serves. Once the drain begins the node counts as not ready, so that it is sent nothing new.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the system has no thread to give.
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
        let (stopped, (ends, ended)) = (stop.clone(), oneshot::channel());
        let work = move || {
            let served =
                || info_span!("thread", thread = "admin").in_scope(|| serve(listener, routes, limits, stopped));
            // Whoever started the node is gone if nobody hears of it.
            ends.send(catch_unwind(AssertUnwindSafe(served))).ok();
        };
        thread::Builder::new().name("admin".to_owned()).spawn(work).map_err(failed)?;
        let watched = async move {
            match ended.await {
                Ok(Ok(Ok(()))) | Err(_) => {}
                Ok(Ok(Err(failure))) => error!(%failure, "the admin server cannot serve"),
                Ok(Err(panic)) => resume_unwind(panic),
            }
        };
        let server = shutdown.spawn_beside("admin", stop.clone(), watched);
        info!(%address, "admin server listens");
        Ok(Self { address, stop, server })
    }

    /// The address that it listens on, its port known even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and waits for the answers that are under way. The last thing that a node does.
    pub async fn stop(self) {
        self.stop.cancel();
        let abort = self.server.abort_handle();
        if timeout(STOP_GRACE, self.server).await.is_err() {
            warn!("an admin request did not end in time");
            abort.abort();
        }
    }
}

/// Serves on this thread until told to stop.
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
