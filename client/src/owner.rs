//! The task that owns the connection: it runs a session, pauses and reconnects, until it is stopped.
//!
//! A stop drops the future that the task waits for, at any point, and then closes the socket if there is one. So no
//! other code has to handle stopping.

use std::time::Duration;

use futures_util::StreamExt;
use tickwire_core::protocol::codes::{CloseCode, Reconnect};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCloseCode;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backoff::Retries;
use crate::config::ClientConfig;
use crate::connect::{WelcomedConnection, connect};
use crate::credentials::Credentials;
use crate::dial::Dial;
use crate::error::ClientError;
use crate::message::Message;
use crate::progress::Progress;
use crate::requests::Requests;
use crate::session::ClientSession;
use crate::target::Target;
use crate::user_side::UserSide;

/// A session that lasted this long since its welcome resets the backoff.
const HEALTHY: Duration = Duration::from_secs(10);
/// The longest time of a closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The state of one client.
pub(crate) struct ClientOwner<D: Dial, U> {
    dialler: D,
    config: ClientConfig,
    targets: Vec<Target>,
    /// The target of the current or last attempt.
    at: usize,
    user: U,
    requests: Requests,
    progress: Progress,
    retries: Retries,
    socket: Option<WebSocketStream<D::Io>>,
}

impl<D: Dial, U: UserSide> ClientOwner<D, U> {
    pub(crate) fn new(
        dialler: D,
        config: ClientConfig,
        (targets, at): (Vec<Target>, usize),
        requests: Requests,
        user: U,
    ) -> Self {
        let retries = Retries::new(config.reconnect);
        let progress = Progress::default();
        Self { dialler, config, targets, at, user, requests, progress, retries, socket: None }
    }

    /// The first connection of a client that waits for it as it waits after a loss, unless a gateway refuses for good.
    pub(crate) async fn first_connection(&mut self) -> Result<WelcomedConnection<D::Io>, ClientError> {
        loop {
            // In a box, so that a client that is connected does not carry the memory of connecting.
            match Box::pin(connect(&self.dialler, &self.targets[self.at], &self.config)).await {
                Ok(link) => return Ok(link),
                Err(error) => {
                    let (code, requested) = (error.close_code(), error.retry_after());
                    let pause = self.lost(code, error.to_string(), error.reconnect(), requested).await;
                    let Some(pause) = pause else { return Err(error) };
                    sleep(pause).await;
                    self.at = (self.at + 1) % self.targets.len();
                }
            }
        }
    }

    /// Runs until `stop`, until the user is `gone`, or until no further attempt is allowed.
    pub(crate) async fn run(
        mut self,
        first: WelcomedConnection<D::Io>,
        stop: CancellationToken,
        gone: impl Future<Output = ()>,
    ) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = gone => {}
            () = self.run_sessions(first) => {}
        }
        if let Some(socket) = &mut self.socket {
            close(socket).await;
        }
    }

    async fn run_sessions(&mut self, mut link: WelcomedConnection<D::Io>) {
        let mut opening = vec![Message::Connected { welcome: link.welcome.clone() }];
        loop {
            let welcomed = Instant::now();
            let socket = self.socket.insert(link.socket);
            let session = ClientSession::new(
                socket,
                (&mut self.requests, &mut self.progress),
                &mut self.user,
                (&self.config, &link.welcome),
            );
            let end = session.run(opening, link.rest).await;
            if welcomed.elapsed() >= HEALTHY {
                self.retries.reset();
            }
            if let Some(mut socket) = self.socket.take() {
                close(&mut socket).await;
            }
            // Only the resume can have been too large: the next session subscribes again instead.
            if end.code == Some(CloseCode::TooBig.code()) && self.requests.is_resuming() {
                self.progress.forget();
            }
            for lost in self.requests.end_session() {
                self.user.deliver(lost).await;
            }
            let requested = end.reconnect_at.map(|moment| moment.saturating_duration_since(Instant::now()));
            let pause = self.lost(end.code, end.reason, end.verdict, requested).await;
            let Some(next) = self.reconnect(pause).await else { return };
            link = next;
            opening = vec![Message::Connected { welcome: link.welcome.clone() }];
            if self.requests.holds_any() && self.progress.resume_point().is_none() {
                opening.push(Message::Interrupted);
            }
        }
    }

    /// Tries one gateway after the other, with pauses, until one accepts the client or no attempt is allowed.
    async fn reconnect(&mut self, mut pause: Option<Duration>) -> Option<WelcomedConnection<D::Io>> {
        loop {
            sleep(pause?).await;
            self.at = (self.at + 1) % self.targets.len();
            match Box::pin(connect(&self.dialler, &self.targets[self.at], &self.config)).await {
                Ok(link) => return Some(link),
                Err(error) => {
                    let (code, requested) = (error.close_code(), error.retry_after());
                    pause = self.lost(code, error.to_string(), error.reconnect_again(), requested).await;
                }
            }
        }
    }

    /// Sends `Disconnected` to the user, and returns the pause before the next attempt.
    async fn lost(
        &mut self,
        code: Option<u16>,
        reason: String,
        verdict: Reconnect,
        requested: Option<Duration>,
    ) -> Option<Duration> {
        let verdict = match (verdict, &self.config.credentials) {
            (Reconnect::NewToken, Credentials::Provider(_)) => Reconnect::Yes,
            (Reconnect::NewToken, _) => Reconnect::No,
            (verdict, _) => verdict,
        };
        let retry_in = self.retries.next(verdict, requested, &mut rand::rng());
        debug!(code, reason, ?retry_in, "disconnected");
        self.user.deliver(Message::Disconnected { code, reason, retry_in }).await;
        retry_in
    }
}

/// Completes the closing handshake, from either side. Messages received meanwhile are ignored.
async fn close<Io: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<Io>) {
    let frame = CloseFrame { code: WsCloseCode::Normal, reason: "the client has closed".into() };
    let handshake = async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    if timeout(CLOSE_TIMEOUT, handshake).await.is_err() {
        debug!("close not answered in time");
    }
}
