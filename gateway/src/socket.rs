//! A client's socket within its shard: its [`MessageReader`] reads, and data frames are written straight from the bytes that
//! the shard puts together.
//!
//! Bytes that the kernel does not take wait here, and no event is written before they are gone. What a client says is
//! read meanwhile, as long as the answers that wait are few. One task watches each socket; the socket itself tells it
//! when there is something else to watch for. What is read in a turn and in a second is bounded by a [`ReadBudget`], and a turn
//! begins when [`Socket::poll_ready`] says that there is something.

mod pace;
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
use tungstenite::error::{Error, ProtocolError};

pub(crate) use pace::{ReadBudget, ReadRate};
pub(crate) use reader::MessageReader;
#[cfg(test)]
pub(crate) use reader::pieces::frame;

use crate::shard::pulse::KERNEL_BYTES;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;

/// How much of what a client says in vain is let go at a time.
const SCRAP: usize = 512;

/// While so many bytes of answers wait behind others for the kernel, a client is not asked for more.
const WAITING_ANSWERS: usize = 16 * 1024;

/// What a client sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A message in the encoding agreed on.
    Frame(bytes::Bytes),
    /// A message of the other WebSocket type than the encoding's.
    WrongType,
    /// A message that is larger than the limit, and was passed over.
    TooLarge,
    /// A sign of life.
    Alive,
}

impl Incoming {
    /// How many bytes a client said.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Frame(bytes) => bytes.len(),
            Self::WrongType | Self::TooLarge | Self::Alive => 0,
        }
    }
}

/// Why a socket is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketEnd {
    /// The client left, or the connection broke.
    Gone,
    /// It is to be closed with this code.
    Refused(CloseCode),
}

/// A socket between two threads.
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
    /// There is something to read, if only the end.
    Readable,
    /// The kernel takes bytes again.
    Writable,
    /// Nothing any more.
    Broken,
}

/// Whoever waits for a socket to become ready; woken when it is gone.
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

/// A client's connection, as its shard uses it. [`TcpSocket`] ships; the simulator has one of its own.
pub(crate) trait Socket {
    /// How frames are written.
    fn encoding(&self) -> Encoding;

    /// How many bytes wait for the kernel.
    fn unsent(&self) -> usize;

    /// Whether what the client says is to be read: it takes the answers that it was given, or few of them wait.
    fn takes_more(&self) -> bool;

    /// Whether the client has closed it, or it is broken, as far as is known without reading.
    fn is_gone(&self) -> bool;

    /// Waits until there is something to read, if that is wanted, or, while bytes wait for the kernel, until it takes them.
    /// Whoever waits is woken as well when it should look again, since that has changed or the socket is gone.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready>;

    /// Waits, while bytes wait for the kernel, until it takes them, and reads nothing. Whoever waits is woken as well when
    /// it should look again.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<Ready>;

    /// Whoever waits is to look again.
    fn watch_again(&mut self);

    /// Reads one message; `None` when there is none whole, or the turn is over.
    fn read(&mut self) -> Result<Option<Incoming>, SocketEnd>;

    /// Writes one message whose payload stands in `frame` behind [`HEADER`] bytes of room for its header.
    fn send(&mut self, frame: &mut [u8]) -> Result<(), SocketEnd>;

    /// Asks the client's WebSocket for a sign of life.
    fn ping(&mut self) -> Result<(), SocketEnd>;

    /// Says goodbye with a code and its reason.
    fn close(&mut self, code: CloseCode) -> Result<(), SocketEnd>;

    /// Gives the kernel what waits for it.
    fn flush(&mut self) -> Result<(), SocketEnd>;
}

/// A socket, its reader, and what the kernel has not taken yet. What every delivery reads stands first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct TcpSocket {
    tcp: TcpStream,
    encoding: Encoding,
    /// Whether our close frame is on its way, behind which nothing may follow.
    closing: bool,
    unsent: Vec<u8>,
    /// How much of `unsent` is gone.
    sent: usize,
    /// How much came to wait behind other bytes that waited.
    behind: usize,
    watcher: Watcher,
    reader: MessageReader,
    pace: ReadBudget,
    /// While the client has used up its second.
    pause: Option<Pin<Box<Sleep>>>,
    /// What the reader met after which it cannot go on; what comes then is let go unread, so that the client can still
    /// read why.
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

    /// Takes the socket out of its runtime, to be handed to another thread.
    pub(crate) fn detach(self) -> io::Result<DetachedSocket> {
        let Self { reader, pace, encoding, .. } = self;
        let unsent = self.unsent[self.sent..].to_vec();
        Ok(DetachedSocket { tcp: self.tcp.into_std()?, reader, pace, encoding, unsent })
    }

    /// Takes a parked socket into this thread's runtime.
    pub(crate) fn attach(detached: DetachedSocket) -> io::Result<Self> {
        let DetachedSocket { tcp, reader, pace, encoding, unsent } = detached;
        #[cfg(target_os = "linux")]
        socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(KERNEL_BYTES)?;
        Ok(Self { unsent, ..Self::of(TcpStream::from_std(tcp)?, reader, pace, encoding) })
    }

    /// From the next message on, this is the most bytes that one may have.
    pub(crate) fn set_max_frame_bytes(&mut self, max_frame_bytes: usize) {
        self.reader.set_max_frame_bytes(max_frame_bytes);
    }

    fn discard(&mut self) -> Result<Option<Incoming>, SocketEnd> {
        let mut scrap = [0; SCRAP];
        loop {
            let most = self.pace.allowance().min(SCRAP);
            if most == 0 {
                return Ok(None);
            }
            match self.tcp.try_read(&mut scrap[..most]) {
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

    fn takes_more(&self) -> bool {
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
        if !self.takes_more() {
            return Poll::Pending;
        }
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            // What was read and not looked at, or left for another turn, makes no kernel say so.
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
        // What the reader answered by itself, a pong or a close, stands in `unsent` now.
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
                Some((code, words)) => {
                    self.fault = Some(words);
                    Err(SocketEnd::Refused(code))
                }
                None => Err(SocketEnd::Gone),
            },
        }
    }

    fn send(&mut self, frame: &mut [u8]) -> Result<(), SocketEnd> {
        let opcode = match self.encoding {
            Encoding::Json => TEXT,
            Encoding::MsgPack => BINARY,
        };
        let start = put_header(frame, opcode);
        self.write(&frame[start..])
    }

    fn ping(&mut self) -> Result<(), SocketEnd> {
        self.write(&[0x80 | PING, 0])
    }

    fn close(&mut self, code: CloseCode) -> Result<(), SocketEnd> {
        let mut frame = vec![0; HEADER];
        frame.extend(code.code().to_be_bytes());
        frame.extend(self.fault.unwrap_or(code.text()).as_bytes());
        let start = put_header(&mut frame, CLOSE);
        self.closing = true;
        self.write(&frame[start..])
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

/// What the kernel has of a client's bytes.
struct Kernel<'a>(&'a TcpStream);

impl Read for Kernel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

/// The most bytes that the header of a server's frame has (RFC 6455, 5.2).
pub(crate) const HEADER: usize = 10;

/// Writes the header of an unmasked, final frame right before its payload, which starts at [`HEADER`]. Returns where
/// the header starts.
fn put_header(frame: &mut [u8], opcode: u8) -> usize {
    let len = frame.len() - HEADER;
    let start = match len {
        0..=125 => {
            frame[HEADER - 1] = len as u8;
            HEADER - 2
        }
        126..=0xffff => {
            frame[HEADER - 2..HEADER].copy_from_slice(&(len as u16).to_be_bytes());
            frame[HEADER - 3] = 126;
            HEADER - 4
        }
        _ => {
            frame[HEADER - 8..HEADER].copy_from_slice(&(len as u64).to_be_bytes());
            frame[HEADER - 9] = 127;
            HEADER - 10
        }
    };
    frame[start] = 0x80 | opcode;
    start
}

/// With what a client is closed whose reader met this, and what it is told; `None` if it has gone.
fn fault(error: &Error) -> Option<(CloseCode, &'static str)> {
    let words = match error {
        Error::Capacity(_) => return Some((CloseCode::TooBig, CloseCode::TooBig.text())),
        Error::Utf8(_) => return Some((CloseCode::NotUtf8, CloseCode::NotUtf8.text())),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
        Error::Protocol(error) => match error {
            ProtocolError::NonZeroReservedBits => "reserved bits set",
            ProtocolError::UnmaskedFrameFromClient => "a frame without a mask",
            ProtocolError::FragmentedControlFrame => "a control frame in fragments",
            ProtocolError::ControlFrameTooBig => "a control frame of more than 125 bytes",
            ProtocolError::UnknownControlFrameType(_)
            | ProtocolError::UnknownDataFrameType(_)
            | ProtocolError::InvalidOpcode(_) => "an opcode that RFC 6455 reserves",
            ProtocolError::UnexpectedContinueFrame => "a continuation of nothing",
            ProtocolError::ExpectedFragment(_) => "a message between the fragments of another",
            ProtocolError::InvalidCloseSequence => "a close frame that is not well-formed",
            ProtocolError::ReceivedAfterClosing => "a frame after the close frame",
            _ => CloseCode::ProtocolError.text(),
        },
        _ => return None,
    };
    Some((CloseCode::ProtocolError, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_rfc_6455() {
        for (len, expected) in [
            (5, vec![0x81, 5]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (0xffff, vec![0x81, 126, 0xff, 0xff]),
            (0x1_0000, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut frame = vec![0; HEADER + len];
            let start = put_header(&mut frame, TEXT);
            assert_eq!(frame[start..HEADER], expected, "{len} bytes");
        }
    }
}
