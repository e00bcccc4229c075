//! Refuses clients while the gateway starts. It may wait for NATS, or for streams that no router has created yet, and a
//! client whose connection is only held does not know when to try again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tickwire_node::config::{GatewayConfig, ProxyProtocol};
use tickwire_node::http::{HttpLimits, HttpServer, Proxies};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{HttpRefusal, deadlines};

/// How many clients get their refusal at the same time.
const CONNECTIONS: usize = 64;

/// When a client may try again, in seconds.
const RETRY_SECONDS: u32 = 1;

const REFUSAL: &str = "this gateway starts, and is not connected to its cluster yet; connect again, to any gateway";

/// Listens for clients: for all that comes after the start, and for [`refuse_during`]. Both have one queue of connections,
/// so the system refuses none in between.
pub(crate) async fn listen(address: SocketAddr) -> io::Result<(std::net::TcpListener, TcpListener)> {
    let listener = TcpListener::bind(address).await?.into_std()?;
    let refusing = TcpListener::from_std(listener.try_clone()?)?;
    Ok((listener, refusing))
}

/// Refuses every request until the gateway has started.
pub(crate) async fn refuse_during<T>(
    start: impl Future<Output = T>,
    listener: TcpListener,
    config: &GatewayConfig,
) -> T {
    let ended = CancellationToken::new();
    let start = async {
        let outcome = start.await;
        ended.cancel();
        outcome
    };
    let (outcome, ()) = tokio::join!(start, refuse(listener, config, ended.clone()));
    outcome
}

async fn refuse(listener: TcpListener, config: &GatewayConfig, started: CancellationToken) {
    let limits = HttpLimits {
        connections: CONNECTIONS,
        deadlines: deadlines(config),
        proxies: Arc::new(Proxies::new(config.trusted_proxies.clone())),
        proxy_headers: config.proxy_protocol == ProxyProtocol::Required,
    };
    let routes = Router::new().fallback(async || HttpRefusal::later(REFUSAL, RETRY_SECONDS));
    // Each answer ends its connection, so that the next request is for the gateway that has started.
    let closing = CancellationToken::new();
    closing.cancel();
    HttpServer::new("gateway", listener, routes, limits).closing(closing).run(started).await;
}
