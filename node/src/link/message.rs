//! A message as it was received: its bytes, and the places of its parts in them.
//!
//! A producer may put any bytes into a subject and a header block. So they are bytes here, and headers are read
//! leniently, one by one and on demand: a header that cannot be read counts as missing.

use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;
use tokio::time::Instant;

/// The places of the parts of a message in its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) subject: (u32, u32),
    /// Empty if there is none.
    pub(super) reply: (u32, u32),
    /// The end of the control line. The headers are between here and `payload`.
    pub(super) body: u32,
    pub(super) payload: u32,
}

/// A message from NATS.
#[derive(Clone)]
pub struct NatsMessage {
    frame: Bytes,
    layout: Layout,
    has_headers: bool,
    arrived: Instant,
}

impl NatsMessage {
    pub(super) fn new(frame: Bytes, layout: Layout, arrived: Instant) -> Self {
        let has_headers = frame.first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'H'));
        Self { frame, layout, has_headers, arrived }
    }

    /// The subject that it was published to: any bytes except spaces, tabs and line feeds.
    pub fn subject(&self) -> &[u8] {
        let (begin, end) = self.layout.subject;
        &self.frame[begin as usize..end as usize]
    }

    /// The subject, shared.
    pub fn subject_bytes(&self) -> Bytes {
        let (begin, end) = self.layout.subject;
        self.frame.slice(begin as usize..end as usize)
    }

    /// The subject as text. Invalid UTF-8 becomes replacement characters, which no subject of ours has.
    pub fn subject_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.subject())
    }

    /// The subject for the answer.
    pub fn reply(&self) -> Option<&[u8]> {
        let (begin, end) = self.layout.reply;
        (begin < end).then(|| &self.frame[begin as usize..end as usize])
    }

    /// The header block, unparsed.
    pub fn headers(&self) -> Option<&[u8]> {
        self.has_headers.then(|| &self.frame[self.layout.body as usize..self.layout.payload as usize])
    }

    /// The header block, shared.
    pub fn headers_bytes(&self) -> Option<Bytes> {
        self.has_headers.then(|| self.frame.slice(self.layout.body as usize..self.layout.payload as usize))
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.frame[self.layout.payload as usize..]
    }

    /// The payload, shared.
    pub fn payload_bytes(&self) -> Bytes {
        self.frame.slice(self.layout.payload as usize..)
    }

    /// A slice of this message, shared.
    ///
    /// # Panics
    /// If `part` is not a slice of this message.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.frame.slice_ref(part)
    }

    /// When its last byte was read from the connection. It may have waited for its subscriber since.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// How many bytes it has in all, control line included.
    pub fn size(&self) -> usize {
        self.frame.len()
    }

    /// The first header with this name, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().and_then(|block| header(block, name))
    }

    /// The status that the server sends in place of an answer. A producer can make a message that looks the same: use
    /// this only where only the server answers, or for messages that are not from a stream.
    pub fn status(&self) -> Option<Status<'_>> {
        self.headers().and_then(Status::read)
    }

    /// Copies it out of its read buffer, which it would otherwise keep alive while it waits.
    pub(super) fn detach(&mut self) {
        self.frame = Bytes::copy_from_slice(&self.frame);
    }
}

impl fmt::Debug for NatsMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("subject", &self.subject_text())
            .field("reply", &self.reply().map(String::from_utf8_lossy))
            .field("headers", &self.headers().map(|headers| headers.escape_ascii().to_string()))
            .field("payload", &self.payload().len())
            .finish()
    }
}

/// A status of the server, such as 503 for "no responders".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status<'m> {
    /// As in HTTP.
    pub code: u16,
    /// Text for people.
    pub description: &'m str,
}

impl Status<'_> {
    /// Nobody listens on the subject of the request.
    pub const NO_RESPONDERS: u16 = 503;

    pub(crate) fn read(block: &[u8]) -> Option<Status<'_>> {
        let line = block.strip_prefix(b"NATS/1.0")?;
        let end = memchr::memmem::find(line, b"\r\n").unwrap_or(line.len());
        let line = std::str::from_utf8(&line[..end]).ok()?.trim();
        let (code, description) = line.split_once(' ').unwrap_or((line, ""));
        let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
        Some(Status { code: code.parse().ok().filter(|_| is_code)?, description: description.trim() })
    }
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.description)
    }
}

/// The first header with this name in a block.
fn header<'b>(block: &'b [u8], name: &str) -> Option<&'b str> {
    let mut rest = block;
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if let Some(colon) = memchr::memchr(b':', line)
            && line[..colon].eq_ignore_ascii_case(name.as_bytes())
        {
            return std::str::from_utf8(&line[colon + 1..]).ok().map(str::trim);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn status_is_read_only_from_status_lines() {
        let read = |block: &[u8]| Status::read(block).map(|status| status.to_string());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(b"NATS/1.0 503\r\n\r\n"), some("503 "));
        assert_eq!(
            read(b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\n\r\n"),
            some("408 Request Timeout")
        );
        assert_eq!(read(b"NATS/1.0 100"), some("100 "));
        let none: [&[u8]; 8] = [
            b"NATS/1.0\r\n\r\n",
            b"",
            b"NATS/1.0 abc\r\n\r\n",
            b"NATS/1.0 +50\r\n\r\n",
            b"NATS/1.0 99999\r\n\r\n",
            b"NATS/1.0 50\xff\r\n\r\n",
            b"NATS/2.0 503\r\n\r\n",
            b"X: NATS/1.0 503\r\n",
        ];
        for block in none {
            assert_eq!(read(block), None, "{}", block.escape_ascii());
        }
    }

    #[test]
    fn header_is_found_between_unreadable_lines() {
        let block = b"NATS/1.0 408 Timeout\r\nno colon\r\n: none\r\nA b: 1\r\nx\xff: 2\r\nLone: a\rb\r\n\r\nKEY:  7 \r\nkey: 8\r\n\r\n";
        assert_eq!(header(block, "Key"), Some("7"));
        assert_eq!(header(block, "lone"), Some("a\rb"));
        assert_eq!(header(block, "missing"), None);
        assert_eq!(header(b"Key: \xff\r\n", "Key"), None);
    }

    proptest! {
        #[test]
        fn any_header_block_can_be_searched(block in proptest::collection::vec(any::<u8>(), 0..60)) {
            Status::read(&block);
            header(&block, "Key");
        }
    }
}
