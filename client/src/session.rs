//! One connection from `welcome` to its end: it sends the callers' requests, and delivers the server's messages.
//!
//! While a message waits for room in the user's buffer, the socket is not read. That time does not count as silence of
//! the server.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tickwire_core::protocol::codes::{NoticeCode, Reconnect};
use tickwire_core::protocol::{Encoding, ServerMessage, Welcome};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};

use crate::config::ClientConfig;
use crate::credentials::Credentials;
use crate::error;
use crate::message::Message;
use crate::progress::Progress;
use crate::requests::{Answered, Command, FrameWriter, Requests, Resubscription, SessionStart};
use crate::user_side::UserSide;

type Renewal = Pin<Box<dyn Future<Output = String> + Send>>;

/// The shortest silence after which a connection counts as lost, for any heartbeat interval.
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// The reason of a gap that reports a new epoch of the stream.
const RESET: &str = "reset";

/// Why a session ended.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    /// The server's close code.
    pub(crate) code: Option<u16>,
    /// The reason, for people.
    pub(crate) reason: String,
    /// Whether to reconnect.
    pub(crate) verdict: Reconnect,
    /// The earliest time to reconnect that the server asked for.
    pub(crate) reconnect_at: Option<Instant>,
}

/// One connection, with borrowed parts of its owner.
pub(crate) struct ClientSession<'a, Io, U> {
    socket: &'a mut WebSocketStream<Io>,
    requests: &'a mut Requests,
    progress: &'a mut Progress,
    user: &'a mut U,
    wire: FrameWriter,
    credentials: &'a Credentials,
    /// The pending request for a new token, after the notice that the session's token expires.
    renewal: Option<Renewal>,
    write_timeout: Duration,
    idle: Duration,
    /// When the server last sent anything, plus the time spent waiting for the user since then.
    received: Instant,
    /// When the subscriptions of the session before must be confirmed again.
    restored_by: Instant,
    /// When to disconnect after a `goaway`.
    leave: Option<Instant>,
}

impl<'a, Io: AsyncRead + AsyncWrite + Unpin, U: UserSide> ClientSession<'a, Io, U> {
    pub(crate) fn new(
        socket: &'a mut WebSocketStream<Io>,
        (requests, progress): (&'a mut Requests, &'a mut Progress),
        user: &'a mut U,
        (config, welcome): (&'a ClientConfig, &Welcome),
    ) -> Self {
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.into());
        let received = Instant::now();
        let most = welcome.max_frame_bytes.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            socket,
            requests,
            progress,
            user,
            wire: (config.encoding, most),
            credentials: &config.credentials,
            renewal: None,
            write_timeout: config.request_timeout,
            idle: config.idle_timeout.unwrap_or_else(|| (heartbeat * 5 / 2).max(LEAST_IDLE)),
            received,
            restored_by: received + config.request_timeout,
            leave: None,
        }
    }

    /// Runs to the end of the connection. `opening` is delivered first; `rest` was received with the welcome.
    pub(crate) async fn run(mut self, opening: Vec<Message>, rest: Vec<ServerMessage>) -> SessionEnd {
        let Err(mut end) = self.serve(opening, rest).await;
        end.reconnect_at = self.leave;
        end
    }

    async fn serve(&mut self, opening: Vec<Message>, rest: Vec<ServerMessage>) -> Result<Infallible, SessionEnd> {
        let SessionStart { interrupted, resubscription } =
            self.requests.start_session(self.progress.resume_point(), self.wire);
        self.write(resubscription.frames).await?;
        for message in opening {
            self.deliver(message).await;
        }
        if interrupted {
            self.progress.forget();
            self.deliver(Message::Interrupted).await;
        }
        for message in resubscription.for_user {
            self.deliver(message).await;
        }
        self.take(rest).await?;
        loop {
            let (leave, silence) = (self.leave, self.silence());
            tokio::select! {
                biased;
                () = sleep_until(leave.unwrap_or(self.received)), if leave.is_some() => {
                    return Err(lost("the server asked the client to connect again"));
                }
                Some(Command { frame, reply }) = self.user.command(), if self.requests.has_room() => {
                    let frame = self.requests.ask(frame, reply, self.wire);
                    self.write(frame).await?;
                }
                token = renewed(&mut self.renewal) => {
                    self.renewal = None;
                    let frame = self.requests.authenticate(token, self.wire.0);
                    self.write([frame]).await?;
                }
                incoming = self.socket.next() => self.read(incoming).await?,
                end = silence => return Err(end),
            }
        }
    }

    /// Waits until the server has been silent for too long. It is last in the loop, so that messages that have arrived
    /// are read first.
    fn silence(&self) -> impl Future<Output = SessionEnd> + use<Io, U> {
        let silent = self.received + self.idle;
        let (until, reason) = match self.requests.restoring() {
            true if self.restored_by < silent => (self.restored_by, "the subscriptions were not confirmed in time"),
            _ => (silent, "the server has been silent for too long"),
        };
        async move {
            sleep_until(until).await;
            lost(reason)
        }
    }

    async fn write(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) -> Result<(), SessionEnd> {
        let written = async {
            for frame in frames {
                let message = match self.wire.0 {
                    Encoding::Json => WsMessage::Text(frame.try_into().map_err(WsError::from)?),
                    Encoding::MsgPack => WsMessage::Binary(frame.into()),
                };
                self.socket.feed(message).await?;
            }
            self.socket.flush().await
        };
        match timeout(self.write_timeout, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(lost(error.to_string())),
            Err(_) => Err(lost("a write to the server timed out")),
        }
    }

    async fn read(&mut self, incoming: Option<Result<WsMessage, WsError>>) -> Result<(), SessionEnd> {
        match incoming {
            None => return Err(lost("the connection ended without a close")),
            Some(Err(error)) => return Err(lost(error.to_string())),
            Some(Ok(WsMessage::Close(frame))) => {
                let (code, reason) =
                    frame.map_or((None, String::new()), |f| (Some(f.code.into()), f.reason.to_string()));
                return Err(SessionEnd { code, reason, verdict: error::after_close(code), reconnect_at: None });
            }
            Some(Ok(message @ (WsMessage::Text(_) | WsMessage::Binary(_)))) => {
                match ServerMessage::parse(&message.into_data(), self.wire.0) {
                    Ok(messages) => self.take(messages).await?,
                    Err(error) => self.deliver(Message::Unreadable { problem: error.to_string() }).await,
                }
            }
            Some(Ok(_)) => {}
        }
        self.received = Instant::now();
        Ok(())
    }

    async fn take(&mut self, messages: Vec<ServerMessage>) -> Result<(), SessionEnd> {
        let is_early = messages.first() == Some(&ServerMessage::Early);
        for message in messages {
            match message {
                ServerMessage::Event(event) => {
                    if self.progress.take_event(&event, is_early) {
                        self.deliver(Message::Event(event)).await;
                    }
                }
                ServerMessage::Alert(alert) => {
                    if self.progress.take_event(&alert, is_early) {
                        self.deliver(Message::Alert(alert)).await;
                    }
                }
                ServerMessage::Early => {}
                ServerMessage::Heartbeat(heartbeat) => {
                    if let Some(position) = &heartbeat.position {
                        self.progress.set_position(position);
                    }
                    self.deliver(Message::Heartbeat(heartbeat)).await;
                }
                ServerMessage::CaughtUp(end) => {
                    self.progress.set_position(&end.position);
                    if let Some(message) = self.requests.caught_up(&end) {
                        self.deliver(message).await;
                    }
                }
                ServerMessage::Notice(notice) => {
                    if notice.code == NoticeCode::TokenExpiring.as_str()
                        && let Credentials::Provider(provider) = &self.credentials
                    {
                        self.renewal = Some(Box::pin(provider.clone().renew(self.write_timeout)));
                    }
                    self.deliver(Message::Notice(notice)).await;
                }
                ServerMessage::Gap(gap) => {
                    if gap.reason == RESET {
                        self.progress.reset_partition(gap.p);
                    }
                    self.deliver(Message::Gap(gap)).await;
                }
                ServerMessage::Goaway(goaway) => {
                    let pause = Duration::from_millis(goaway.reconnect_ms.into());
                    self.leave = Some(Instant::now() + pause);
                    self.deliver(Message::Goaway(goaway)).await;
                }
                answer => self.take_answer(answer).await?,
            }
        }
        Ok(())
    }

    /// Takes an answer, or a list of subscriptions that was not requested. After the answer to a resume, open requests
    /// are repeated, and if it was refused, subscriptions as well.
    async fn take_answer(&mut self, answer: ServerMessage) -> Result<(), SessionEnd> {
        let position = match &answer {
            ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => Some(list.position.clone()),
            _ => None,
        };
        let was_resuming = self.requests.is_resuming();
        let Answered { for_user, resumed } = self.requests.answered(answer).map_err(|refused| SessionEnd {
            verdict: Reconnect::After,
            ..lost(format!("a subscription could not be restored: {}", refused.0.msg))
        })?;
        // If a resume arrives so late that the server has applied the saved subscriptions, their list has a position of
        // the server's own, and not yet the one that the client resumes from.
        if let Some(position) = position.filter(|_| !was_resuming || resumed == Some(true)) {
            self.progress.set_position(&position);
        }
        for message in for_user {
            self.deliver(message).await;
        }
        let Resubscription { frames, for_user } = match resumed {
            None => return Ok(()),
            Some(true) => Resubscription { frames: self.requests.repeat_open(self.wire.0), for_user: Vec::new() },
            Some(false) => {
                self.progress.forget();
                self.requests.resubscribe(self.wire)
            }
        };
        for message in for_user {
            self.deliver(message).await;
        }
        self.write(frames).await
    }

    /// Delivers a message to the user, and waits for room. If the user has dropped [`Messages`](crate::Messages), the
    /// owner ends this session.
    async fn deliver(&mut self, message: Message) {
        let blocked = self.user.deliver(message).await;
        if !blocked.is_zero() {
            self.received += blocked;
            self.restored_by += blocked;
        }
    }
}

/// Waits for a new token, if one was requested.
async fn renewed(renewal: &mut Option<Renewal>) -> String {
    match renewal {
        Some(renewal) => renewal.await,
        None => pending().await,
    }
}

fn lost(reason: impl Into<String>) -> SessionEnd {
    SessionEnd { code: None, reason: reason.into(), verdict: Reconnect::Yes, reconnect_at: None }
}
