//! Between the HTTP upgrade and the shard: a connection authenticates, or is closed with a code.
//!
//! [`capacity`] and [`admission`] decide how many connections are accepted, [`auth`] checks credentials, and
//! [`new_session`] is what the shard gets.

pub(crate) mod admission;
pub(crate) mod capacity;

use std::convert::Infallible;
use std::future::{pending, poll_fn, ready};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tickwire_core::protocol::codes::{CloseCode, ErrorCode};
use tickwire_core::protocol::{ClientFrame, Id, ServerError, ServerFrame, encode, write_array};
use tickwire_node::clock::wall_clock;
use tickwire_node::http::ConnectionSlot;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::auth::{AuthError, Authenticator, Credentials, Identity};
use crate::byte_queue::ByteSender;
use crate::messages::ToShard;
use crate::metrics;
use crate::new_session::{NewSession, shard_of};
use crate::socket::{HEADER, Incoming, Ready, Socket, SocketEnd, TcpSocket};

/// The largest message of an unauthenticated client, in bytes.
pub(crate) const MAX_UNNAMED_BYTES: usize = 16 * 1024;

/// How long a client may take to read its refusal.
const GOODBYE: Duration = Duration::from_secs(2);

/// How many pings and pongs a client may send before it authenticates.
const MAX_PINGS: u32 = 100;

/// What every connection needs to become a session.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) shards: Vec<ByteSender<ToShard>>,
    pub(crate) auth_timeout: Duration,
}

/// Why a connection does not become a session.
#[derive(Debug)]
struct HandshakeRefusal {
    code: CloseCode,
    error: Option<ServerError>,
}

impl Handshake {
    /// Authenticates an upgraded connection, and refuses it if that fails. `offered` is the result for the credentials
    /// in the upgrade, if it had any. Otherwise `place` is the connection's place among the unnamed.
    pub(crate) async fn authenticate_or_refuse(
        &self,
        mut socket: TcpSocket,
        offered: Option<Result<Identity, AuthError>>,
        place: Option<ConnectionSlot>,
        drain: &CancellationToken,
    ) -> Option<(TcpSocket, Identity)> {
        let displaced = async || match &place {
            Some(place) => place.displaced().await,
            None => pending().await,
        };
        let named = match offered {
            Some(Ok(identity)) => Ok(identity),
            Some(Err(error)) => Err(Some(unauthenticated(&error, None))),
            None => tokio::select! {
                named = self.ask(&mut socket) => named,
                () = sleep(self.auth_timeout) => Err(Some(too_late(ErrorCode::AuthTimeout.text()))),
                () = displaced() => {
                    // Another client waits for its place, so there is no time for it to read the refusal.
                    refuse(socket, too_late("other clients wait to authenticate"), ready(())).await;
                    return None;
                }
                () = drain.cancelled() => Err(Some(HandshakeRefusal { code: CloseCode::Draining, error: None })),
            },
        };
        match named {
            Ok(identity) => return Some((socket, identity)),
            Err(Some(refusal)) => refuse(socket, refusal, displaced()).await,
            Err(None) => debug!("connection left before it authenticated"),
        }
        None
    }

    /// Waits until no shard accepts connections.
    pub(crate) async fn wait_for_shards(&self) {
        for shard in &self.shards {
            shard.closed().await;
        }
    }

    fn authenticate(&self, credentials: &Credentials, id: Option<Id>) -> Result<Identity, HandshakeRefusal> {
        self.authenticator.check(wall_clock(), credentials).map_err(|error| unauthenticated(&error, id))
    }

    /// Waits for the first frame, which must be `auth`. `Err(None)` if the client is gone.
    async fn ask(&self, socket: &mut TcpSocket) -> Result<Identity, Option<HandshakeRefusal>> {
        let refused = |error| Err(Some(HandshakeRefusal { code: CloseCode::AuthFailed, error: Some(error) }));
        let mut pings = 0;
        loop {
            match poll_fn(|cx| socket.poll_ready(cx)).await {
                Ready::Broken => return Err(None),
                // Nothing more is read before the client has taken the answers to its pings.
                Ready::Writable => {
                    socket.flush().map_err(|_| None)?;
                    continue;
                }
                Ready::Readable => {}
            }
            match socket.read() {
                // A client that only sends pings yields to others.
                Ok(None) => tokio::task::yield_now().await,
                Ok(Some(Incoming::Alive)) => {
                    pings += 1;
                    if pings > MAX_PINGS {
                        return Err(Some(HandshakeRefusal { code: CloseCode::TooManyBadFrames, error: None }));
                    }
                    tokio::task::yield_now().await;
                }
                Ok(Some(Incoming::WrongType)) => {
                    let message = format!("{} messages are expected", socket.encoding().message_type());
                    return refused(ServerError::new(None, ErrorCode::BadFrame, message));
                }
                Ok(Some(Incoming::TooLarge)) => {
                    let text =
                        format!("a message before authentication may have {} KiB at most", MAX_UNNAMED_BYTES / 1024);
                    let error = Some(ServerError::new(None, ErrorCode::FrameTooLarge, text));
                    return Err(Some(HandshakeRefusal { code: CloseCode::TooBig, error }));
                }
                Ok(Some(Incoming::Frame(bytes))) => {
                    return match ClientFrame::parse(&bytes, socket.encoding()) {
                        Ok((id, ClientFrame::Auth { token })) => {
                            self.authenticate(&Credentials::Token(token.0), id).map_err(Some)
                        }
                        Ok((id, _)) => {
                            let message = "the first frame must be {\"action\":\"auth\",\"token\":\"…\"}";
                            refused(ServerError::new(id, ErrorCode::NotAuthenticated, message))
                        }
                        Err(error) => refused(error.into()),
                    };
                }
                Err(SocketEnd::Gone) => return Err(None),
                Err(SocketEnd::Refused(code)) => return Err(Some(HandshakeRefusal { code, error: None })),
            }
        }
    }

    /// Passes a connection to its shard.
    pub(crate) async fn start_session(
        &self,
        socket: TcpSocket,
        identity: Identity,
        peer: IpAddr,
        takes_saved: bool,
        place: OwnedSemaphorePermit,
    ) {
        let shard = &self.shards[shard_of(&identity.user, self.shards.len())];
        if shard.is_closed() {
            return refuse(socket, HandshakeRefusal { code: CloseCode::Draining, error: None }, pending()).await;
        }
        let socket = match socket.detach() {
            Ok(socket) => socket,
            Err(error) => {
                debug!(%error, "connection broke before it reached its shard");
                return;
            }
        };
        let new_session = ToShard::Arrive(Box::new(NewSession { socket, identity, peer, takes_saved, place }));
        if !shard.send(new_session) {
            debug!("shard has ended, connection dropped");
        }
    }
}

fn unauthenticated(error: &AuthError, id: Option<Id>) -> HandshakeRefusal {
    let frame = ServerError::new(id, ErrorCode::AuthFailed, error.to_string());
    HandshakeRefusal { code: error.close_code(), error: Some(frame) }
}

fn too_late(message: &str) -> HandshakeRefusal {
    let error = ServerError::new(None, ErrorCode::AuthTimeout, message);
    HandshakeRefusal { code: CloseCode::AuthTimeout, error: Some(error) }
}

/// Sends the error, closes with the code, and waits up to [`GOODBYE`] for the client to read it. `displaced` ends the
/// wait.
async fn refuse(mut socket: TcpSocket, refusal: HandshakeRefusal, displaced: impl Future<Output = ()>) {
    let code = refusal.code;
    // Many clients show only the close.
    let reason = refusal.error.as_ref().filter(|error| error.code == ErrorCode::AuthFailed.code());
    let reason = reason.map(|error| error.msg.clone());
    metrics::CLOSES.with(code.code().to_string()).increment(1);
    if let Some(error) = refusal.error {
        metrics::REFUSED_FRAMES.with(error.code.to_string()).increment(1);
        let mut frame = vec![0; HEADER];
        let encoding = socket.encoding();
        let error = encode(&ServerFrame::Error(error), encoding);
        write_array(&mut frame, [error.as_slice()].into_iter(), encoding);
        if socket.send(&mut frame).is_err() {
            return;
        }
    }
    let goodbye = async {
        match &reason {
            Some(reason) => socket.close_with(code, reason)?,
            None => socket.close(code)?,
        }
        loop {
            match poll_fn(|cx| socket.poll_ready(cx)).await {
                Ready::Broken => return Err(SocketEnd::Gone),
                Ready::Writable => socket.flush()?,
                Ready::Readable => {
                    socket.read()?;
                }
            }
            // The deadline is checked only when this task yields.
            tokio::task::yield_now().await;
        }
    };
    let ended: Result<Result<Infallible, SocketEnd>, _> = tokio::select! {
        ended = timeout(GOODBYE, goodbye) => ended,
        () = displaced => return,
    };
    debug!(?ended, "refused connection ended");
}
