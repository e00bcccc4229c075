//! The server's side of the protocol for tests: pipes in memory instead of a network, and a peer that a test controls
//! step by step. It parses frames like a gateway.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use tickwire_core::event::{Event, Timestamp};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{NodeId, Partition, Seq, Symbol, UserId};
use tickwire_core::protocol::{
    ClientFrame, Encoding, Id, Pong, ServerFrame, Subscription, SubscriptionName, Subscriptions, Welcome, encode,
    encode_event, write_array,
};
use tickwire_testkit::blank_event;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use crate::dial::{Dial, DialError, Endpoint};

/// Small, so that a slow reader causes backpressure soon.
const PIPE: usize = 8 * 1024;

/// Connects to a [`ScriptedServer`].
pub(crate) struct MemoryDial {
    arrivals: mpsc::UnboundedSender<(String, DuplexStream)>,
    refusals: Arc<AtomicUsize>,
}

/// Accepts the client's connections.
pub(crate) struct ScriptedServer {
    arriving: mpsc::UnboundedReceiver<(String, DuplexStream)>,
    refusals: Arc<AtomicUsize>,
}

/// The server's end of one connection.
pub(crate) struct Peer {
    socket: WebSocketStream<DuplexStream>,
    pub(crate) encoding: Encoding,
    pub(crate) authority: String,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
}

pub(crate) fn stage() -> (MemoryDial, ScriptedServer) {
    let (arrivals, arriving) = mpsc::unbounded_channel();
    let refusals = Arc::new(AtomicUsize::new(0));
    (MemoryDial { arrivals, refusals: refusals.clone() }, ScriptedServer { arriving, refusals })
}

impl Dial for MemoryDial {
    type Io = DuplexStream;

    async fn dial(&self, endpoint: &Endpoint) -> Result<DuplexStream, DialError> {
        let refused = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        let (ours, theirs) = tokio::io::duplex(PIPE);
        if refused || self.arrivals.send((endpoint.authority.clone(), theirs)).is_err() {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        }
        Ok(ours)
    }
}

impl ScriptedServer {
    /// Refuses the next `count` connections.
    pub(crate) fn refuse(&self, count: usize) {
        self.refusals.store(count, Ordering::SeqCst);
    }

    /// The next connection, before its upgrade.
    pub(crate) async fn arrival(&mut self) -> (String, DuplexStream) {
        self.arriving.recv().await.expect("the client dials")
    }

    /// The next connection, upgraded.
    #[expect(clippy::result_large_err, reason = "the handshake's callback has this shape")]
    pub(crate) async fn accept(&mut self) -> Peer {
        let (authority, io) = self.arrival().await;
        let mut seen = None;
        let socket = accept_hdr_async(io, |request: &Request, response| upgrade(request, response, &mut seen)).await;
        let (encoding, uri, headers) = seen.expect("the upgrade request was seen");
        Peer { socket: socket.expect("the upgrade succeeds"), encoding, authority, uri, headers }
    }

    /// The next connection, upgraded and welcomed.
    pub(crate) async fn welcome(&mut self) -> Peer {
        let mut peer = self.accept().await;
        peer.send(&[welcome_frame()]).await;
        peer
    }
}

type Seen = Option<(Encoding, String, HeaderMap)>;

#[expect(clippy::result_large_err, reason = "the handshake's callback has this shape")]
fn upgrade(request: &Request, mut response: Response, seen: &mut Seen) -> Result<Response, ErrorResponse> {
    let protocol = request.headers()["sec-websocket-protocol"].clone();
    let encoding = Encoding::from_sub_protocol(protocol.to_str().unwrap()).unwrap();
    *seen = Some((encoding, request.uri().to_string(), request.headers().clone()));
    response.headers_mut().insert("sec-websocket-protocol", protocol);
    Ok(response)
}

impl Peer {
    /// Sends one array of frames.
    pub(crate) async fn send(&mut self, frames: &[ServerFrame]) {
        let objects: Vec<_> = frames.iter().map(|frame| encode(frame, self.encoding)).collect();
        self.send_objects(&objects).await;
    }

    /// Sends an array with one event for each sequence.
    pub(crate) async fn send_events(&mut self, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            let object = encode_event(&event(seq), Partition(3), Seq(seq), self.encoding);
            self.send_objects(&[object]).await;
        }
    }

    pub(crate) async fn send_objects(&mut self, objects: &[Vec<u8>]) {
        let mut bytes = Vec::new();
        write_array(&mut bytes, objects.iter().map(Vec::as_slice), self.encoding);
        let message = match self.encoding {
            Encoding::Json => WsMessage::text(String::from_utf8(bytes).unwrap()),
            Encoding::MsgPack => WsMessage::binary(bytes),
        };
        self.socket.send(message).await.expect("the client reads");
    }

    /// The client's next frame.
    pub(crate) async fn receive(&mut self) -> (Id, ClientFrame) {
        let message =
            self.socket.next().await.expect("the client is connected").expect("the client's frames are valid");
        assert!(message.is_text() || message.is_binary(), "{message:?}");
        let (id, frame) = ClientFrame::parse(&message.into_data(), self.encoding).expect("the frame is valid");
        (id.expect("every frame has an id"), frame)
    }

    /// Grants the client's next frame, which must be a subscription, and returns its name.
    pub(crate) async fn grant(&mut self) -> String {
        let (id, frame) = self.receive().await;
        let ClientFrame::Subscribe { name, .. } = frame else { panic!("{frame:?}") };
        self.send(&[subscribed(id, &[name.as_str()])]).await;
        name.as_str().to_owned()
    }

    /// Closes, and waits for the client to answer.
    pub(crate) async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.socket.close(Some(frame)).await.expect("the client is connected");
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// Waits for the client to close, and returns the close code.
    pub(crate) async fn closed(mut self) -> Option<u16> {
        let mut code = None;
        while let Some(Ok(message)) = self.socket.next().await {
            if let WsMessage::Close(frame) = message {
                code = frame.map(|frame| frame.code.into());
            }
        }
        code
    }
}

pub(crate) const HEARTBEAT_MS: u32 = 15_000;

pub(crate) fn welcome() -> Welcome {
    Welcome {
        session: "s1".into(),
        user: UserId::new("ann").unwrap(),
        gateway: NodeId::new("gw-1").unwrap(),
        heartbeat_ms: HEARTBEAT_MS,
        max_frame_bytes: None,
        subscriptions: Vec::new(),
    }
}

pub(crate) fn welcome_frame() -> ServerFrame {
    ServerFrame::Welcome(welcome())
}

pub(crate) fn subscriptions(id: Id, names: &[&str]) -> Subscriptions {
    let one = || Subscription {
        filter: Arc::new(Filter::default()),
        window_ms: 100,
        max_events_per_hour: None,
        alert: false,
    };
    let named = |name: &&str| (SubscriptionName::new(name).unwrap(), one());
    Subscriptions::new(Some(id), names.iter().map(named).collect(), "p1".into())
}

pub(crate) fn subscribed(id: Id, names: &[&str]) -> ServerFrame {
    ServerFrame::Subscribed(subscriptions(id, names))
}

pub(crate) fn pong(id: Id) -> ServerFrame {
    ServerFrame::Pong(Pong { id: Some(id) })
}

pub(crate) fn event(seq: u64) -> Event {
    Event {
        id: format!("e{seq}").into(),
        ts: Timestamp(1_757_514_600_120),
        stored: Timestamp(1_757_514_600_125),
        symbol: Some(Symbol::new("AAPL").unwrap()),
        ..blank_event()
    }
}
