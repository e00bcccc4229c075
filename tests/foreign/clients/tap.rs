//! A line between one client and a gateway that records both directions, and can be cut.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::foreign::frames::{Frame, head};

/// Opcodes (RFC 6455, 5.2).
pub(super) const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;

/// The line.
pub(super) struct Tap {
    /// The address for the client.
    pub(super) address: SocketAddr,
    is_cut: watch::Sender<bool>,
    noted: Arc<Mutex<Vec<Noted>>>,
}

/// The record of one connection.
#[derive(Default)]
pub(super) struct Noted {
    /// The head of the request for it, and of the answer.
    pub(super) request: String,
    pub(super) answer: String,
    /// The frames of the client and those of the gateway.
    pub(super) client: Vec<Frame>,
    pub(super) gateway: Vec<Frame>,
}

impl Noted {
    /// The texts of the client, with joined fragments.
    pub(super) fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        let mut text = Vec::new();
        for frame in self.client.iter().filter(|frame| !frame.is_control()) {
            text.extend(&frame.payload);
            if frame.is_last() {
                texts.push(String::from_utf8(std::mem::take(&mut text)).unwrap());
            }
        }
        texts
    }

    /// Whether the gateway has confirmed the subscription.
    pub(super) fn is_subscribed(&self) -> bool {
        let confirmed = br#""T":"subscribed""#;
        self.gateway.iter().any(|frame| frame.payload.windows(confirmed.len()).any(|bytes| bytes == confirmed))
    }
}

/// Whether there is a ping, and each one has its pong, in order.
pub(super) fn are_answered(pings: &[Frame], pongs: &[Frame]) -> bool {
    let payloads = |frames: &[Frame], opcode: u8| -> Vec<Vec<u8>> {
        frames.iter().filter(|frame| frame.opcode() == opcode).map(|frame| frame.payload.clone()).collect()
    };
    let (pings, pongs) = (payloads(pings, PING), payloads(pongs, PONG));
    !pings.is_empty() && pongs == pings
}

/// The code of the close among these frames, if there is one.
pub(super) fn close_code(frames: &[Frame]) -> Option<u16> {
    let close = frames.iter().find(|frame| frame.opcode() == CLOSE)?;
    Some(u16::from_be_bytes(close.payload.get(..2)?.try_into().unwrap()))
}

impl Tap {
    pub(super) async fn to(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_cut, watched) = watch::channel(false);
        let noted = Arc::<Mutex<Vec<Noted>>>::default();
        let notes = Arc::clone(&noted);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut is_cut, notes) = (watched.clone(), Arc::clone(&notes));
                tokio::spawn(async move {
                    // Both ends are dropped without a close.
                    tokio::select! {
                        _ = is_cut.wait_for(|is_cut| *is_cut) => {}
                        _ = carry(client, gateway, &notes) => {}
                    }
                });
            }
        });
        Self { address, is_cut, noted }
    }

    /// Ends the connection, and each new one at once.
    pub(super) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Accepts connections again.
    pub(super) fn mend(&self) {
        self.is_cut.send_replace(false);
    }

    /// Reads the records of all connections that became WebSockets.
    pub(super) fn look<T>(&self, look: impl FnOnce(&[Noted]) -> T) -> T {
        look(&self.noted.lock().unwrap())
    }
}

async fn carry(mut client: TcpStream, gateway: SocketAddr, notes: &Mutex<Vec<Noted>>) -> io::Result<()> {
    let mut server = TcpStream::connect(gateway).await?;
    let request = head(&mut client).await?;
    server.write_all(&request).await?;
    let answer = head(&mut server).await?;
    client.write_all(&answer).await?;
    let text = |head: Vec<u8>| String::from_utf8(head).unwrap();
    let number = {
        let mut notes = notes.lock().unwrap();
        notes.push(Noted { request: text(request), answer: text(answer), ..Noted::default() });
        notes.len() - 1
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pass(from_client, to_server, |frame| notes.lock().unwrap()[number].client.push(frame));
    let back = pass(from_server, to_client, |frame| notes.lock().unwrap()[number].gateway.push(frame));
    tokio::try_join!(there, back).map(|((), ())| ())
}

/// Records frames and forwards them, until they end. In this order, so that a frame is recorded before its receiver can
/// react to it.
async fn pass(mut from: OwnedReadHalf, mut to: impl AsyncWrite + Unpin, note: impl Fn(Frame)) -> io::Result<()> {
    while let Ok(frame) = Frame::read(&mut from).await {
        let bytes = frame.bytes.clone();
        note(frame);
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}
