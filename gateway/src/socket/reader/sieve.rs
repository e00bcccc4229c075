//! What is larger than the limit is passed over before the reader sees it, so that the client can be told and its session
//! goes on. Pure, but for the stream that it reads from.
//!
//! The headers of frames are looked at as bytes go by, and counted. Where one begins a message that is too large, or makes
//! it so, the stream pauses once ([`OversizeFilter::take_too_large`]): what came before has been read then, and the rest of that
//! message is let go. One that is larger than [`OversizeFilter::MOST`] is left to the reader, which gives up on the connection, as
//! it does where such a message grows on and on ([`OversizeFilter::gives_up`]). So are frames that WebSocket does not know.
//!
//! Before a client has said who it is, a smaller limit holds. Which limit holds for what follows a message is known only
//! when that message was read, so until then what follows waits here, not looked at.

use std::io::{self, ErrorKind, Read};

use super::{MASK, MAX_FRAGMENTS, Paced};

/// The longest header without its mask (RFC 6455, 5.2).
pub(super) const LONGEST_HEADER: usize = 10;

/// Takes what is too large out of a client's stream of frames.
#[derive(Debug, Default)]
pub(super) struct OversizeFilter {
    /// The most bytes that a message may have.
    max: u64,
    /// A header that is not whole yet.
    held: [u8; LONGEST_HEADER],
    held_len: usize,
    /// How much of a frame, its mask included, is still to come.
    left: u64,
    /// Whether that is let go.
    drops: bool,
    /// The bytes and the fragments of the message so far whose fragments come; `None` between messages.
    message: Option<(u64, u32)>,
    /// Whether its further fragments are let go.
    too_large: bool,
    /// Whether the stream pauses for it.
    pauses: bool,
    /// Whether that message has no end.
    gives_up: bool,
    /// Whether each message is passed on by itself, since the limit may be another for the next one.
    one_by_one: bool,
    /// Whether a message ends with the frame at hand.
    ends: bool,
    /// How many headers were looked at and not counted yet.
    frames: u32,
    /// What came behind the header of a message that is too large, or behind one that is passed on by itself.
    behind: Vec<u8>,
}

/// What a header says.
pub(super) struct Header {
    pub(super) opcode: u8,
    /// Whether it belongs to a message, in a way that is known here.
    pub(super) is_data: bool,
    pub(super) is_last: bool,
    pub(super) masked: bool,
    payload: u64,
    len: usize,
}

impl OversizeFilter {
    /// The largest message that is passed over, in bytes.
    pub(super) const MOST: u64 = 16 * 1024 * 1024;

    /// `read` is what was read of the stream before. Unless the limit is final each message is passed on by itself.
    pub(super) fn new(max: usize, is_final: bool, read: Vec<u8>) -> Self {
        Self { max: max as u64, behind: read, one_by_one: !is_final, ..Self::default() }
    }

    /// From the next message on, this is the most bytes that one may have.
    pub(super) fn set_max(&mut self, max: usize) {
        (self.max, self.one_by_one) = (max as u64, false);
    }

    /// Whether a message that is passed over has no end.
    pub(super) fn gives_up(&self) -> bool {
        self.gives_up
    }

    /// Whether the stream pauses since a message is too large; it goes on behind that message.
    pub(super) fn take_too_large(&mut self) -> bool {
        std::mem::take(&mut self.pauses)
    }

    /// Whether it stands between two messages, and holds nothing back.
    pub(super) fn is_clean(&self) -> bool {
        self.held_len == 0 && self.left == 0 && self.message.is_none() && self.behind.is_empty() && !self.pauses
    }

    /// Reads of `stream` what is not too large. While it pauses there is nothing.
    pub(super) fn read<S: Read>(&mut self, stream: &mut Paced<'_, S>, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let held = self.held_len;
            if self.pauses || self.gives_up || buffer.len() <= held {
                return Err(ErrorKind::WouldBlock.into());
            }
            let (before, room) = buffer.split_at_mut(held);
            let read = if self.behind.is_empty() { stream.read(room)? } else { take_of(&mut self.behind, room) };
            if read == 0 {
                return Ok(0);
            }
            before.copy_from_slice(&self.held[..held]);
            self.held_len = 0;
            let kept = self.sift(&mut buffer[..held + read]);
            stream.count(std::mem::take(&mut self.frames));
            if kept > 0 {
                return Ok(kept);
            }
        }
    }

    /// Moves what is kept to the front, and tells how much that is.
    fn sift(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut kept) = (0, 0);
        self.ends &= self.left > 0;
        while at < bytes.len() {
            // What is left of a frame goes by, or is let go.
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                if !self.drops {
                    if kept < at {
                        bytes.copy_within(at..at + passed, kept);
                    }
                    kept += passed;
                }
                at += passed;
                self.left -= passed as u64;
                continue;
            }
            if self.ends && self.one_by_one {
                self.put_back(&bytes[at..]);
                break;
            }
            let Some(header) = Header::read(&bytes[at..]) else {
                self.held_len = bytes.len() - at;
                self.held[..self.held_len].copy_from_slice(&bytes[at..]);
                break;
            };
            at += header.len;
            self.frames += 1;
            let verdict = self.judge(&header);
            self.drops = verdict != FrameVerdict::Kept;
            self.left = header.follows();
            if !self.drops {
                bytes.copy_within(at - header.len..at, kept);
                kept += header.len;
            }
            if verdict == FrameVerdict::TooLarge {
                self.pauses = true;
                self.put_back(&bytes[at..]);
                break;
            }
        }
        kept
    }

    /// These come before all that was read and not looked at.
    fn put_back(&mut self, bytes: &[u8]) {
        self.behind.splice(..0, bytes.iter().copied());
    }

    /// What becomes of a frame. Frames that break the protocol are the reader's to refuse.
    fn judge(&mut self, header: &Header) -> FrameVerdict {
        let begins = header.opcode != 0;
        if !header.is_data || begins == self.message.is_some() {
            return FrameVerdict::Kept;
        }
        let (bytes, fragments) = self.message.unwrap_or_default();
        let (bytes, fragments) = (bytes.saturating_add(header.payload), fragments + 1);
        self.message = (!header.is_last).then_some((bytes, fragments));
        let told = self.too_large;
        let dropped = told || bytes > self.max && bytes <= Self::MOST && header.masked;
        self.too_large = dropped && !header.is_last;
        self.gives_up |= told && (bytes > Self::MOST || fragments > MAX_FRAGMENTS);
        self.ends = header.is_last && !dropped;
        match (dropped, told) {
            (false, _) => FrameVerdict::Kept,
            (true, false) => FrameVerdict::TooLarge,
            (true, true) => FrameVerdict::Dropped,
        }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FrameVerdict {
    Kept,
    /// It begins what is let go, or makes it so.
    TooLarge,
    /// It belongs to what is let go.
    Dropped,
}

impl Header {
    /// Reads the header that these bytes begin with; `None` while it is not whole.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let [first, second, extended @ ..] = bytes else { return None };
        let (payload, len) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*extended.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*extended.first_chunk()?), LONGEST_HEADER),
            short => (u64::from(short), 2),
        };
        let (opcode, reserved) = (first & 0x0f, first & 0x70);
        let is_data = opcode <= 0x2 && reserved == 0;
        Some(Self { opcode, is_data, is_last: first & 0x80 != 0, masked: second & 0x80 != 0, payload, len })
    }

    /// How many bytes follow it in its frame: the mask, and the payload.
    pub(super) fn follows(&self) -> u64 {
        self.payload.saturating_add(if self.masked { MASK as u64 } else { 0 })
    }
}

/// Takes from the front of `bytes` what fits into `buffer`, and lets their memory go with the last.
fn take_of(bytes: &mut Vec<u8>, buffer: &mut [u8]) -> usize {
    let taken = bytes.len().min(buffer.len());
    buffer[..taken].copy_from_slice(&bytes[..taken]);
    if taken == bytes.len() {
        *bytes = Vec::new();
    } else {
        bytes.drain(..taken);
    }
    taken
}

#[cfg(test)]
#[path = "sieve_tests.rs"]
mod tests;
