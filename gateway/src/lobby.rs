//! Between the HTTP upgrade and the shard: a connection says who it is, or is shown the door with a code.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tickwire_core::codes::{CloseCode, ErrorCode};
use tickwire_core::frames::{ClientFrame, ServerError, ServerFrame, encode, write_array};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;
use tracing::debug;

use crate::arrival::{Arrival, shard_of};
use crate::auth::{Authenticator, Credentials, Identity};
use crate::messages::ToShard;
use crate::socket::{Ended, HEADER, Incoming, Socket};

/// How long a client may take to read its refusal.
const GOODBYE: Duration = Duration::from_secs(2);

/// What every connection needs to become a session.
#[derive(Debug)]
pub(crate) struct Lobby {
    pub(crate) authenticator: Authenticator,
    pub(crate) shards: Vec<Sender<ToShard>>,
    pub(crate) auth_timeout: Duration,
}

/// Why a connection does not become a session.
#[derive(Debug)]
struct Refusal {
    code: CloseCode,
    error: Option<ServerError>,
}

impl Lobby {
    /// Takes an upgraded connection to its shard. `offered` is what came with the upgrade, if anything.
    pub(crate) async fn admit(
        self: Arc<Self>,
        mut socket: Socket,
        offered: Option<Credentials>,
        place: OwnedSemaphorePermit,
    ) {
        let named = match offered {
            Some(credentials) => self.believe(&credentials, None).map_err(Some),
            None => match timeout(self.auth_timeout, self.ask(&mut socket)).await {
                Ok(named) => named,
                Err(_) => Err(Some(Refusal {
                    code: CloseCode::AuthTimeout,
                    error: Some(ServerError::new(None, ErrorCode::AuthTimeout, ErrorCode::AuthTimeout.text())),
                })),
            },
        };
        match named {
            Ok(identity) => self.hand_over(socket, identity, place).await,
            Err(Some(refusal)) => refuse(socket, refusal).await,
            Err(None) => debug!("a connection left before it said who it is"),
        }
    }

    fn believe(&self, credentials: &Credentials, id: Option<tickwire_core::frames::Id>) -> Result<Identity, Refusal> {
        self.authenticator.check(credentials).map_err(|error| Refusal {
            code: CloseCode::AuthFailed,
            error: Some(ServerError::new(id, ErrorCode::AuthFailed, error.to_string())),
        })
    }

    /// Waits for the first frame, which must be `auth`. `Err(None)` when the client is gone.
    async fn ask(&self, socket: &mut Socket) -> Result<Identity, Option<Refusal>> {
        let refused = |error| Err(Some(Refusal { code: CloseCode::AuthFailed, error: Some(error) }));
        loop {
            // Who says nothing but pings gives way to others, and is asked for no more before it took its answers.
            tokio::task::yield_now().await;
            if socket.unsent() > 0 {
                socket.tcp().writable().await.map_err(|_| None)?;
                socket.flush().map_err(|_| None)?;
                continue;
            }
            match socket.read() {
                Ok(None) => socket.tcp().readable().await.map_err(|_| None)?,
                Ok(Some(Incoming::Alive)) => {}
                Ok(Some(Incoming::WrongType)) => {
                    let message = format!("{} messages are expected", socket.encoding().message_type());
                    return refused(ServerError::new(None, ErrorCode::BadFrame, message));
                }
                Ok(Some(Incoming::Frame(bytes))) => {
                    return match ClientFrame::parse(&bytes, socket.encoding()) {
                        Ok((id, ClientFrame::Auth { token })) => {
                            self.believe(&Credentials::Token(token.0), id).map_err(Some)
                        }
                        Ok((id, _)) => {
                            let message = "the first frame must be {\"action\":\"auth\",\"token\":\"…\"}";
                            refused(ServerError::new(id, ErrorCode::NotAuthenticated, message))
                        }
                        Err(error) => refused(error.into()),
                    };
                }
                Err(Ended::Gone) => return Err(None),
                Err(Ended::Refused(code)) => return Err(Some(Refusal { code, error: None })),
            }
        }
    }

    async fn hand_over(&self, socket: Socket, identity: Identity, place: OwnedSemaphorePermit) {
        let shard = &self.shards[shard_of(&identity.user, self.shards.len())];
        let socket = match socket.park() {
            Ok(socket) => socket,
            Err(error) => {
                debug!(%error, "a connection broke on its way to its shard");
                return;
            }
        };
        let arrival = ToShard::Arrive(Box::new(Arrival { socket, identity, place }));
        if shard.send(arrival).await.is_err() {
            debug!("a connection came while its shard was ending");
        }
    }
}

/// Says why, closes with a code, and waits a little for the client to read it.
async fn refuse(mut socket: Socket, refusal: Refusal) {
    let code = refusal.code;
    counter!("tickwire_gateway_closes_total", "code" => code.code().to_string()).increment(1);
    if let Some(error) = refusal.error {
        counter!("tickwire_gateway_refused_frames_total", "code" => error.code.to_string()).increment(1);
        let mut frame = vec![0; HEADER];
        let encoding = socket.encoding();
        let error = encode(&ServerFrame::Error(error), encoding);
        write_array(&mut frame, [error.as_slice()].into_iter(), encoding);
        if socket.send(&mut frame).is_err() {
            return;
        }
    }
    let goodbye = async {
        socket.close(code)?;
        loop {
            socket.flush()?;
            match socket.read()? {
                // The deadline is looked at only where this task gives way.
                Some(_) => tokio::task::yield_now().await,
                None => {
                    let tcp = socket.tcp();
                    let ready = if socket.unsent() > 0 { tcp.writable().await } else { tcp.readable().await };
                    ready.map_err(|_| Ended::Gone)?;
                }
            }
        }
    };
    let ended: Result<Result<std::convert::Infallible, Ended>, _> = timeout(GOODBYE, goodbye).await;
    debug!(?ended, "a refused connection has ended");
}
