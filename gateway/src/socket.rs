//! A client's socket within its shard: its [`MessageReader`] reads messages, and data frames are written directly from
//! the bytes that the shard has composed.
//!
//! Bytes that the kernel does not accept wait here, and no event is written before they are sent. Meanwhile the
//! client's messages are read as long as few answers wait. One task watches each socket; the socket wakes it when it
//! must watch for something else. A [`ReadBudget`] limits what is read in a turn and in a second. A turn begins when
//! [`Socket::poll_ready`] returns [`Ready::Readable`].

mod fault;
mod header;
mod read_budget;
mod reader;

use std::io::{self, ErrorKind, Read};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures_util::FutureExt;
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::codes::CloseCode;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tungstenite::Message;
use tungstenite::error::Error;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// How many unsent bytes of a connection the kernel may hold. Without a bound it accepts megabytes, and a ping behind
/// them reaches a client on a slow link minutes later.
pub(crate) const KERNEL_BYTES: u32 = 64 * 1024;

use crate::socket::fault::fault;
pub(crate) use crate::socket::header::HEADER;
use crate::socket::header::{put_close, put_header};
pub(crate) use crate::socket::read_budget::{ReadBudget, ReadRate};
pub(crate) use reader::MessageReader;
#[cfg(test)]
pub(crate) use reader::pieces::frame;

/// How many bytes are read and discarded at a time after a fault.
const DISCARD_BYTES: usize = 512;

/// While at least this many bytes of answers wait behind others for the kernel, nothing is read from the client.
const WAITING_ANSWERS: usize = 16 * 1024;

/// A message from a client.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A message in the encoding agreed on.
    Frame(bytes::Bytes),
    /// A message of the wrong WebSocket type for the encoding.
    WrongType,
    /// A message that was larger than the limit, and was skipped.
    TooLarge,
    /// A ping, a pong or a close frame: only a sign of life.
    Alive,
}

impl Incoming {
    /// The size of the message, in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Frame(bytes) => bytes.len(),
            Self::WrongType | Self::TooLarge | Self::Alive => 0,
        }
    }
}

/// Why a socket cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketEnd {
    /// The client left, or the connection broke.
    Gone,
    /// It must be closed with this code.
    Refused(CloseCode),
}

/// A socket on its way to another thread.
#[derive(Debug)]
pub(crate) struct DetachedSocket {
    tcp: std::net::TcpStream,
    reader: MessageReader,
    pace: ReadBudget,
    encoding: Encoding,
    unsent: Vec<u8>,
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// There is something to read, possibly only the end.
    Readable,
    /// The kernel accepts bytes again.
    Writable,
    /// The connection is broken.
    Broken,
}

/// The task that waits for a socket to become ready. It is woken when the socket is dropped.
#[derive(Debug, Default)]
struct Watcher(Option<Waker>);

impl Watcher {
    fn wake(&mut self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.wake();
    }
}

/// A client's connection, as its shard uses it. It is a [`TcpSocket`], except in the simulator, which has its own.
pub(crate) trait Socket {
    /// The encoding of frames.
    fn encoding(&self) -> Encoding;

    /// How many bytes wait for the kernel.
    fn unsent(&self) -> usize;

    /// Whether messages of the client should be read: few answers to it wait.
    fn wants_input(&self) -> bool;

    /// Whether the client has closed it, or it is broken, as far as is known without reading.
    fn is_gone(&self) -> bool;

    /// Waits until there is something to read, if it should be read, or until the kernel accepts bytes, if bytes wait.
    /// The task is also woken when this has changed, or the socket is dropped, and must then poll again.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready>;

    /// Waits until the kernel accepts bytes, if bytes wait; does not wait for reading. The task is also woken when it
    /// must poll again.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<Ready>;

    /// Wakes the task that waits, so that it polls again.
    fn watch_again(&mut self);

    /// Reads one message; `None` if none is complete, or the turn is over.
    fn read(&mut self) -> Result<Option<Incoming>, SocketEnd>;

    /// Writes one message. Its payload is in `frame`, after [`HEADER`] bytes of space for the header.
    fn send(&mut self, frame: &mut [u8]) -> Result<(), SocketEnd>;

    /// Sends a ping.
    fn ping(&mut self) -> Result<(), SocketEnd>;

    /// Sends a close frame with a code and its reason.
    fn close(&mut self, code: CloseCode) -> Result<(), SocketEnd>;

    /// Writes the bytes that wait for the kernel.
    fn flush(&mut self) -> Result<(), SocketEnd>;
}

/// A TCP socket, its reader, and the bytes that the kernel has not accepted yet. The fields that every delivery reads
/// are the first ones.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct TcpSocket {
    tcp: TcpStream,
    encoding: Encoding,
    /// Whether our close frame was written. Nothing may follow it.
    closing: bool,
    unsent: Vec<u8>,
    /// How many bytes of `unsent` are sent.
    sent: usize,
    /// How many bytes were added behind other waiting bytes.
    behind: usize,
    watcher: Watcher,
    reader: MessageReader,
    pace: ReadBudget,
    /// The pause while the client has used up its budget of a second.
    pause: Option<Pin<Box<Sleep>>>,
    /// The error after which the reader cannot continue. Bytes that arrive after it are discarded, so that the client
    /// can still read the close frame.
    fault: Option<&'static str>,
}

impl TcpSocket {
    pub(crate) fn new(tcp: TcpStream, reader: MessageReader, rate: ReadRate, encoding: Encoding) -> Self {
        Self::of(tcp, reader, ReadBudget::new(rate, Instant::now()), encoding)
    }

    fn of(tcp: TcpStream, reader: MessageReader, pace: ReadBudget, encoding: Encoding) -> Self {
        let (pause, unsent, watcher) = (None, Vec::new(), Watcher::default());
        Self { tcp, reader, pace, pause, encoding, unsent, sent: 0, behind: 0, fault: None, closing: false, watcher }
    }

    /// Takes the socket out of its runtime, to move it to another thread.
    pub(crate) fn detach(self) -> io::Result<DetachedSocket> {
        let Self { reader, pace, encoding, .. } = self;
        let unsent = self.unsent[self.sent..].to_vec();
        Ok(DetachedSocket { tcp: self.tcp.into_std()?, reader, pace, encoding, unsent })
    }

    /// Attaches a detached socket to this thread's runtime.
    pub(crate) fn attach(detached: DetachedSocket) -> io::Result<Self> {
        let DetachedSocket { tcp, reader, pace, encoding, unsent } = detached;
        #[cfg(target_os = "linux")]
        socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(KERNEL_BYTES)?;
        Ok(Self { unsent, ..Self::of(TcpStream::from_std(tcp)?, reader, pace, encoding) })
    }

    /// Sets the largest size of a message, in bytes, from the next message on.
    pub(crate) fn set_max_frame_bytes(&mut self, max_frame_bytes: usize) {
        self.reader.set_max_frame_bytes(max_frame_bytes);
    }

    /// Sends a close frame with a code and this reason, which is cut if it is too long for the frame.
    pub(crate) fn close_with(&mut self, code: CloseCode, reason: &str) -> Result<(), SocketEnd> {
        let mut frame = vec![0; HEADER];
        put_close(&mut frame, code, reason);
        let start = put_header(&mut frame, OpCode::Control(Control::Close));
        self.closing = true;
        self.write(&frame[start..])
    }

    fn discard(&mut self) -> Result<Option<Incoming>, SocketEnd> {
        let mut buffer = [0; DISCARD_BYTES];
        loop {
            let most = self.pace.allowance().min(DISCARD_BYTES);
            if most == 0 {
                return Ok(None);
            }
            match self.tcp.try_read(&mut buffer[..most]) {
                Ok(0) => return Err(SocketEnd::Gone),
                Ok(read) => self.pace.spend(read, 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(_) => return Err(SocketEnd::Gone),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SocketEnd> {
        let mut taken = 0;
        if self.unsent() > 0 {
            self.behind += bytes.len();
        } else {
            taken = match self.tcp.try_write(bytes) {
                Ok(taken) => taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return Err(SocketEnd::Gone),
            };
        }
        if taken < bytes.len() {
            self.unsent.extend_from_slice(&bytes[taken..]);
            self.watcher.wake();
        }
        Ok(())
    }
}

impl Socket for TcpSocket {
    fn encoding(&self) -> Encoding {
        self.encoding
    }

    fn unsent(&self) -> usize {
        self.unsent.len() - self.sent
    }

    fn wants_input(&self) -> bool {
        self.behind < WAITING_ANSWERS
    }

    fn is_gone(&self) -> bool {
        let ready = self.tcp.ready(Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        if let Poll::Ready(ready) = self.poll_writable(cx) {
            return Poll::Ready(ready);
        }
        if !self.wants_input() {
            return Poll::Pending;
        }
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            // The kernel does not report bytes that are already in the reader.
            let waits_here = self.reader.may_have_more() && self.fault.is_none();
            if !waits_here && ready!(self.tcp.poll_read_ready(cx)).is_err() {
                return Poll::Ready(Ready::Broken);
            }
            match self.pace.begin(Instant::now()) {
                Ok(()) => return Poll::Ready(Ready::Readable),
                Err(until) => self.pause = Some(Box::pin(sleep_until(until))),
            }
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        if self.watcher.0.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.watcher.0 = Some(cx.waker().clone());
        }
        match self.unsent() {
            0 => Poll::Pending,
            _ => self.tcp.poll_write_ready(cx).map(|polled| polled.map_or(Ready::Broken, |()| Ready::Writable)),
        }
    }

    fn watch_again(&mut self) {
        self.watcher.wake();
    }

    fn read(&mut self) -> Result<Option<Incoming>, SocketEnd> {
        if self.fault.is_some() {
            return self.discard();
        }
        let (waiting, waited) = (self.unsent.len(), self.unsent() > 0);
        let read = self.reader.read(Kernel(&self.tcp), &mut self.unsent, &mut self.pace);
        if self.closing {
            self.unsent.truncate(waiting);
        }
        // The reader's own answers, a pong or a close, are in `unsent` now.
        if waited {
            self.behind += self.unsent.len() - waiting;
        } else {
            self.flush()?;
        }
        match read {
            Ok(None) => Ok(Some(Incoming::TooLarge)),
            Ok(Some(Message::Text(text))) if self.encoding == Encoding::Json => Ok(Some(Incoming::Frame(text.into()))),
            Ok(Some(Message::Binary(bytes))) if self.encoding == Encoding::MsgPack => Ok(Some(Incoming::Frame(bytes))),
            Ok(Some(Message::Text(_) | Message::Binary(_))) => Ok(Some(Incoming::WrongType)),
            Ok(Some(_)) => Ok(Some(Incoming::Alive)),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => match fault(&error) {
                Some((code, reason)) => {
                    self.fault = Some(reason);
                    Err(SocketEnd::Refused(code))
                }
                None => Err(SocketEnd::Gone),
            },
        }
    }

    fn send(&mut self, frame: &mut [u8]) -> Result<(), SocketEnd> {
        let data = match self.encoding {
            Encoding::Json => Data::Text,
            Encoding::MsgPack => Data::Binary,
        };
        let start = put_header(frame, OpCode::Data(data));
        self.write(&frame[start..])
    }

    fn ping(&mut self) -> Result<(), SocketEnd> {
        let mut frame = [0; HEADER];
        let start = put_header(&mut frame, OpCode::Control(Control::Ping));
        self.write(&frame[start..])
    }

    fn close(&mut self, code: CloseCode) -> Result<(), SocketEnd> {
        self.close_with(code, self.fault.unwrap_or(code.text()))
    }

    fn flush(&mut self) -> Result<(), SocketEnd> {
        while self.sent < self.unsent.len() {
            match self.tcp.try_write(&self.unsent[self.sent..]) {
                Ok(0) => return Err(SocketEnd::Gone),
                Ok(taken) => self.sent += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(SocketEnd::Gone),
            }
        }
        if self.sent > 0 {
            (self.unsent, self.sent, self.behind) = (Vec::new(), 0, 0);
        }
        Ok(())
    }
}

/// Reads the bytes that the kernel has received.
struct Kernel<'a>(&'a TcpStream);

impl Read for Kernel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}
