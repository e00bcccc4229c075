//! A connection between a client and a gateway, in memory. What one end sends waits until the other end reads it. The
//! kernel between them may take only a part of what the gateway writes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::codes::CloseCode;

use crate::socket::{HEADER, Incoming, Ready, Socket, SocketEnd};

/// The state of a connection, which both ends share.
#[derive(Debug, Default)]
pub(super) struct SimPipe {
    /// Whether the gateway's runtime has polled the socket. It is not writable before that.
    is_attached: bool,
    /// The messages of the client that the gateway has not read.
    from_client: VecDeque<ClientMessage>,
    /// The frames that the gateway wrote and the client has not read, in order. The client can read a frame when the
    /// kernel has taken all of it.
    written: VecDeque<Vec<u8>>,
    /// How many bytes at the end of `written` the kernel has not taken.
    unsent: usize,
    /// How many bytes more the kernel takes; `None` for all.
    room: Option<usize>,
    /// Whether the client has dropped its end.
    is_cut: bool,
    /// Whether the gateway has dropped its end.
    is_dropped: bool,
    /// The code of the gateway's close frame, which it sent after all other frames.
    close_code: Option<u16>,
}

/// What the gateway's WebSocket reader finds when it reads a message of a client.
#[derive(Debug)]
pub(super) enum ClientMessage {
    Frame(Bytes),
    /// A message of the other WebSocket type.
    WrongType,
    TooLarge,
    Pong,
    /// A violation of the WebSocket protocol, and the code with which the gateway closes. Nothing after it is read.
    Breach(CloseCode),
}

/// The bytes that stand for a ping.
const PING: &[u8] = b"ping";

/// The client's end.
pub(super) type ClientSocket = Rc<RefCell<SimPipe>>;

impl SimPipe {
    /// The client sends a message.
    pub(super) fn send(&mut self, message: ClientMessage) {
        self.from_client.push_back(message);
    }

    /// The next frame of the gateway that the kernel has taken completely. It answers pings, as WebSocket libraries do.
    pub(super) fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            let waiting: usize = self.written.iter().skip(1).map(Vec::len).sum();
            if self.unsent > waiting {
                return None;
            }
            let frame = self.written.pop_front()?;
            if frame != PING {
                return Some(frame);
            }
            self.from_client.push_back(ClientMessage::Pong);
        }
    }

    /// The code of the gateway's close frame, once the client has read all frames before it.
    pub(super) fn close_code(&self) -> Option<u16> {
        self.close_code.filter(|_| self.written.is_empty())
    }

    /// Whether the gateway has ended the connection, and the client has read all that arrived.
    pub(super) fn has_ended(&self) -> bool {
        self.is_dropped && (self.written.is_empty() || self.unsent > 0)
    }

    /// The client drops its end without a close frame.
    pub(super) fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Sets how many bytes more the kernel takes; `None` for all.
    pub(super) fn set_room(&mut self, room: Option<usize>) {
        self.room = room;
    }

    /// The gateway's runtime polls the socket for the first time.
    pub(super) fn attach(&mut self) {
        self.is_attached = true;
    }

    /// How many of `offered` bytes the kernel takes.
    fn take(&mut self, offered: usize) -> usize {
        if !self.is_attached {
            return 0;
        }
        let Some(room) = &mut self.room else { return offered };
        let taken = offered.min(*room);
        *room -= taken;
        taken
    }
}

/// The gateway's end.
#[derive(Debug)]
pub(super) struct GatewaySocket(pub(super) ClientSocket);

impl GatewaySocket {
    fn write(&mut self, bytes: Vec<u8>) -> Result<(), SocketEnd> {
        let mut pipe = self.0.borrow_mut();
        if pipe.is_cut {
            return Err(SocketEnd::Gone);
        }
        let taken = if pipe.unsent > 0 { 0 } else { pipe.take(bytes.len()) };
        pipe.unsent += bytes.len() - taken;
        pipe.written.push_back(bytes);
        Ok(())
    }
}

impl Drop for GatewaySocket {
    fn drop(&mut self) {
        self.0.borrow_mut().is_dropped = true;
    }
}

impl Socket for GatewaySocket {
    fn encoding(&self) -> Encoding {
        Encoding::Json
    }

    fn unsent(&self) -> usize {
        self.0.borrow().unsent
    }

    fn wants_input(&self) -> bool {
        true
    }

    fn is_gone(&self) -> bool {
        self.0.borrow().is_cut
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        if let Poll::Ready(ready) = self.poll_writable(cx) {
            return Poll::Ready(ready);
        }
        let pipe = self.0.borrow();
        if pipe.is_cut || !pipe.from_client.is_empty() { Poll::Ready(Ready::Readable) } else { Poll::Pending }
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<Ready> {
        let pipe = self.0.borrow();
        let takes = pipe.unsent > 0 && pipe.is_attached && pipe.room.is_none_or(|room| room > 0);
        if takes { Poll::Ready(Ready::Writable) } else { Poll::Pending }
    }

    fn watch_again(&mut self) {}

    fn read(&mut self) -> Result<Option<Incoming>, SocketEnd> {
        let mut pipe = self.0.borrow_mut();
        match pipe.from_client.pop_front() {
            Some(ClientMessage::Frame(frame)) => Ok(Some(Incoming::Frame(frame))),
            Some(ClientMessage::WrongType) => Ok(Some(Incoming::WrongType)),
            Some(ClientMessage::TooLarge) => Ok(Some(Incoming::TooLarge)),
            Some(ClientMessage::Pong) => Ok(Some(Incoming::Alive)),
            Some(ClientMessage::Breach(code)) => {
                pipe.from_client.clear();
                Err(SocketEnd::Refused(code))
            }
            None if pipe.is_cut => Err(SocketEnd::Gone),
            None => Ok(None),
        }
    }

    fn send(&mut self, frame: &mut [u8]) -> Result<(), SocketEnd> {
        self.write(frame[HEADER..].to_vec())
    }

    fn ping(&mut self) -> Result<(), SocketEnd> {
        self.write(PING.to_vec())
    }

    fn close(&mut self, code: CloseCode) -> Result<(), SocketEnd> {
        let mut pipe = self.0.borrow_mut();
        pipe.close_code.get_or_insert(code.code());
        if pipe.is_cut { Err(SocketEnd::Gone) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), SocketEnd> {
        let mut pipe = self.0.borrow_mut();
        if pipe.is_cut {
            return Err(SocketEnd::Gone);
        }
        let unsent = pipe.unsent;
        pipe.unsent -= pipe.take(unsent);
        Ok(())
    }
}
