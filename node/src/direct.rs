//! The answers of a server to a direct get: a message of a stream, or the status that there is none.
//!
//! Any server that stores the stream may answer. It cuts off the last two bytes of the message's own header block,
//! which should be an empty line, and appends its own headers, which identify the message. So the server's headers are
//! read from the end: everything that the producer wrote, even under the same names, is before them.

use crate::link::{NatsMessage, Status};
use memchr::memmem;

/// The first header of the server.
const STREAM: &[u8] = b"Nats-Stream: ";

/// The headers that the server adds to a stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectMessage<'m> {
    /// Its sequence.
    pub seq: u64,
    /// The time when it was stored, as RFC 3339.
    pub stored: &'m str,
    /// The subject that it is stored under.
    pub subject: &'m [u8],
    /// Its own header block without the last two bytes, or the server's placeholder if it has none.
    pub headers: &'m [u8],
    /// In a batch, how many matching messages follow it, on this server.
    pub pending: Option<u64>,
    /// In a batch, the sequence of the message before it; 0 for the first.
    pub before: Option<u64>,
}

/// An answer to a direct get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectAnswer<'m> {
    /// A message of the stream.
    Message(DirectMessage<'m>),
    /// The batch ends here.
    End {
        /// How many matching messages follow, on this server.
        pending: Option<u64>,
        /// The sequence of the last message of the batch.
        last: Option<u64>,
    },
    /// There is no such message.
    Nothing,
    /// The server refuses.
    Refused(Status<'m>),
    /// It is not an answer that a server sends.
    Unreadable,
}

impl<'m> DirectAnswer<'m> {
    /// Reads an answer.
    pub fn read(message: &'m NatsMessage) -> Self {
        let block = message.headers().unwrap_or_default();
        // A message may carry a status that its producer wrote. Only the server's headers at the end count.
        if let Some(found) = read_server_headers(block) {
            return Self::Message(found);
        }
        let number = |name: &str| message.header(name).and_then(|text| text.parse().ok());
        match Status::read(block) {
            Some(Status { code: 204, .. }) => {
                Self::End { pending: number("Nats-Num-Pending"), last: number("Nats-Last-Sequence") }
            }
            Some(Status { code: 404, .. }) => Self::Nothing,
            Some(status) => Self::Refused(status),
            None => Self::Unreadable,
        }
    }
}

/// Reads the server's headers at the end of a header block.
fn read_server_headers(block: &[u8]) -> Option<DirectMessage<'_>> {
    let mut end = block.strip_suffix(b"\r\n\r\n")?.len();
    let (mut seq, mut stored, mut subject, mut pending, mut before) = (None, None, None, None, None);
    let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<u64>().ok();
    loop {
        let begin = memmem::rfind(&block[..end], b"\r\n").map_or(0, |at| at + 2);
        let line = &block[begin..end];
        let value = |name: &str| line.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b": "));
        if let Some(subject) = subject {
            // The server's first line. Text of the producer without a line end may stand before it in the same line.
            let at = begin + memmem::rfind(line, STREAM)?;
            return Some(DirectMessage { seq: seq?, stored: stored?, subject, headers: &block[..at], pending, before });
        } else if let Some(value) = value("Nats-Last-Sequence") {
            before = Some(number(value)?);
        } else if let Some(value) = value("Nats-Num-Pending") {
            pending = Some(number(value)?);
        } else if let Some(value) = value("Nats-Time-Stamp") {
            stored = Some(std::str::from_utf8(value).ok()?);
        } else if let Some(value) = value("Nats-Sequence") {
            seq = Some(number(value)?);
        } else {
            subject = Some(value("Nats-Subject")?);
        }
        end = begin.checked_sub(2)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &[u8] = b"Nats-Stream: EVENTS\r\nNats-Subject: ev.3.a.\xff\rb\r\nNats-Sequence: 17\r\n\
        Nats-Time-Stamp: 2026-11-27T12:00:00.123456789Z\r\nNats-Num-Pending: 5\r\nNats-Last-Sequence: 12\r\n\r\n";

    #[test]
    fn server_headers_are_read_behind_any_producer_headers() {
        let forged = [b"NATS/1.0\r\n", &TAIL[..TAIL.len() - 2]].concat();
        let forged = String::from_utf8_lossy(&forged).replace("17", "99").into_bytes();
        let blocks: [&[u8]; 9] = [
            b"NATS/1.0\r\n",
            b"NATS/1.0 404\r\n",
            b"NATS/1.0\r\nX: a\rb\r\n",
            b"NATS/1.0\r\nX: without an e",
            b"",
            b"\xff\x00",
            b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Subject: ev.1",
            b"NATS/1.0\r\nNats-Subject: ev.1.tick\r\nNats-Sequence: ",
            &forged,
        ];
        for block in blocks {
            let whole = [block, TAIL].concat();
            let found = read_server_headers(&whole).unwrap();
            assert_eq!((found.seq, found.pending, found.before), (17, Some(5), Some(12)));
            assert_eq!((found.subject, found.stored), (&b"ev.3.a.\xff\rb"[..], "2026-11-27T12:00:00.123456789Z"));
            assert_eq!(found.headers, block);
        }
        let single = memmem::rfind(TAIL, b"Nats-Num").unwrap();
        let single = [&TAIL[..single], b"\r\n"].concat();
        assert_eq!(read_server_headers(&single).map(|found| (found.seq, found.before)), Some((17, None)));
    }

    #[test]
    fn answer_without_a_message_gives_none() {
        let none: [&[u8]; 6] = [
            b"",
            b"NATS/1.0 404 Message Not Found\r\n\r\n",
            b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 5\r\nNats-Last-Sequence: 12\r\n\r\n",
            b"Nats-Stream: EVENTS\r\n\r\n",
            b"Nats-Sequence: 17\r\n\r\n",
            b"\r\n\r\n",
        ];
        for block in none {
            assert_eq!(read_server_headers(block), None, "{}", block.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(block in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            read_server_headers(&block);
            let whole = [&block[..], TAIL].concat();
            let found = read_server_headers(&whole);
            proptest::prop_assert_eq!(found.map(|found| (found.seq, found.headers)), Some((17, &block[..])));
        }
    }
}
