//! The task that owns the connection: runs a session, pauses, connects again, until told to stop.
//!
//! Stopping needs no care anywhere else: it drops whatever the task is waiting for, at any point, and then says
//! goodbye on the socket if there is one.

use std::time::Duration;

use futures_util::StreamExt;
use tickwire_core::protocol::codes::{CloseCode, Reconnect};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCloseCode;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backoff::Retries;
use crate::client::Command;
use crate::config::{ClientConfig, Credentials};
use crate::dial::{self, Dial, WelcomedConnection};
use crate::message::Message;
use crate::progress::Progress;
use crate::requests::Requests;
use crate::session::ClientSession;
use crate::target::Target;

/// A session that lasted so long since its welcome proves the server healthy.
const HEALTHY: Duration = Duration::from_secs(10);
/// The most that a closing handshake may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Everything that belongs to one client.
pub(crate) struct ClientOwner<D: Dial> {
    dialler: D,
    config: ClientConfig,
    targets: Vec<Target>,
    /// The target of the current or last attempt.
    at: usize,
    commands: mpsc::Receiver<Command>,
    messages: mpsc::Sender<Message>,
    requests: Requests,
    progress: Progress,
    retries: Retries,
    socket: Option<WebSocketStream<D::Io>>,
}

impl<D: Dial> ClientOwner<D> {
    pub(crate) fn new(
        dialler: D,
        config: ClientConfig,
        (targets, at): (Vec<Target>, usize),
        commands: mpsc::Receiver<Command>,
        messages: mpsc::Sender<Message>,
    ) -> Self {
        let retries = Retries::new(config.reconnect);
        let requests = Requests::default();
        let progress = Progress::default();
        Self { dialler, config, targets, at, commands, messages, requests, progress, retries, socket: None }
    }

    /// Lives until `stop`, until nobody can read messages any more, or until no further attempt should be made.
    pub(crate) async fn run(mut self, first: WelcomedConnection<D::Io>, stop: CancellationToken) {
        let messages = self.messages.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = messages.closed() => {}
            () = self.live(first) => {}
        }
        if let Some(socket) = &mut self.socket {
            farewell(socket).await;
        }
    }

    async fn live(&mut self, mut link: WelcomedConnection<D::Io>) {
        let mut opening = vec![Message::Connected { welcome: link.welcome.clone() }];
        loop {
            let welcomed = Instant::now();
            let socket = self.socket.insert(link.socket);
            let session = ClientSession::new(
                socket,
                (&mut self.requests, &mut self.progress),
                &mut self.commands,
                &self.messages,
                (&self.config, &link.welcome),
            );
            let end = session.run(opening, link.rest).await;
            if welcomed.elapsed() >= HEALTHY {
                self.retries.reset();
            }
            if let Some(mut socket) = self.socket.take() {
                farewell(&mut socket).await;
            }
            // The frame that was too large can only have been the resume: the next session begins anew.
            if end.code == Some(CloseCode::TooBig.code()) && self.requests.is_resuming() {
                self.progress.forget();
            }
            for lost in self.requests.end_session() {
                self.messages.send(lost).await.ok();
            }
            let messages_out = end.messages_out.map(|moment| moment.saturating_duration_since(Instant::now()));
            let pause = self.lost(end.code, end.reason, end.verdict, messages_out).await;
            let Some(next) = self.connect_again(pause).await else { return };
            link = next;
            opening = vec![Message::Connected { welcome: link.welcome.clone() }];
            if self.requests.holds_any() && self.progress.place().is_none() {
                opening.push(Message::Interrupted);
            }
        }
    }

    /// Tries one gateway after the other, with pauses, until one takes the client or none ever will.
    async fn connect_again(&mut self, mut pause: Option<Duration>) -> Option<WelcomedConnection<D::Io>> {
        loop {
            sleep(pause?).await;
            self.at = (self.at + 1) % self.targets.len();
            match dial::connect(&self.dialler, &self.targets[self.at], &self.config).await {
                Ok(link) => return Some(link),
                Err(error) => {
                    let (code, messages_out) = (error.close_code(), error.retry_after());
                    pause = self.lost(code, error.to_string(), error.reconnect(), messages_out).await;
                }
            }
        }
    }

    /// Tells the user, and gives the pause before the next attempt.
    async fn lost(
        &mut self,
        code: Option<u16>,
        reason: String,
        verdict: Reconnect,
        messages_out: Option<Duration>,
    ) -> Option<Duration> {
        let verdict = match (verdict, &self.config.credentials) {
            (Reconnect::NewToken, Credentials::Provider(_)) => Reconnect::Yes,
            (Reconnect::NewToken, _) => Reconnect::No,
            (verdict, _) => verdict,
        };
        let retry_in = self.retries.next(verdict, messages_out, &mut rand::rng());
        debug!(code, reason, ?retry_in, "disconnected");
        // Without a reader the task is about to be stopped.
        self.messages.send(Message::Disconnected { code, reason, retry_in }).await.ok();
        retry_in
    }
}

/// Completes the closing handshake, whichever side began it. What still comes is not read by anyone.
async fn farewell<Io: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<Io>) {
    let frame = CloseFrame { code: WsCloseCode::Normal, reason: "the client is done".into() };
    let handshake = async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    if timeout(FAREWELL, handshake).await.is_err() {
        debug!("the server did not answer the close in time");
    }
}
