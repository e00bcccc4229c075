//! The reading side of a client's socket: tungstenite (limits, fragments, ping, close, UTF-8), which exists only while
//! a client is saying something.
//!
//! At any time nearly all clients are silent, so what a silent one holds is what counts. [`FramePosition`] follows the headers
//! of frames as bytes go by and knows when nothing of a message is left; the reader is let go then, and made anew with
//! the next bytes. Once the client has said goodbye it stays, since what may follow depends on that.
//!
//! tungstenite reads on over fragments until a message is whole, so the end of a turn is kept where it gets its bytes,
//! in [`Paced`]: beyond the client's [`ReadBudget`] there are none for now. What is too large never reaches it: the [`OversizeFilter`]
//! before it takes that out.

mod sieve;

use std::io::{self, ErrorKind, Read, Write};

use tungstenite::Message;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::TEXT;
use super::pace::ReadBudget;
use sieve::{Header, LONGEST_HEADER, OversizeFilter};

/// How much is read from a socket at a time. Clients send little.
const READ_BUFFER: usize = 512;

/// The most fragments that a message may come in. Without an end to them a message of empty ones would have none.
const MAX_FRAGMENTS: u32 = 1024;

/// Reads messages from whatever bytes are there.
#[derive(Debug)]
pub(crate) struct MessageReader {
    max_frame_bytes: usize,
    /// Whether that is the limit for all that comes.
    is_final: bool,
    under_way: Option<Box<PartialMessage>>,
    /// Whether the stream has said that it has nothing more for now. Until it has, nobody else says that there is more:
    /// bytes may wait here, or in a stream whose turn was over.
    dry: bool,
}

/// A message that has begun, or may have.
#[derive(Debug)]
struct PartialMessage {
    sieve: OversizeFilter,
    context: WebSocketContext,
    seam: FramePosition,
}

impl MessageReader {
    /// The reading side of a server's socket. `read` is what the HTTP server read beyond the upgrade. It is copied, since
    /// the server's buffer is large, and would stay as long as the session. `max_frame_bytes` holds until
    /// [`Self::set_max_frame_bytes`] says otherwise, for what is read by then.
    pub(crate) fn new(read: &[u8], max_frame_bytes: usize) -> Self {
        let dry = read.is_empty();
        let under_way = (!dry).then(|| Box::new(PartialMessage::new(max_frame_bytes, false, read)));
        Self { max_frame_bytes, is_final: false, under_way, dry }
    }

    /// Whether there may be more to read, though the stream may never say so.
    pub(super) fn may_have_more(&self) -> bool {
        !self.dry
    }

    /// From the next message on, this is the most bytes that one may have.
    pub(crate) fn set_max_frame_bytes(&mut self, max_frame_bytes: usize) {
        (self.max_frame_bytes, self.is_final) = (max_frame_bytes, true);
        if let Some(under_way) = &mut self.under_way {
            under_way.sieve.set_max(max_frame_bytes);
            under_way.context.set_config(|config| {
                (config.max_message_size, config.max_frame_size) = (Some(max_frame_bytes), Some(max_frame_bytes));
            });
        }
    }

    /// Reads one message, as [`WebSocketContext::read`] does, as far as `pace` allows; `None` stands for one that was too
    /// large and is passed over. What it answers by itself is added to `answers`.
    pub(super) fn read(
        &mut self,
        stream: impl Read,
        answers: &mut Vec<u8>,
        pace: &mut ReadBudget,
    ) -> Result<Option<Message>, Error> {
        let Self { max_frame_bytes, is_final, .. } = *self;
        let under_way =
            self.under_way.get_or_insert_with(|| Box::new(PartialMessage::new(max_frame_bytes, is_final, &[])));
        self.dry = false;
        let read = under_way.read(Paced { stream, pace, dry: &mut self.dry }, answers);
        if is_all(&read) {
            let PartialMessage { sieve, context, seam } = &mut **under_way;
            if sieve.take_too_large() {
                // What came of it before is forgotten with the rest.
                if !seam.closed {
                    (*context, *seam) = (new_context(max_frame_bytes), FramePosition::default());
                }
                return Ok(None);
            }
            // All that came has been taken; if it ends with a message, the reader knows nothing that a new one would not.
            if seam.is_clean() && sieve.is_clean() {
                self.under_way = None;
            }
        }
        read.map(Some)
    }
}

impl PartialMessage {
    fn new(max_frame_bytes: usize, is_final: bool, read: &[u8]) -> Self {
        let sieve = OversizeFilter::new(max_frame_bytes, is_final, read.to_vec());
        Self { sieve, context: new_context(max_frame_bytes), seam: FramePosition::default() }
    }

    fn read(&mut self, stream: Paced<'_, impl Read>, answers: &mut Vec<u8>) -> Result<Message, Error> {
        let Self { sieve, context, seam } = self;
        let read = context.read(&mut BufferedSocket { stream, answers, seam, sieve });
        if seam.shredded || sieve.gives_up() {
            let (size, max_size) = (seam.fragments as usize, MAX_FRAGMENTS as usize);
            return Err(Error::Capacity(CapacityError::MessageTooLong { size, max_size }));
        }
        // The messages before it come first.
        if seam.garbled && (is_all(&read) || matches!(read, Err(Error::Utf8(_)))) {
            return Err(Error::Utf8("a text is none".to_owned()));
        }
        read
    }
}

/// Whether there is nothing more for now.
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

/// How tungstenite sees the socket: it reads what is there, and what it answers waits its turn.
struct BufferedSocket<'a, S> {
    stream: Paced<'a, S>,
    answers: &'a mut Vec<u8>,
    seam: &'a mut FramePosition,
    sieve: &'a mut OversizeFilter,
}

impl<S: Read> Read for BufferedSocket<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stream.pace.allowance() == 0 || self.seam.shredded || self.seam.garbled {
            return Err(ErrorKind::WouldBlock.into());
        }
        let read = self.sieve.read(&mut self.stream, buffer)?;
        self.seam.pass(&buffer[..read]);
        Ok(read)
    }
}

/// A stream within the pace of its client.
struct Paced<'a, S> {
    stream: S,
    pace: &'a mut ReadBudget,
    dry: &'a mut bool,
}

impl<S> Paced<'_, S> {
    /// So many frames have begun in what was read.
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
        *self.dry = matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock);
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

/// What masks a frame (RFC 6455, 5.3).
const MASK: usize = 4;

/// UTF-8 as it comes, byte by byte (RFC 3629, 4).
#[derive(Debug, Default)]
struct Utf8 {
    /// How many bytes of a character are still to come.
    left: u8,
    /// Between what the next of them must be.
    from: u8,
    to: u8,
}

impl Utf8 {
    /// Whether the text may go on with this byte.
    fn takes(&mut self, byte: u8) -> bool {
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

/// Where a client's stream of frames stands.
#[derive(Debug, Default)]
struct FramePosition {
    header: [u8; LONGEST_HEADER],
    /// How much of a header has gone by.
    headed: usize,
    /// How much of a frame, its mask included, is still to come.
    left: u64,
    /// What masks it, as far as that has come.
    mask: [u8; MASK],
    /// How much of its mask and payload has gone by.
    gone: usize,
    /// The text that is under way.
    text: Option<Utf8>,
    /// Whether the frame belongs to it.
    is_text: bool,
    /// Whether a text was none. tungstenite says so when a fragment is whole, which may be never.
    garbled: bool,
    /// Whether further fragments of a message are to come.
    fragmented: bool,
    /// How many of it have come.
    fragments: u32,
    /// Whether a message had too many.
    shredded: bool,
    /// Whether the client has said goodbye.
    closed: bool,
}

impl FramePosition {
    /// These bytes come next.
    fn pass(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                if self.is_text {
                    self.spell(&bytes[..passed]);
                }
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.headed] = *first;
            self.headed += 1;
            bytes = rest;
            let Some(header) = Header::read(&self.header[..self.headed]) else { continue };
            (self.headed, self.left, self.gone, self.is_text) = (0, header.follows(), 0, false);
            match header.opcode {
                opcode @ 0x0..=0x2 => {
                    let begins = opcode != 0;
                    if begins {
                        self.text = (opcode == TEXT).then(Utf8::default);
                    }
                    // What is wrong in another way is told so, whatever it spells.
                    let is_due = header.is_data && header.masked && begins != self.fragmented && !self.closed;
                    self.is_text = is_due && self.text.is_some();
                    self.fragments = if self.fragmented { self.fragments + 1 } else { 1 };
                    self.fragmented = !header.is_last;
                    self.shredded |= self.fragments > MAX_FRAGMENTS;
                }
                0x8 => self.closed = true,
                _ => {}
            }
        }
    }

    /// These bytes of a masked text come next.
    fn spell(&mut self, bytes: &[u8]) {
        let Some(text) = &mut self.text else { return };
        for byte in bytes {
            let at = self.gone;
            self.gone += 1;
            if at < MASK {
                self.mask[at] = *byte;
            } else {
                self.garbled |= !text.takes(byte ^ self.mask[at % MASK]);
            }
        }
    }

    /// Whether nothing of a message is under way.
    fn is_clean(&self) -> bool {
        self.headed == 0 && self.left == 0 && !self.fragmented && !self.closed
    }
}

#[cfg(test)]
pub(crate) mod pieces;

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
