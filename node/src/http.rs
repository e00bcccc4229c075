//! How a node serves HTTP, to clients and to operators: a bounded number of connections, a deadline for everything that
//! a peer can delay, and an owner for every task.
//!
//! A connection that arrives when all slots are taken displaces the one that has waited longest, of the network that
//! has the most of them ([`ConnectionSlots`]). So a flood displaces itself. A request that has arrived completely has a
//! second for its answer, in which its connection is not displaced. An upgraded connection leaves its slot.
//!
//! Behind load balancers that pass TCP on, each connection begins with a PROXY header, which states its client.

mod client_network;
mod deadlines;
mod gathered_body;
pub(crate) mod proxy_header;
mod slots;

pub use crate::http::deadlines::Deadlines;
pub use crate::http::slots::{ConnectionSlot, ConnectionSlots};
pub use client_network::{ClientNetwork, Proxies};

use crate::clock::Clock;
use crate::http::deadlines::{ConnectionDeadline, Timed};
use crate::http::gathered_body::GatheredBody;
use crate::http::proxy_header::{Refused, read_client};
use crate::metrics;
use crate::shutdown::contain;
use axum::Router;
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// The most bytes that the head of a request may have.
const HEAD_BYTES: usize = 16 * 1024;

/// The pause after an accept that failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often failures to accept are logged at most.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How long a new connection waits for the slot of a displaced one.
const PLACE_WAIT: Duration = Duration::from_millis(200);

/// How long answers in progress may take after the stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// By which proxies state clients. A client of a proxy that passes TCP on can write it too.
pub const FORWARDED_FOR: &str = "x-forwarded-for";

/// The answer when there is no slot. The request has not been read, so the HTTP server cannot answer it.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The limits of a server.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// How many connections it has at most.
    pub connections: usize,
    /// How long a peer may take.
    pub deadlines: Deadlines,
    /// The proxies, which connect for others. Their connections are displaced last.
    pub proxies: Arc<Proxies>,
    /// Whether only these may connect, and have to begin each connection with a PROXY header.
    pub proxy_headers: bool,
}

/// The sender of a request, or the client that a PROXY header states for it: an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct HttpPeer(pub SocketAddr);

/// An HTTP server.
#[derive(Debug)]
pub struct HttpServer {
    name: &'static str,
    listener: TcpListener,
    routes: Router,
    limits: HttpLimits,
    /// Once cancelled, every answer ends its connection.
    closing: CancellationToken,
    stop: CancellationToken,
}

/// What all connections of a server share while it runs.
struct Accepting {
    tasks: TaskTracker,
    places: ConnectionSlots,
    clock: Clock,
    /// Once cancelled, every connection ends at once.
    cut: CancellationToken,
}

impl HttpServer {
    /// A server of these routes; `name` is its label in metrics and logs.
    pub fn new(name: &'static str, listener: TcpListener, routes: Router, limits: HttpLimits) -> Self {
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        Self { name, listener, routes, limits, closing, stop }
    }

    /// Once `closing` is cancelled, every answer ends its connection, so that the peer connects elsewhere.
    #[must_use]
    pub fn closing(self, closing: CancellationToken) -> Self {
        Self { closing, ..self }
    }

    /// Serves until `stop` is cancelled and the answers in progress have ended or taken too long.
    pub async fn run(self, stop: CancellationToken) {
        let server = Self { stop, ..self };
        let accepting = Accepting {
            tasks: TaskTracker::new(),
            places: ConnectionSlots::new(server.limits.connections, Arc::clone(&server.limits.proxies)),
            clock: Clock::start(),
            cut: CancellationToken::new(),
        };
        let mut logged: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = server.stop.cancelled() => break,
                accepted = server.listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => server.take(&accepting, tcp, peer).await,
                Err(error) => {
                    metrics::HTTP_ACCEPT_ERRORS.with(server.name).increment(1);
                    if logged.is_none_or(|logged| logged.elapsed() >= ACCEPT_LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        warn!(server = server.name, %error, "accept failed");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let Self { listener, name, .. } = server;
        drop(listener);
        let Accepting { tasks, cut, .. } = accepting;
        tasks.close();
        if timeout(STOP_GRACE, tasks.wait()).await.is_err() {
            warn!(server = name, requests = tasks.len(), "requests not finished in time, cut");
            cut.cancel();
            tasks.wait().await;
        }
    }

    /// Gives a connection a slot, if necessary that of another one.
    async fn take(&self, accepting: &Accepting, tcp: TcpStream, peer: SocketAddr) {
        let Accepting { tasks, places, clock, cut } = accepting;
        metrics::HTTP_CONNECTIONS.with(self.name).increment(1);
        let mut taken = places.take(ClientNetwork::of(peer.ip()), clock.now());
        if taken.is_none() {
            let displaced = places.displace(clock.now());
            if displaced {
                metrics::HTTP_DISPLACED_CONNECTIONS.with(self.name).increment(1);
                // It ends as soon as its task runs.
                let freed = timeout(PLACE_WAIT, places.freed());
                if freed.await.is_ok() {
                    taken = places.take(ClientNetwork::of(peer.ip()), clock.now());
                }
            }
        }
        let Some(place) = taken else {
            metrics::HTTP_REFUSED_CONNECTIONS.with(self.name).increment(1);
            // A peer that does not read the answer is ignored.
            tcp.try_write(NO_PLACE).ok();
            return;
        };
        if let Err(error) = tcp.set_nodelay(true) {
            debug!(server = self.name, %error, "connection broke at once");
            return;
        }
        let deadline = ConnectionDeadline::new(*clock, place);
        tasks.spawn(contain(self.name, self.serve(tcp, peer, deadline, cut.clone())));
    }

    /// Serves one connection until either side ends it, it is upgraded, or it is displaced.
    fn serve(
        &self,
        mut tcp: TcpStream,
        peer: SocketAddr,
        deadline: ConnectionDeadline,
        cut: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (name, limits, service) = (self.name, self.limits.clone(), TowerToHyperService::new(self.routes.clone()));
        let (closing, stop) = (self.closing.clone(), self.stop.clone());
        async move {
            let line = Arc::new(deadline);
            let stated = if limits.proxy_headers {
                let client = tokio::select! {
                    client = read_client(name, &mut tcp, peer, &limits.proxies, limits.deadlines.head) => client,
                    () = line.displaced() => Err(Refused),
                    () = stop.cancelled() => Err(Refused),
                };
                let Ok(client) = client else { return };
                line.counts_for(ClientNetwork::of(client.unwrap_or(peer).ip()));
                client
            } else {
                Some(peer)
            };
            let sender = stated.unwrap_or(peer);
            let called = Arc::clone(&line);
            let answer = service_fn(move |mut request: hyper::Request<Incoming>| {
                request.extensions_mut().insert(HttpPeer(sender));
                if stated.is_none() {
                    // The proxy does not know the client, and passes on what it sends: this is the client's own word.
                    request.headers_mut().remove(FORWARDED_FOR);
                }
                let request = request.map(|body| GatheredBody::new(body, Arc::clone(&called)));
                let answered = names_host(&request).then(|| service.call(request));
                let is_last = closing.is_cancelled() || answered.is_none();
                async move {
                    let mut response = match answered {
                        Some(answered) => answered.await?,
                        None => without_host(),
                    };
                    if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            let timed = Timed::new(tcp, Arc::clone(&line), limits.deadlines);
            let mut http = http1::Builder::new();
            // The deadline for a head is ours (`Timed`); it does not count the idle time before the head.
            http.header_read_timeout(None).max_buf_size(HEAD_BYTES);
            let connection = http.serve_connection(TokioIo::new(timed), answer).with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = line.displaced() => return,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        served = connection => served,
                        () = cut.cancelled() => return,
                    }
                }
            };
            if let Err(error) = served {
                debug!(server = name, %error, "connection ended");
            }
        }
    }
}

/// Whether a request has exactly one `Host` header, as HTTP/1.1 demands (RFC 9112, 3.2).
fn names_host<B>(request: &hyper::Request<B>) -> bool {
    request.version() != Version::HTTP_11 || request.headers().get_all(header::HOST).iter().count() == 1
}

/// The answer to a request that does not. A proxy could take it for a request to another host.
fn without_host() -> Response {
    (StatusCode::BAD_REQUEST, "a request must have exactly one Host header\n").into_response()
}

/// The TCP connection of an upgraded request, and what was read from it beyond the request. `None` if the connection
/// is not one of an [`HttpServer`].
pub fn into_tcp(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Timed<TcpStream>>>().ok()?;
    Some((parts.io.into_inner().into_inner(), parts.read_buf))
}

#[cfg(test)]
#[path = "http/tests.rs"]
mod tests;
