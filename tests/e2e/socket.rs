//! A bare WebSocket client, which shows the exact frames and their order. It reads only on request.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::{
    CaughtUp, Encoding, Gap, Heartbeat, Id, Notice, ReceivedEvent, ServerError, ServerMessage, Subscriptions, Welcome,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};

use crate::node::DEADLINE;
use crate::oracle::End;

/// The pause between two checks of the position.
const PAUSE: Duration = Duration::from_millis(10);

/// The receive buffer of a narrow connection, in bytes.
const NARROW: u32 = 16 * 1024;

/// A WebSocket.
pub(crate) type Ws = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection.
#[derive(Debug)]
pub(crate) struct Socket {
    ws: Ws,
    encoding: Encoding,
    /// Messages of a frame that were not handled yet.
    queue: VecDeque<ServerMessage>,
    last_id: u64,
    /// The events and alerts read so far.
    pub(crate) events: Vec<ReceivedEvent>,
    /// The alerts that came again so far. They are not among `events` and `objects`.
    pub(crate) again: Vec<ReceivedEvent>,
    /// The gaps so far.
    pub(crate) gaps: Vec<Gap>,
    /// The notices so far.
    pub(crate) notices: Vec<Notice>,
    /// The wire objects of all events and alerts read so far.
    pub(crate) objects: Vec<Value>,
    /// The `caught_up` messages so far.
    pub(crate) caught_up: Vec<CaughtUp>,
    /// Events that were `early`. They may be sent again after a resume, and are skipped then.
    early: BTreeSet<(Partition, Seq)>,
    /// Those of them from before the last resume.
    may_repeat: BTreeSet<(Partition, Seq)>,
    /// The last position.
    pub(crate) position: String,
    /// Per partition the last event received, except early ones.
    seen: BTreeMap<Partition, Seq>,
}

/// A message for the caller: not an event, gap, notice, heartbeat or `caught_up`.
#[derive(Debug, PartialEq)]
pub(crate) enum Incoming {
    /// A message.
    Message(ServerMessage),
    /// The server's close: code and reason.
    Closed(u16, String),
}

impl Socket {
    /// Connects as `user` to a gateway in dev mode, and waits for the welcome.
    pub(crate) async fn connect(gateway: SocketAddr, user: &str, encoding: Encoding) -> Self {
        let mut socket = Self::open(gateway, &query(user), encoding).await;
        socket.welcome().await;
        socket
    }

    /// Resets the connection without a close frame. Returns the received events.
    pub(crate) fn abort(mut self) -> Vec<ReceivedEvent> {
        self.drain();
        if let MaybeTlsStream::Plain(tcp) = self.ws.get_ref() {
            tcp.set_zero_linger().unwrap();
        }
        self.events
    }

    /// Connects again, to this gateway, and resumes. Returns the answer; the backfill follows.
    pub(crate) async fn resume(&mut self, gateway: SocketAddr, user: &str, subscriptions: &Value) -> Subscriptions {
        self.drain();
        self.may_repeat.append(&mut self.early);
        self.ws = connect(gateway, &query(user), self.encoding).await;
        self.welcome().await;
        let frame = self.resume_frame(subscriptions);
        self.list_after(frame).await
    }

    /// The `resume` frame of the session.
    pub(crate) fn resume_frame(&self, subscriptions: &Value) -> Value {
        let seen: BTreeMap<String, Seq> = self.seen.iter().map(|(p, seq)| (p.to_string(), *seq)).collect();
        json!({ "action": "resume", "position": self.position, "seen": seen, "subscriptions": subscriptions })
    }

    /// Reads until the next `caught_up`, and returns it.
    pub(crate) async fn caught_up(&mut self) -> CaughtUp {
        let known = self.caught_up.len();
        self.until_that(|socket| socket.caught_up.len() > known).await;
        self.caught_up[known].clone()
    }

    /// Connects with this query, and does not wait for the welcome.
    pub(crate) async fn open(gateway: SocketAddr, query: &str, encoding: Encoding) -> Self {
        Self::over(connect(gateway, query, encoding).await, encoding)
    }

    /// Connects with this token in a header, and does not wait for the welcome.
    pub(crate) async fn open_with_bearer(gateway: SocketAddr, token: &str) -> Self {
        let mut request = format!("ws://{gateway}/v1/stream").into_client_request().unwrap();
        request.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        Self::over(connect_async(request).await.unwrap().0, Encoding::Json)
    }

    /// Connects with this query over a socket with a small receive buffer, and does not wait for the welcome.
    pub(crate) async fn open_narrow(gateway: SocketAddr, query: &str, encoding: Encoding) -> Self {
        let tcp = TcpSocket::new_v4().unwrap();
        tcp.set_recv_buffer_size(NARROW).unwrap();
        let tcp = MaybeTlsStream::Plain(tcp.connect(gateway).await.unwrap());
        let mut request = format!("ws://{gateway}/v1/stream{query}").into_client_request().unwrap();
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, encoding.sub_protocol().parse().unwrap());
        Self::over(client_async(request, tcp).await.unwrap().0, encoding)
    }

    fn over(ws: Ws, encoding: Encoding) -> Self {
        Self {
            ws,
            encoding,
            queue: VecDeque::new(),
            last_id: 0,
            events: Vec::new(),
            again: Vec::new(),
            gaps: Vec::new(),
            notices: Vec::new(),
            objects: Vec::new(),
            caught_up: Vec::new(),
            early: BTreeSet::new(),
            may_repeat: BTreeSet::new(),
            position: String::new(),
            seen: BTreeMap::new(),
        }
    }

    /// The notices but those of outages: on a busy machine a node may be late.
    pub(crate) fn event_notices(&self) -> Vec<&Notice> {
        self.notices.iter().filter(|notice| !notice.code.starts_with("upstream_")).collect()
    }

    /// Sends an object as a frame.
    pub(crate) async fn send(&mut self, frame: &Value) {
        let message = match self.encoding {
            Encoding::Json => Message::text(frame.to_string()),
            Encoding::MsgPack => Message::binary(rmp_serde::to_vec_named(frame).unwrap()),
        };
        self.send_message(message).await;
    }

    /// Sends any message.
    pub(crate) async fn send_message(&mut self, message: Message) {
        self.ws.send(message).await.unwrap();
    }

    /// Sends any message. Returns whether the connection took it.
    pub(crate) async fn try_send(&mut self, message: Message) -> bool {
        self.ws.send(message).await.is_ok()
    }

    /// Reads the welcome.
    pub(crate) async fn welcome(&mut self) -> Welcome {
        match self.next().await {
            Incoming::Message(ServerMessage::Welcome(welcome)) => welcome,
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Reads an error.
    pub(crate) async fn error(&mut self) -> ServerError {
        match self.next().await {
            Incoming::Message(ServerMessage::Error(error)) => error,
            other => panic!("no error but {other:?}"),
        }
    }

    /// Reads the close.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        match self.next().await {
            Incoming::Closed(code, reason) => (code, reason),
            other @ Incoming::Message(_) => panic!("no close but {other:?}"),
        }
    }

    /// Subscribes, and returns when it is confirmed.
    pub(crate) async fn subscribe(&mut self, name: &str, filter: &Value) -> Subscriptions {
        self.list_after(json!({ "action": "subscribe", "name": name, "filter": filter })).await
    }

    /// Ends a subscription.
    pub(crate) async fn unsubscribe(&mut self, name: &str) -> Subscriptions {
        self.list_after(json!({ "action": "unsubscribe", "name": name })).await
    }

    /// Asks for the list of subscriptions.
    pub(crate) async fn list(&mut self) -> Subscriptions {
        self.list_after(json!({ "action": "list" })).await
    }

    /// Sends a frame and returns its error.
    pub(crate) async fn refused(&mut self, frame: Value) -> ServerError {
        match self.request(frame).await {
            ServerMessage::Error(error) => error,
            other => panic!("no error but {other:?}"),
        }
    }

    /// Sends a frame and returns its answer. Events that arrive before are kept.
    pub(crate) async fn request(&mut self, mut frame: Value) -> ServerMessage {
        self.last_id += 1;
        frame["id"] = json!(self.last_id);
        self.send(&frame).await;
        let Incoming::Message(answer) = self.next().await else { panic!("closed instead of an answer to {frame}") };
        let id = match &answer {
            ServerMessage::Authenticated(renewed) => &renewed.id,
            ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => &list.id,
            ServerMessage::Pong(pong) => &pong.id,
            ServerMessage::Acked(acked) => &acked.id,
            ServerMessage::Error(error) => &error.id,
            other => panic!("{other:?} answers {frame}"),
        };
        assert_eq!(*id, Some(Id::Number(self.last_id.into())), "{answer:?} answers {frame}");
        answer
    }

    /// Reads until the position reaches `end`.
    pub(crate) async fn catch_up(&mut self, end: &End) {
        let caught_up = async {
            while !end.is_reached(&self.list().await.position) {
                sleep(PAUSE).await;
            }
        };
        timeout(DEADLINE, caught_up).await.expect("the position reaches the end of the stream");
    }

    /// Reads until it has this many events in total.
    pub(crate) async fn until(&mut self, events: usize) {
        self.until_that(|socket| socket.events.len() >= events).await;
    }

    /// Reads events, gaps and heartbeats until a condition is met.
    pub(crate) async fn until_that(&mut self, met: impl Fn(&Self) -> bool) {
        let condition = async {
            while !met(self) {
                if let Some(other) = self.step().await {
                    panic!("{other:?} instead of an event or a gap");
                }
            }
        };
        timeout(DEADLINE, condition).await.expect("the condition is met in time");
    }

    /// Reads up to the next message for the caller.
    pub(crate) async fn next(&mut self) -> Incoming {
        let other = async {
            loop {
                if let Some(other) = self.step().await {
                    return other;
                }
            }
        };
        timeout(DEADLINE, other).await.expect("the server sends a message in time")
    }

    async fn list_after(&mut self, frame: Value) -> Subscriptions {
        match self.request(frame).await {
            ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => list,
            other => panic!("no list but {other:?}"),
        }
    }

    /// Handles all messages that were read. Unexpected answers are ignored.
    fn drain(&mut self) {
        while let Some(message) = self.queue.pop_front() {
            self.sort(message);
        }
    }

    /// Records a message, or returns it if it is for the caller.
    fn sort(&mut self, message: ServerMessage) -> Option<ServerMessage> {
        match message {
            ServerMessage::Event(event) | ServerMessage::Alert(event) if event.again => self.again.push(*event),
            ServerMessage::Event(event) | ServerMessage::Alert(event) => {
                if !self.may_repeat.remove(&(event.p, event.seq)) {
                    self.events.push(*event);
                }
            }
            ServerMessage::Gap(gap) => self.gaps.push(gap),
            ServerMessage::Notice(notice) => self.notices.push(notice),
            ServerMessage::CaughtUp(end) => self.caught_up.push(end),
            ServerMessage::Heartbeat(_) | ServerMessage::Early => {}
            other => return Some(other),
        }
        None
    }

    /// Reads the next message, and records it or returns it if it is for the caller.
    async fn step(&mut self) -> Option<Incoming> {
        match self.queue.pop_front() {
            Some(message) => return self.sort(message).map(Incoming::Message),
            None => match self.ws.next().await {
                Some(Ok(Message::Text(text))) if self.encoding == Encoding::Json => self.take(&text.into()),
                Some(Ok(Message::Binary(bytes))) if self.encoding == Encoding::MsgPack => self.take(&bytes),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Some(Incoming::Closed(frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("not a frame of the server: {other:?}"),
            },
        }
        None
    }

    fn take(&mut self, frame: &Bytes) {
        let objects: Vec<Value> = match self.encoding {
            Encoding::Json => serde_json::from_slice(frame).unwrap(),
            Encoding::MsgPack => rmp_serde::from_slice(frame).unwrap(),
        };
        let is_event = |object: &Value| object["T"] == "event" || object["T"] == "alert";
        self.objects.extend(objects.into_iter().filter(|object| is_event(object) && object["again"] != true));
        let messages = ServerMessage::parse(frame, self.encoding).unwrap();
        let is_early = messages.first() == Some(&ServerMessage::Early);
        for message in &messages {
            match message {
                ServerMessage::Event(event) | ServerMessage::Alert(event) if event.again => {}
                ServerMessage::Event(event) | ServerMessage::Alert(event) if is_early => {
                    self.early.insert((event.p, event.seq));
                }
                ServerMessage::Event(event) | ServerMessage::Alert(event) => {
                    let seen = self.seen.entry(event.p).or_insert(event.seq);
                    *seen = event.seq.max(*seen);
                }
                ServerMessage::Subscribed(Subscriptions { position, .. })
                | ServerMessage::Subscriptions(Subscriptions { position, .. })
                | ServerMessage::CaughtUp(CaughtUp { position, .. })
                | ServerMessage::Heartbeat(Heartbeat { position: Some(position) }) => {
                    self.position = position.to_string()
                }
                _ => {}
            }
        }
        self.queue.extend(messages);
    }
}

/// The query that names a user to a gateway in dev mode.
pub(crate) fn query(user: &str) -> String {
    let user: String = user.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("?user={user}")
}

async fn connect(gateway: SocketAddr, query: &str, encoding: Encoding) -> Ws {
    try_connect(gateway, query, encoding).await.expect("the gateway accepts the connection")
}

/// Connects to a gateway. Returns `None` if it refuses.
pub(crate) async fn try_connect(gateway: SocketAddr, query: &str, encoding: Encoding) -> Option<Ws> {
    let mut request = format!("ws://{gateway}/v1/stream{query}").into_client_request().unwrap();
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, encoding.sub_protocol().parse().unwrap());
    let (ws, answer) = connect_async(request).await.ok()?;
    assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], encoding.sub_protocol());
    Some(ws)
}

/// The HTTP status with which an upgrade with these headers is refused.
pub(crate) async fn refused_upgrade(gateway: SocketAddr, headers: &[(&'static str, &str)]) -> u16 {
    let mut request = format!("ws://{gateway}/v1/stream?user=u").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match connect_async(request).await {
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        other => panic!("not refused: {other:?}"),
    }
}
