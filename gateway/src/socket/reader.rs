//! The reading side of a client's socket: tungstenite (limits, fragments, ping, close, UTF-8), which exists only while
//! a message arrives.
//!
//! At any time nearly all clients are silent, so the memory of a silent one is what counts. [`FramePosition`] follows
//! the headers of frames in the bytes, and knows when no message is incomplete. Then tungstenite's state is dropped. It
//! is created again with the next bytes. After a close frame it stays, because it decides what may follow.
//!
//! tungstenite reads across fragments until a message is complete. So [`Paced`], from which it reads, enforces the end
//! of a turn: beyond the client's [`ReadBudget`] it has no bytes. Too large messages never reach tungstenite, because
//! the [`OversizeFilter`] removes them before.

use std::io::{self, ErrorKind, Read, Write};

use tungstenite::Message;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use crate::socket::read_budget::ReadBudget;
use crate::socket::reader::frame_header::{LONGEST_HEADER, ParsedHeader};
use crate::socket::reader::oversize_filter::OversizeFilter;

/// How many bytes are read from a socket at a time. Clients send little.
const READ_BUFFER: usize = 512;

/// How many fragments a message may have. Without this limit a message of empty fragments could be endless.
const MAX_FRAGMENTS: u32 = 1024;

/// Reads messages from the bytes that have arrived.
#[derive(Debug)]
pub(crate) struct MessageReader {
    max_frame_bytes: usize,
    /// Whether this limit holds for all further messages.
    is_final: bool,
    partial: Option<Box<PartialMessage>>,
    /// Whether the stream has reported that it has nothing more for now. Until then bytes may wait here, or in a stream
    /// whose turn was over, and the kernel does not report them.
    is_drained: bool,
}

/// The state while a message is incomplete, or may be.
#[derive(Debug)]
struct PartialMessage {
    filter: OversizeFilter,
    context: WebSocketContext,
    position: FramePosition,
}

impl MessageReader {
    /// The reading side of a server's socket. `read` is what the HTTP server read beyond the upgrade. It is copied,
    /// since the server's buffer is large and would be kept as long as the session. `max_frame_bytes` holds for
    /// messages that are read before [`Self::set_max_frame_bytes`].
    pub(crate) fn new(read: &[u8], max_frame_bytes: usize) -> Self {
        let is_drained = read.is_empty();
        let partial = (!is_drained).then(|| Box::new(PartialMessage::new(max_frame_bytes, false, read)));
        Self { max_frame_bytes, is_final: false, partial, is_drained }
    }

    /// Whether there may be more to read that the kernel does not report.
    pub(super) fn may_have_more(&self) -> bool {
        !self.is_drained
    }

    /// Sets the largest size of a message, in bytes, from the next message on.
    pub(crate) fn set_max_frame_bytes(&mut self, max_frame_bytes: usize) {
        (self.max_frame_bytes, self.is_final) = (max_frame_bytes, true);
        if let Some(partial) = &mut self.partial {
            partial.filter.set_max(max_frame_bytes);
            partial.context.set_config(|config| {
                (config.max_message_size, config.max_frame_size) = (Some(max_frame_bytes), Some(max_frame_bytes));
            });
        }
    }

    /// Reads one message, as [`WebSocketContext::read`] does, as far as `pace` allows. `None` means a message that was
    /// too large and is skipped. The reader's own answers are added to `answers`.
    pub(super) fn read(
        &mut self,
        stream: impl Read,
        answers: &mut Vec<u8>,
        pace: &mut ReadBudget,
    ) -> Result<Option<Message>, Error> {
        let Self { max_frame_bytes, is_final, .. } = *self;
        let partial = self.partial.get_or_insert_with(|| Box::new(PartialMessage::new(max_frame_bytes, is_final, &[])));
        self.is_drained = false;
        let read = partial.read(Paced { stream, pace, is_drained: &mut self.is_drained }, answers);
        if is_all(&read) {
            let PartialMessage { filter, context, position } = &mut **partial;
            if filter.take_too_large() {
                // The part of the message that tungstenite already has is dropped too.
                if !position.closed {
                    (*context, *position) = (new_context(max_frame_bytes), FramePosition::default());
                }
                return Ok(None);
            }
            // All bytes are processed. If they end with a message, the state is the same as that of a new reader.
            if position.is_clean() && filter.is_clean() {
                self.partial = None;
            }
        }
        read.map(Some)
    }
}

impl PartialMessage {
    fn new(max_frame_bytes: usize, is_final: bool, read: &[u8]) -> Self {
        let filter = OversizeFilter::new(max_frame_bytes, is_final, read.to_vec());
        Self { filter, context: new_context(max_frame_bytes), position: FramePosition::default() }
    }

    fn read(&mut self, stream: Paced<'_, impl Read>, answers: &mut Vec<u8>) -> Result<Message, Error> {
        let Self { filter, context, position } = self;
        let read = context.read(&mut BufferedSocket { stream, answers, position, filter });
        if position.has_too_many_fragments || filter.gives_up() {
            let (size, max_size) = (position.fragments as usize, MAX_FRAGMENTS as usize);
            return Err(Error::Capacity(CapacityError::MessageTooLong { size, max_size }));
        }
        // The messages before the invalid text are returned first.
        if position.is_not_utf8 && (is_all(&read) || matches!(read, Err(Error::Utf8(_)))) {
            return Err(Error::Utf8("a text message is not UTF-8".to_owned()));
        }
        read
    }
}

/// Whether nothing more has arrived yet.
fn is_all(read: &Result<Message, Error>) -> bool {
    matches!(read, Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock)
}

fn new_context(max_frame_bytes: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(max_frame_bytes))
        .max_frame_size(Some(max_frame_bytes));
    WebSocketContext::new(Role::Server, Some(config))
}

/// The socket that tungstenite uses: it reads what has arrived, and its answers are collected.
struct BufferedSocket<'a, S> {
    stream: Paced<'a, S>,
    answers: &'a mut Vec<u8>,
    position: &'a mut FramePosition,
    filter: &'a mut OversizeFilter,
}

impl<S: Read> Read for BufferedSocket<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stream.pace.allowance() == 0 || self.position.has_too_many_fragments || self.position.is_not_utf8 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let read = self.filter.read(&mut self.stream, buffer)?;
        self.position.advance(&buffer[..read]);
        Ok(read)
    }
}

/// A stream, limited by the budget of its client.
struct Paced<'a, S> {
    stream: S,
    pace: &'a mut ReadBudget,
    is_drained: &'a mut bool,
}

impl<S> Paced<'_, S> {
    /// Counts the frames that have begun in what was read.
    fn count(&mut self, frames: u32) {
        self.pace.spend(0, frames);
    }
}

impl<S: Read> Read for Paced<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.pace.allowance().min(buffer.len());
        if most == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let read = self.stream.read(&mut buffer[..most]);
        *self.is_drained = matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock);
        let read = read?;
        self.pace.spend(read, 0);
        Ok(read)
    }
}

impl<S> Write for BufferedSocket<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answers.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks UTF-8 byte by byte (RFC 3629, 4).
#[derive(Debug, Default)]
struct Utf8 {
    /// How many bytes of the current character are missing.
    left: u8,
    /// The range of the next byte.
    from: u8,
    to: u8,
}

impl Utf8 {
    /// Whether this byte may be the next one.
    fn accepts(&mut self, byte: u8) -> bool {
        if self.left > 0 {
            let fits = (self.from..=self.to).contains(&byte);
            (self.left, self.from, self.to) = (self.left - 1, 0x80, 0xbf);
            return fits;
        }
        (self.left, self.from, self.to) = match byte {
            0x00..=0x7f => return true,
            0xc2..=0xdf => (1, 0x80, 0xbf),
            0xe0 => (2, 0xa0, 0xbf),
            0xed => (2, 0x80, 0x9f),
            0xe1..=0xef => (2, 0x80, 0xbf),
            0xf0 => (3, 0x90, 0xbf),
            0xf1..=0xf3 => (3, 0x80, 0xbf),
            0xf4 => (3, 0x80, 0x8f),
            _ => return false,
        };
        true
    }
}

/// The position in a client's stream of frames.
#[derive(Debug, Default)]
struct FramePosition {
    header: [u8; LONGEST_HEADER],
    /// How many bytes of the header were read.
    header_len: usize,
    /// How many bytes of the payload are missing.
    left: u64,
    /// The mask of the frame.
    mask: [u8; 4],
    /// How many bytes of the payload of text were read.
    passed: usize,
    /// The current text message.
    text: Option<Utf8>,
    /// Whether the frame belongs to the text message.
    is_text: bool,
    /// Whether a text is not UTF-8. tungstenite reports this only when a fragment is complete, which may never happen.
    is_not_utf8: bool,
    /// Whether further fragments of a message are missing.
    fragmented: bool,
    /// How many fragments of it have begun.
    fragments: u32,
    /// Whether a message has too many fragments.
    has_too_many_fragments: bool,
    /// Whether the client has sent a close frame.
    closed: bool,
}

impl FramePosition {
    /// Moves the position over these bytes.
    fn advance(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                if self.is_text {
                    self.check_text(&bytes[..passed]);
                }
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.header_len] = *first;
            self.header_len += 1;
            bytes = rest;
            match ParsedHeader::parse(&self.header[..self.header_len]) {
                Ok(Some(parsed)) => self.begin(&parsed),
                Ok(None) => {}
                // The reader refuses the frame, and nothing after it counts.
                Err(_) => (self.header_len, self.left, self.is_text) = (0, u64::MAX, false),
            }
        }
    }

    /// A frame begins.
    fn begin(&mut self, parsed: &ParsedHeader) {
        let ParsedHeader { header, payload, .. } = parsed;
        (self.header_len, self.left, self.passed, self.is_text) = (0, *payload, 0, false);
        self.mask = header.mask.unwrap_or_default();
        match header.opcode {
            OpCode::Data(data) => {
                let begins = data != Data::Continue;
                if begins {
                    self.text = (data == Data::Text).then(Utf8::default);
                }
                // A frame with another error gets that error, even if it is not UTF-8.
                let is_due =
                    !parsed.is_extended() && header.mask.is_some() && begins != self.fragmented && !self.closed;
                self.is_text = is_due && self.text.is_some();
                self.fragments = if self.fragmented { self.fragments + 1 } else { 1 };
                self.fragmented = !header.is_final;
                self.has_too_many_fragments |= self.fragments > MAX_FRAGMENTS;
            }
            OpCode::Control(Control::Close) => self.closed = true,
            OpCode::Control(_) => {}
        }
    }

    /// Checks the next bytes of a masked text.
    fn check_text(&mut self, bytes: &[u8]) {
        let Some(text) = &mut self.text else { return };
        for byte in bytes {
            self.is_not_utf8 |= !text.accepts(byte ^ self.mask[self.passed % self.mask.len()]);
            self.passed += 1;
        }
    }

    /// Whether no message is incomplete, and the client has not closed.
    fn is_clean(&self) -> bool {
        self.header_len == 0 && self.left == 0 && !self.fragmented && !self.closed
    }
}

mod frame_header;
mod oversize_filter;
#[cfg(test)]
pub(crate) mod pieces;

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
