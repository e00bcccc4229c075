//! What a server answers to a direct get: a message of a stream, or that there is none.
//!
//! Any server that keeps the stream may answer. It cuts off the last two bytes of the message's own header block, which
//! should be an empty line, and writes behind the rest which message it is. So what it says stands at the end, and is read
//! from there: whatever the producer wrote, the same names included, stands before it.

use crate::link::{NatsMessage, Status};
use memchr::memmem;

/// Where the server begins.
const STREAM: &[u8] = b"Nats-Stream: ";

/// The sequence of a message that was stored in a stream, and what else the server says with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectMessage<'m> {
    /// Its sequence.
    pub seq: u64,
    /// When it was stored, as RFC 3339.
    pub stored: &'m str,
    /// The subject that it is stored under.
    pub subject: &'m [u8],
    /// Its own header block without the last two bytes of it, or what the server puts in the place of none.
    pub headers: &'m [u8],
    /// In a batch, how many messages that match follow it, on this server.
    pub pending: Option<u64>,
    /// In a batch, the sequence of the message before it; 0 of the first.
    pub before: Option<u64>,
}

/// An answer to a direct get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectAnswer<'m> {
    /// A message of the stream.
    Message(DirectMessage<'m>),
    /// The batch ends here.
    End {
        /// How many messages that match follow, on this server.
        pending: Option<u64>,
        /// The sequence of the last message of the batch.
        last: Option<u64>,
    },
    /// There is no such message.
    Nothing,
    /// The server refuses.
    Refused(Status<'m>),
    /// It is nothing that a server says.
    Unreadable,
}

impl<'m> DirectAnswer<'m> {
    /// Reads an answer.
    pub fn read(message: &'m NatsMessage) -> Self {
        let block = message.headers().unwrap_or_default();
        // A message may carry a status of its producer's making: what the server wrote behind it tells.
        if let Some(got) = read_got(block) {
            return Self::Message(got);
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

/// Reads what the server wrote at the end of a header block.
fn read_got(block: &[u8]) -> Option<DirectMessage<'_>> {
    let mut end = block.strip_suffix(b"\r\n\r\n")?.len();
    let (mut seq, mut stored, mut subject, mut pending, mut before) = (None, None, None, None, None);
    let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<u64>().ok();
    loop {
        let begin = memmem::rfind(&block[..end], b"\r\n").map_or(0, |at| at + 2);
        let line = &block[begin..end];
        let value = |name: &str| line.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b": "));
        if let Some(subject) = subject {
            // The first line of the server's. Before it may stand what has no end of its own, and looks like the others.
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
    fn what_the_server_says_is_read_behind_whatever_a_producer_wrote() {
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
            let got = read_got(&whole).unwrap();
            assert_eq!((got.seq, got.pending, got.before), (17, Some(5), Some(12)));
            assert_eq!((got.subject, got.stored), (&b"ev.3.a.\xff\rb"[..], "2026-11-27T12:00:00.123456789Z"));
            assert_eq!(got.headers, block);
        }
        let single = memmem::rfind(TAIL, b"Nats-Num").unwrap();
        let single = [&TAIL[..single], b"\r\n"].concat();
        assert_eq!(read_got(&single).map(|got| (got.seq, got.before)), Some((17, None)));
    }

    #[test]
    fn what_is_no_message_is_none() {
        let none: [&[u8]; 6] = [
            b"",
            b"NATS/1.0 404 Message Not Found\r\n\r\n",
            b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 5\r\nNats-Last-Sequence: 12\r\n\r\n",
            b"Nats-Stream: EVENTS\r\n\r\n",
            b"Nats-Sequence: 17\r\n\r\n",
            b"\r\n\r\n",
        ];
        for block in none {
            assert_eq!(read_got(block), None, "{}", block.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_block_can_be_read(block in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            read_got(&block);
            let whole = [&block[..], TAIL].concat();
            proptest::prop_assert_eq!(read_got(&whole).map(|got| (got.seq, got.headers)), Some((17, &block[..])));
        }
    }
}
