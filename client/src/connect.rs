//! One attempt to connect: dial (with TLS), upgrade, and wait for the server's `welcome`, within one deadline.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::StreamExt;
use http::HeaderValue;
use tickwire_core::protocol::{ServerError, ServerMessage, Welcome};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::header::RETRY_AFTER;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tracing::debug;

use crate::config::ClientConfig;
use crate::credentials;
use crate::dial::Dial;
use crate::error::ClientError;
use crate::home;
use crate::target::Target;

/// Small, because a test or a load generator runs thousands of clients in one process. Messages may be larger.
const SOCKET_BUFFER: usize = 4 * 1024;
/// The largest message accepted from the server.
const MAX_MESSAGE: usize = 16 << 20;
/// How long to wait for the close after an error that refuses the client.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// How much of an HTTP error's body is shown, in bytes.
const SHOWN_TEXT: usize = 200;
/// The longest `Retry-After` that is accepted: a proxy may send any value.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// A connection after the server's `welcome`.
#[derive(Debug)]
pub(crate) struct WelcomedConnection<Io> {
    pub(crate) socket: WebSocketStream<Io>,
    pub(crate) welcome: Welcome,
    /// Other messages received with the welcome.
    pub(crate) rest: Vec<ServerMessage>,
}

/// The settings of the WebSocket library.
#[doc(hidden)]
#[must_use]
pub fn websocket_limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER)
        .write_buffer_size(SOCKET_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Connects to the home gateway if the client asks for it and `target` knows it, else to `target`.
pub(crate) async fn connect<D: Dial>(
    dialler: &D,
    target: &Target,
    config: &ClientConfig,
) -> Result<WelcomedConnection<D::Io>, ClientError> {
    let authorization = credentials::authorization(&config.credentials, config.connect_timeout).await?;
    let authorization = authorization.as_ref();
    if config.ask_home
        && let Some(home) = home::find(dialler, target, authorization, config).await
    {
        match attempt(dialler, &home, authorization, config).await {
            Ok(link) => return Ok(link),
            Err(error) => debug!(%error, "home gateway refused the connection"),
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
    let mut last_notice = None;
    let attempt = async {
        let unreachable = |problem: String| ClientError::Unreachable { url: target.url.clone(), problem };
        let io = dialler.dial(&target.endpoint).await.map_err(|error| error.at(&target.url))?;
        let request = target.request(authorization).map_err(|e| unreachable(e.to_string()))?;
        let upgraded = client_async_with_config(request, io, Some(websocket_limits())).await;
        let (socket, _) = upgraded.map_err(|error| match error {
            WsError::Http(response) => rejected(&target.url, &response),
            other => unreachable(upgrade_problem(&other, target.endpoint.tls.is_none())),
        })?;
        welcomed(socket, target, config, &mut last_notice).await
    };
    let after = config.connect_timeout;
    timeout(after, attempt).await.unwrap_or_else(|_| {
        Err(match last_notice {
            Some(last_notice) => ClientError::NotWelcomed { url: target.url.clone(), after, notice: last_notice },
            None => ClientError::TimedOut { what: "connect", after },
        })
    })
}

/// Why there was no answer of HTTP to the upgrade request. A server with TLS answers a plain request with an alert of TLS,
/// or with the end of the connection.
fn upgrade_problem(error: &WsError, is_plain: bool) -> String {
    let problem = match error {
        WsError::Protocol(ProtocolError::HandshakeIncomplete) => "the server closed the connection without an answer",
        WsError::Protocol(ProtocolError::HttparseError(_)) => "the server does not answer with HTTP",
        WsError::Io(error) if error.kind() == ErrorKind::ConnectionReset => "the server reset the connection",
        other => return other.to_string(),
    };
    match is_plain {
        true => format!("{problem}; if it speaks TLS, the address begins with wss://"),
        false => problem.to_owned(),
    }
}

/// Waits for the welcome. The last notice received before it is stored in `last_notice`.
async fn welcomed<Io>(
    mut socket: WebSocketStream<Io>,
    target: &Target,
    config: &ClientConfig,
    last_notice: &mut Option<String>,
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
            // The code of the close that follows an error decides whether to reconnect.
            Some(_) => timeout(CLOSE_WAIT, socket.next()).await.ok().flatten(),
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
                        *last_notice = Some(notice.msg.clone().unwrap_or_else(|| notice.code.to_string()));
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
        retry_after: retry_after.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER)),
    }
}
