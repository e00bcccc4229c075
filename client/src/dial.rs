//! One attempt to connect: dial, upgrade, and wait for the server's `welcome`, all within one deadline.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use http::HeaderValue;
use tickwire_core::protocol::{ServerError, ServerMessage, Welcome};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::header::RETRY_AFTER;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tracing::debug;

use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::home;
use crate::target::Target;
use crate::token;

/// Small, because a test or a load generator holds thousands of clients in one process. Messages may be larger.
const SOCKET_BUFFER: usize = 4 * 1024;
/// The largest message taken from the server.
const MAX_MESSAGE: usize = 16 << 20;
/// How long a close may take to come after an error that refuses the client.
const GOODBYE: Duration = Duration::from_secs(1);
/// How much of an HTTP refusal is shown.
const SHOWN_TEXT: usize = 200;
/// The longest pause that a refusal may ask for: what is on the way to the server may ask for anything.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How bytes get to a server. Tests dial pipes in memory, so that time can be paused.
pub(crate) trait Dial: Send + Sync + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `host:port`.
    fn dial(&self, authority: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// The network.
#[derive(Debug)]
pub(crate) struct Tcp;

impl Dial for Tcp {
    type Io = TcpStream;

    async fn dial(&self, authority: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A connection on which the server has said `welcome`.
#[derive(Debug)]
pub(crate) struct WelcomedConnection<Io> {
    pub(crate) socket: WebSocketStream<Io>,
    pub(crate) welcome: Welcome,
    /// What else came with the welcome.
    pub(crate) rest: Vec<ServerMessage>,
}

/// How the WebSocket library is set up.
#[doc(hidden)]
#[must_use]
pub fn websocket_limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER)
        .write_buffer_size(SOCKET_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Connects to the home that the gateway at `target` names, if the client is to ask for it, else to that gateway.
pub(crate) async fn connect<D: Dial>(
    dialler: &D,
    target: &Target,
    config: &ClientConfig,
) -> Result<WelcomedConnection<D::Io>, ClientError> {
    let authorization = token::authorization(config).await?;
    let authorization = authorization.as_ref();
    if config.ask_home
        && let Some(home) = home::find(dialler, target, authorization, config).await
    {
        match attempt(dialler, &home, authorization, config).await {
            Ok(link) => return Ok(link),
            Err(error) => debug!(%error, "the home does not take the client"),
        }
    }
    attempt(dialler, target, authorization, config).await
}

/// Connects to one gateway.
async fn attempt<D: Dial>(
    dialler: &D,
    target: &Target,
    authorization: Option<&HeaderValue>,
    config: &ClientConfig,
) -> Result<WelcomedConnection<D::Io>, ClientError> {
    let mut said = None;
    let attempt = async {
        let unreachable = |problem: String| ClientError::Unreachable { url: target.url.clone(), problem };
        let io = dialler.dial(&target.authority).await.map_err(|e| unreachable(e.to_string()))?;
        let request = target.request(authorization).map_err(|e| unreachable(e.to_string()))?;
        let upgraded = client_async_with_config(request, io, Some(websocket_limits())).await;
        let (socket, _) = upgraded.map_err(|error| match error {
            WsError::Http(response) => rejected(&target.url, &response),
            other => unreachable(other.to_string()),
        })?;
        welcomed(socket, target, config, &mut said).await
    };
    let after = config.connect_timeout;
    timeout(after, attempt).await.unwrap_or_else(|_| {
        Err(match said {
            Some(said) => ClientError::NotWelcomed { url: target.url.clone(), after, said },
            None => ClientError::TimedOut { what: "connect", after },
        })
    })
}

/// Waits for the welcome. The last notice that comes before it is left in `said`.
async fn welcomed<Io>(
    mut socket: WebSocketStream<Io>,
    target: &Target,
    config: &ClientConfig,
    said: &mut Option<String>,
) -> Result<WelcomedConnection<Io>, ClientError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let closed = |code, reason: String| ClientError::Closed { url: target.url.clone(), code, reason };
    let mut rest = Vec::new();
    let mut refused: Option<ServerError> = None;
    loop {
        let next = match refused {
            None => socket.next().await,
            // The close that follows an error says whether to come back.
            Some(_) => timeout(GOODBYE, socket.next()).await.ok().flatten(),
        };
        let bytes = match (next, refused.take()) {
            (Some(Ok(WsMessage::Close(Some(frame)))), error) => {
                let reason = error.map_or_else(|| frame.reason.to_string(), |error| error.msg);
                return Err(closed(Some(frame.code.into()), reason));
            }
            (None | Some(Err(_) | Ok(WsMessage::Close(None))), Some(ServerError { code, msg, .. })) => {
                return Err(ClientError::Refused { code, msg });
            }
            (None, None) => return Err(closed(None, "the connection ended".to_owned())),
            (Some(Err(error)), None) => return Err(closed(None, error.to_string())),
            (Some(Ok(WsMessage::Close(None))), None) => return Err(closed(None, String::new())),
            (Some(Ok(message @ (WsMessage::Text(_) | WsMessage::Binary(_)))), None) => message.into_data(),
            (Some(Ok(_)), error) => {
                refused = error;
                continue;
            }
        };
        let messages = ServerMessage::parse(&bytes, config.encoding);
        let mut welcome = None;
        for message in messages.map_err(|e| closed(None, e.to_string()))? {
            match message {
                ServerMessage::Welcome(first) => welcome = Some(first),
                ServerMessage::Error(error) if welcome.is_none() => refused = Some(error),
                other => {
                    if let ServerMessage::Notice(notice) = &other {
                        *said = Some(notice.msg.clone().unwrap_or_else(|| notice.code.to_string()));
                    }
                    rest.push(other);
                }
            }
        }
        if let Some(welcome) = welcome
            && refused.is_none()
        {
            return Ok(WelcomedConnection { socket, welcome, rest });
        }
    }
}

fn rejected(url: &str, response: &http::Response<Option<Vec<u8>>>) -> ClientError {
    let body = response.body().as_deref().unwrap_or_default();
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_TEXT)]).trim().to_owned();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    ClientError::Rejected {
        url: url.to_owned(),
        status: response.status().as_u16(),
        text,
        retry_after: retry_after.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY)),
    }
}
