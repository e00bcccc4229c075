//! One connection from `welcome` to its end: asks what callers want asked, and tells what the server says.
//!
//! While a message waits for room with the user, nothing is read from the socket; that time counts as silence of
//! ours, not of the server's.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tickwire_core::protocol::codes::{NoticeCode, Reconnect};
use tickwire_core::protocol::{Encoding, ServerMessage, Welcome};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};

use crate::client::Command;
use crate::config::{ClientConfig, Credentials};
use crate::error;
use crate::message::Message;
use crate::progress::Progress;
use crate::requests::{Answered, FrameWriter, Requests, Resubscription, SessionStart};

type Renewal = Pin<Box<dyn Future<Output = String> + Send>>;

/// The least silence after which a connection counts as lost, whatever heartbeat the server names.
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// The reason of the gap that tells of another life of the stream.
const RESET: &str = "reset";

/// Why a session ended.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    /// The server's close code.
    pub(crate) code: Option<u16>,
    /// Why, for people.
    pub(crate) reason: String,
    /// Whether to connect again.
    pub(crate) verdict: Reconnect,
    /// When the server asked the client to connect again.
    pub(crate) messages_out: Option<Instant>,
}

/// One connection and what it needs of its owner.
pub(crate) struct ClientSession<'a, Io> {
    socket: &'a mut WebSocketStream<Io>,
    requests: &'a mut Requests,
    progress: &'a mut Progress,
    commands: &'a mut mpsc::Receiver<Command>,
    messages: &'a mpsc::Sender<Message>,
    wire: FrameWriter,
    credentials: &'a Credentials,
    /// A new token on its way, once the server has said that the session's expires.
    renewal: Option<Renewal>,
    write_timeout: Duration,
    idle: Duration,
    /// The last sign of life, moved on by every wait for the user since.
    heard: Instant,
    /// When the subscriptions of the session before must be in force again.
    restored_by: Instant,
    /// When to leave, because the server asked for it.
    leave: Option<Instant>,
}

impl<'a, Io: AsyncRead + AsyncWrite + Unpin> ClientSession<'a, Io> {
    pub(crate) fn new(
        socket: &'a mut WebSocketStream<Io>,
        (requests, progress): (&'a mut Requests, &'a mut Progress),
        commands: &'a mut mpsc::Receiver<Command>,
        messages: &'a mpsc::Sender<Message>,
        (config, welcome): (&'a ClientConfig, &Welcome),
    ) -> Self {
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.into());
        let heard = Instant::now();
        let most = welcome.max_frame_bytes.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            socket,
            requests,
            progress,
            commands,
            messages,
            wire: (config.encoding, most),
            credentials: &config.credentials,
            renewal: None,
            write_timeout: config.request_timeout,
            idle: config.idle_timeout.unwrap_or_else(|| (heartbeat * 5 / 2).max(LEAST_IDLE)),
            heard,
            restored_by: heard + config.request_timeout,
            leave: None,
        }
    }

    /// Runs to the end of the connection. `opening` is what the user is told first, `rest` what came with the welcome.
    pub(crate) async fn run(mut self, opening: Vec<Message>, rest: Vec<ServerMessage>) -> SessionEnd {
        let Err(mut end) = self.serve(opening, rest).await;
        end.messages_out = self.leave;
        end
    }

    async fn serve(&mut self, opening: Vec<Message>, rest: Vec<ServerMessage>) -> Result<Infallible, SessionEnd> {
        let SessionStart { interrupted, anew } = self.requests.start_session(self.progress.place(), self.wire);
        self.write(anew.frames).await?;
        for message in opening {
            self.tell(message).await;
        }
        if interrupted {
            self.progress.forget();
            self.tell(Message::Interrupted).await;
        }
        for message in anew.messages_out {
            self.tell(message).await;
        }
        self.take(rest).await?;
        loop {
            let (leave, patience) = (self.leave, self.patience());
            tokio::select! {
                biased;
                () = sleep_until(leave.unwrap_or(self.heard)), if leave.is_some() => {
                    return Err(lost("the server asked the client to connect again"));
                }
                Some(Command { frame, reply }) = self.commands.recv(), if self.requests.has_room() => {
                    let frame = self.requests.ask(frame, reply, self.wire);
                    self.write(frame).await?;
                }
                token = renewed(&mut self.renewal) => {
                    self.renewal = None;
                    let frame = self.requests.authenticate(token, self.wire.0);
                    self.write([frame]).await?;
                }
                incoming = self.socket.next() => self.read(incoming).await?,
                end = patience => return Err(end),
            }
        }
    }

    /// Waits until the server has been silent for too long. It comes last in the loop, so that what has arrived already
    /// is read first.
    fn patience(&self) -> impl Future<Output = SessionEnd> + use<Io> {
        let silent = self.heard + self.idle;
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
            Err(_) => Err(lost("the server takes nothing in")),
        }
    }

    async fn read(&mut self, incoming: Option<Result<WsMessage, WsError>>) -> Result<(), SessionEnd> {
        match incoming {
            None => return Err(lost("the connection ended without a close")),
            Some(Err(error)) => return Err(lost(error.to_string())),
            Some(Ok(WsMessage::Close(frame))) => {
                let (code, reason) =
                    frame.map_or((None, String::new()), |f| (Some(f.code.into()), f.reason.to_string()));
                return Err(SessionEnd { code, reason, verdict: error::after_close(code), messages_out: None });
            }
            Some(Ok(message @ (WsMessage::Text(_) | WsMessage::Binary(_)))) => {
                match ServerMessage::parse(&message.into_data(), self.wire.0) {
                    Ok(messages) => self.take(messages).await?,
                    Err(error) => self.tell(Message::Unreadable { problem: error.to_string() }).await,
                }
            }
            Some(Ok(_)) => {}
        }
        self.heard = Instant::now();
        Ok(())
    }

    async fn take(&mut self, messages: Vec<ServerMessage>) -> Result<(), SessionEnd> {
        let is_early = messages.first() == Some(&ServerMessage::Early);
        for message in messages {
            match message {
                ServerMessage::Event(event) => {
                    if self.progress.take(event.p, event.seq, is_early) {
                        self.tell(Message::Event(event)).await;
                    }
                }
                ServerMessage::Early => {}
                ServerMessage::Heartbeat(heartbeat) => {
                    self.progress.messages_out(&heartbeat.position);
                    self.tell(Message::Heartbeat(heartbeat)).await;
                }
                ServerMessage::CaughtUp(end) => {
                    self.progress.messages_out(&end.position);
                    if let Some(message) = self.requests.caught_up(&end) {
                        self.tell(message).await;
                    }
                }
                ServerMessage::Notice(notice) => {
                    if notice.code == NoticeCode::TokenExpiring.as_str()
                        && let Credentials::Provider(provider) = &self.credentials
                    {
                        self.renewal = Some(Box::pin(provider.clone().renew(self.write_timeout)));
                    }
                    self.tell(Message::Notice(notice)).await;
                }
                ServerMessage::Gap(gap) => {
                    if gap.reason == RESET {
                        self.progress.begin_anew(gap.p);
                    }
                    self.tell(Message::Gap(gap)).await;
                }
                ServerMessage::Goaway(goaway) => {
                    let pause = Duration::from_millis(goaway.reconnect_ms.into());
                    self.leave = Some(Instant::now() + pause);
                    self.tell(Message::Goaway(goaway)).await;
                }
                answer => {
                    if let ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) = &answer {
                        self.progress.messages_out(&list.position);
                    }
                    let Answered { messages_out, resumed } =
                        self.requests.answered(answer).map_err(|refused| SessionEnd {
                            verdict: Reconnect::After,
                            ..lost(format!("a subscription could not be restored: {}", refused.0.msg))
                        })?;
                    for message in messages_out {
                        self.tell(message).await;
                    }
                    let Resubscription { frames, messages_out } = match resumed {
                        None => continue,
                        Some(true) => {
                            Resubscription { frames: self.requests.ask_again(self.wire.0), messages_out: Vec::new() }
                        }
                        Some(false) => {
                            self.progress.forget();
                            self.requests.subscribe_anew(self.wire)
                        }
                    };
                    for message in messages_out {
                        self.tell(message).await;
                    }
                    self.write(frames).await?;
                }
            }
        }
        Ok(())
    }

    /// Hands a message to the user, waiting for room. Once the user is gone, the owner ends this session anyway.
    async fn tell(&mut self, message: Message) {
        if let Err(mpsc::error::TrySendError::Full(message)) = self.messages.try_send(message) {
            let blocked = Instant::now();
            self.messages.send(message).await.ok();
            self.heard += blocked.elapsed();
            self.restored_by += blocked.elapsed();
        }
    }
}

/// Waits for a new token, if one is on its way.
async fn renewed(renewal: &mut Option<Renewal>) -> String {
    match renewal {
        Some(renewal) => renewal.await,
        None => pending().await,
    }
}

fn lost(reason: impl Into<String>) -> SessionEnd {
    SessionEnd { code: None, reason: reason.into(), verdict: Reconnect::Yes, messages_out: None }
}
