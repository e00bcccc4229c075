//! The admin server: whether the node lives, whether it is ready and if not what is missing, and its metrics. It has
//! a port of its own, on loopback unless told otherwise, and goes on answering while the node drains.

mod readiness;

pub use readiness::{Check, Readiness, Report};

use crate::telemetry::Metrics;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long answers that are under way may take once the server is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("admin.listen = {listen}: cannot listen there: {source}; is another node using it?")]
pub struct AdminError {
    listen: SocketAddr,
    source: std::io::Error,
}

/// A running admin server.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Admin {
    /// Listens and serves. Once `drain` is cancelled the node counts as not ready, so that it is sent nothing new.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(
        listen: SocketAddr,
        readiness: Readiness,
        metrics: Metrics,
        drain: CancellationToken,
    ) -> Result<Self, AdminError> {
        let failed = |source| AdminError { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            let served = axum::serve(listener, routes(readiness, metrics, drain)).with_graceful_shutdown(stopped).await;
            if let Err(error) = served {
                error!(%error, "the admin server ended");
            }
        });
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

fn routes(readiness: Readiness, metrics: Metrics, drain: CancellationToken) -> Router {
    let live = get(|| async { "ok\n" });
    let ready = get(|State((readiness, drain)): State<(Readiness, CancellationToken)>| async move {
        let report = readiness.report(drain.is_cancelled());
        let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(report)).into_response()
    });
    let measured = get(|State(metrics): State<Metrics>| async move {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
    });
    Router::new()
        .route("/livez", live)
        .route("/readyz", ready.with_state((readiness, drain)))
        .route("/metrics", measured.with_state(metrics))
}
