//! Skips messages that are larger than the limit, before tungstenite reads them. So the client gets an error, and its
//! session continues. Pure, except for the stream that it reads from.
//!
//! The filter reads and counts the headers of frames. If a frame makes its message too large, the stream pauses once
//! ([`OversizeFilter::take_too_large`]): by then everything before it was read. The rest of the message is dropped. A
//! message larger than [`OversizeFilter::MOST`] is left to the reader, which closes the connection. It also closes the
//! connection if a skipped message does not end ([`OversizeFilter::gives_up`]). A frame that WebSocket does not define,
//! and everything after it, is left to the reader too.
//!
//! Before a client is authenticated, a smaller limit holds. Only after a message was read it is known which limit holds
//! for the next one, so until then the bytes after it wait here.

use std::io::{self, ErrorKind, Read};

use tungstenite::protocol::frame::coding::Data;

use super::frame_header::{LONGEST_HEADER, ParsedHeader};
use super::{MAX_FRAGMENTS, Paced};

/// Removes too large messages from a client's stream of frames.
#[derive(Debug, Default)]
pub(super) struct OversizeFilter {
    /// The largest size of a message, in bytes.
    max: u64,
    /// An incomplete header.
    held: [u8; LONGEST_HEADER],
    held_len: usize,
    /// How many bytes of the current payload are missing.
    left: u64,
    /// Whether the current frame is dropped.
    is_dropping: bool,
    /// The bytes and fragments so far of the fragmented message; `None` between messages.
    message: Option<(u64, u32)>,
    /// Whether its further fragments are dropped.
    too_large: bool,
    /// Whether the stream pauses, because a message is too large.
    pauses: bool,
    /// Whether a skipped message does not end.
    gives_up: bool,
    /// Whether only one message is passed on at a time, because the limit may change after it.
    one_by_one: bool,
    /// Whether a message ends with the current frame.
    ends: bool,
    /// How many headers were read and not counted yet.
    frames: u32,
    /// Bytes that were read but not filtered yet.
    behind: Vec<u8>,
}

impl OversizeFilter {
    /// The largest message that is skipped, in bytes.
    pub(super) const MOST: u64 = 16 * 1024 * 1024;

    /// `read` is what was already read of the stream. Unless the limit is final, messages are passed on one at a time.
    pub(super) fn new(max: usize, is_final: bool, read: Vec<u8>) -> Self {
        Self { max: max as u64, behind: read, one_by_one: !is_final, ..Self::default() }
    }

    /// Sets the largest size of a message, in bytes, from the next message on.
    pub(super) fn set_max(&mut self, max: usize) {
        (self.max, self.one_by_one) = (max as u64, false);
    }

    /// Whether a skipped message does not end.
    pub(super) fn gives_up(&self) -> bool {
        self.gives_up
    }

    /// Whether the stream pauses because a message is too large. It continues with the next read, after that message.
    pub(super) fn take_too_large(&mut self) -> bool {
        std::mem::take(&mut self.pauses)
    }

    /// Whether it is between two messages, and holds no bytes.
    pub(super) fn is_clean(&self) -> bool {
        self.held_len == 0 && self.left == 0 && self.message.is_none() && self.behind.is_empty() && !self.pauses
    }

    /// Reads from `stream` without too large messages. During a pause there is nothing.
    pub(super) fn read<S: Read>(&mut self, stream: &mut Paced<'_, S>, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let held = self.held_len;
            if self.pauses || self.gives_up || buffer.len() <= held {
                return Err(ErrorKind::WouldBlock.into());
            }
            let (before, room) = buffer.split_at_mut(held);
            let read = if self.behind.is_empty() { stream.read(room)? } else { take_front(&mut self.behind, room) };
            if read == 0 {
                return Ok(0);
            }
            before.copy_from_slice(&self.held[..held]);
            self.held_len = 0;
            let kept = self.filter(&mut buffer[..held + read]);
            stream.count(std::mem::take(&mut self.frames));
            if kept > 0 {
                return Ok(kept);
            }
        }
    }

    /// Moves the kept bytes to the front. Returns how many these are.
    fn filter(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut kept) = (0, 0);
        self.ends &= self.left > 0;
        while at < bytes.len() {
            // The rest of a frame is kept or dropped.
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                if !self.is_dropping {
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
            let header = match ParsedHeader::parse(&bytes[at..]) {
                Ok(Some(header)) => header,
                Ok(None) => {
                    self.held_len = bytes.len() - at;
                    self.held[..self.held_len].copy_from_slice(&bytes[at..]);
                    break;
                }
                Err(_) => {
                    (self.is_dropping, self.left) = (false, u64::MAX);
                    continue;
                }
            };
            at += header.len;
            self.frames += 1;
            let verdict = self.verdict_of(&header);
            self.is_dropping = verdict != FrameVerdict::Kept;
            self.left = header.payload;
            if !self.is_dropping {
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

    /// Puts bytes back before those that are not filtered yet.
    fn put_back(&mut self, bytes: &[u8]) {
        self.behind.splice(..0, bytes.iter().copied());
    }

    /// Decides about a frame. Frames that break the protocol are kept, because the reader refuses them.
    fn verdict_of(&mut self, parsed: &ParsedHeader) -> FrameVerdict {
        let Some(data) = parsed.data().filter(|_| !parsed.is_extended()) else { return FrameVerdict::Kept };
        let (begins, is_last) = (data != Data::Continue, parsed.header.is_final);
        if begins == self.message.is_some() {
            return FrameVerdict::Kept;
        }
        let (bytes, fragments) = self.message.unwrap_or_default();
        let (bytes, fragments) = (bytes.saturating_add(parsed.payload), fragments + 1);
        self.message = (!is_last).then_some((bytes, fragments));
        let was_too_large = self.too_large;
        let dropped = was_too_large || bytes > self.max && bytes <= Self::MOST && parsed.header.mask.is_some();
        self.too_large = dropped && !is_last;
        self.gives_up |= was_too_large && (bytes > Self::MOST || fragments > MAX_FRAGMENTS);
        self.ends = is_last && !dropped;
        match (dropped, was_too_large) {
            (false, _) => FrameVerdict::Kept,
            (true, false) => FrameVerdict::TooLarge,
            (true, true) => FrameVerdict::Dropped,
        }
    }
}

/// What happens to a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FrameVerdict {
    Kept,
    /// It makes its message too large.
    TooLarge,
    /// It belongs to a message that is too large.
    Dropped,
}

/// Moves bytes from the front of `bytes` to `buffer`, as many as fit. Frees the memory of `bytes` when it is empty.
fn take_front(bytes: &mut Vec<u8>, buffer: &mut [u8]) -> usize {
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
#[path = "oversize_filter_tests.rs"]
mod tests;
