//! A bare TCP connection to a gateway, for requests and frames that no client library would send.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::node::DEADLINE;

/// A connection, and the bytes that were read and not handled.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    /// Its status.
    pub(crate) status: u16,
    text: String,
}

impl Head {
    /// The value of this header, its name in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }
}

impl Wire {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    /// Connects, or returns `None` if no process listens.
    pub(crate) async fn try_connect(address: SocketAddr) -> Option<Self> {
        Some(Self { stream: TcpStream::connect(address).await.ok()?, read: Vec::new() })
    }

    /// Sends bytes in one segment.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends bytes in one segment, or returns an error if the connection has ended.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Reads the head of an answer. Returns `None` if the connection ends before.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        let end = self.until(b"\r\n\r\n", DEADLINE).await?;
        let text = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Head { status, text })
    }

    /// Sends a request and reads the head of the answer.
    pub(crate) async fn ask(&mut self, request: &str) -> Head {
        self.send(request).await;
        self.head().await.expect("an answer")
    }

    /// Waits until these bytes have arrived, and returns their end. Returns `None` if the connection or the time ends.
    pub(crate) async fn until(&mut self, wanted: &[u8], deadline: Duration) -> Option<usize> {
        let found = async {
            loop {
                if let Some(at) = self.read.windows(wanted.len()).position(|window| window == wanted) {
                    return Some(at + wanted.len());
                }
                if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                    return None;
                }
            }
        };
        timeout(deadline, found).await.ok().flatten()
    }
}

/// A request for a WebSocket, with further headers, each line ended.
pub(crate) fn upgrade(query: &str, headers: &str) -> String {
    format!(
        "GET /v1/stream{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// A frame as a client sends it, with a mask of zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length => frame.extend([&[0x80 | 126], &u16::try_from(length).unwrap().to_be_bytes()[..]].concat()),
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
