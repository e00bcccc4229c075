//! From the bytes of a connection to the operations of the server. Pure.
//!
//! A server forwards subjects and header blocks as their producers sent them, so they may hold any bytes. The parser
//! does not look into them: only the control line tells where a message begins and ends. The server allows no space,
//! tab or line feed in a subject. So a line ends at the first line feed, and spaces separate its words.

use super::message::{Layout, NatsMessage};
use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::time::Instant;

/// The longest control line. The server's own limit for lines from clients is 4 KiB by default, and the stream keeps no
/// subject of more than 64 KiB. The `INFO` of a server and its cluster may be longer.
const LONGEST_LINE: usize = 1024 * 1024;

/// The largest message: the most that a server can be configured to take, plus what it adds to the headers.
const LARGEST_MESSAGE: usize = 65 * 1024 * 1024;

/// An operation from the server.
#[derive(Debug)]
pub(super) enum Op {
    /// The server's description of itself, as JSON.
    Info(Bytes),
    /// It asks whether we are alive.
    Ping,
    /// It is alive.
    Pong,
    /// It has done what we asked.
    Ok,
    /// It refuses a request.
    Refusal(Bytes),
    /// A message for the subscription of this number.
    Message(u64, NatsMessage),
    /// A line that we do not know.
    Unknown(Bytes),
}

/// Why the bytes that follow cannot be parsed, so that a new connection is necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Broken {
    #[error("a control line is longer than {LONGEST_LINE} bytes")]
    LongLine,
    #[error("a message is larger than {LARGEST_MESSAGE} bytes")]
    LargeMessage,
    #[error("the control line of a message is not valid")]
    Line,
    #[error("a message does not end where its control line says")]
    End,
}

impl Broken {
    /// For the metric.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::LongLine => "link_long_line",
            Self::LargeMessage => "link_large_message",
            Self::Line => "link_unreadable_line",
            Self::End => "link_unreadable_end",
        }
    }
}

/// Reads one operation after the other.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// How many bytes of the buffer are known to hold no line feed.
    searched: usize,
    /// The message whose control line was read, and whose body is still incomplete.
    head: Option<Head>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    subscription: u64,
    layout: Layout,
    /// The size of all parts: line, body, and the line end behind it.
    total: usize,
}

impl Parser {
    /// The next operation, if it is complete. The last bytes of the buffer arrived at this time.
    pub(super) fn next(&mut self, buffer: &mut BytesMut, arrived: Instant) -> Result<Option<Op>, Broken> {
        if self.head.is_none() {
            let Some(feed) = memchr::memchr(b'\n', &buffer[self.searched..]) else {
                self.searched = buffer.len();
                return if self.searched > LONGEST_LINE { Err(Broken::LongLine) } else { Ok(None) };
            };
            let end = self.searched + feed + 1;
            self.searched = 0;
            if end > LONGEST_LINE {
                return Err(Broken::LongLine);
            }
            match read_head(&buffer[..end])? {
                Some(head) => self.head = Some(head),
                None => return Ok(Some(plain(&buffer.split_to(end).freeze()))),
            }
        }
        match self.head {
            Some(Head { subscription, layout, total }) if buffer.len() >= total => {
                self.head = None;
                if &buffer[total - 2..total] != b"\r\n" {
                    return Err(Broken::End);
                }
                let mut frame = buffer.split_to(total);
                frame.truncate(total - 2);
                Ok(Some(Op::Message(subscription, NatsMessage::new(frame.freeze(), layout, arrived))))
            }
            _ => Ok(None),
        }
    }

    /// How many bytes are missing, at least.
    pub(super) fn missing(&self, buffer: &BytesMut) -> usize {
        self.head.map_or(1, |head| head.total.saturating_sub(buffer.len()))
    }
}

/// Reads the control line of a message: `MSG <subject> <sid> [reply] <size>`, or `HMSG` with the size of the headers
/// before the total size. `None` if it is another line.
fn read_head(line: &[u8]) -> Result<Option<Head>, Broken> {
    let has_headers = match line {
        [b'M' | b'm', b'S' | b's', b'G' | b'g', b' ', ..] => false,
        [b'H' | b'h', b'M' | b'm', b'S' | b's', b'G' | b'g', b' ', ..] => true,
        _ => return Ok(None),
    };
    let text = line.strip_suffix(b"\r\n").ok_or(Broken::Line)?;
    let words = Words { text, at: if has_headers { 5 } else { 4 } };
    let (sizes, mut found, mut count) = (if has_headers { 2 } else { 1 }, [(0, 0); 5], 0);
    for word in words {
        *found.get_mut(count).ok_or(Broken::Line)? = word;
        count += 1;
    }
    let word = |(begin, end): (usize, usize)| &text[begin..end];
    let reply = match count.checked_sub(2 + sizes) {
        Some(0) => (0, 0),
        Some(1) => found[2],
        _ => return Err(Broken::Line),
    };
    let number = |at: usize| read_number(word(found[at])).ok_or(Broken::Line);
    let subscription = number(1)?;
    let size = number(count - 1)?;
    let headers = if has_headers { number(count - 2)? } else { 0 };
    if headers > size {
        return Err(Broken::Line);
    }
    let size = usize::try_from(size).ok().filter(|size| *size <= LARGEST_MESSAGE).ok_or(Broken::LargeMessage)?;
    let place = |at: usize| u32::try_from(at).map_err(|_| Broken::LargeMessage);
    let layout = Layout {
        subject: (place(found[0].0)?, place(found[0].1)?),
        reply: (place(reply.0)?, place(reply.1)?),
        body: place(line.len())?,
        payload: place(line.len() + usize::try_from(headers).map_err(|_| Broken::LargeMessage)?)?,
    };
    Ok(Some(Head { subscription, layout, total: line.len() + size + 2 }))
}

/// The places of the words of a line.
struct Words<'l> {
    text: &'l [u8],
    at: usize,
}

impl Iterator for Words<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.text[self.at..];
        let begin = self.at + rest.iter().position(|byte| *byte != b' ')?;
        let end = memchr::memchr(b' ', &self.text[begin..]).map_or(self.text.len(), |length| begin + length);
        self.at = end;
        Some((begin, end))
    }
}

/// Reads a number: only digits, at most as many as the server accepts.
fn read_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

/// Reads any other line.
fn plain(line: &Bytes) -> Op {
    let trimmed = line.trim_ascii_end().len();
    let line = line.slice(..trimmed);
    let word = line.iter().position(u8::is_ascii_whitespace).unwrap_or(trimmed);
    let is = |name: &str| line[..word].eq_ignore_ascii_case(name.as_bytes());
    let rest = || line.slice(trimmed - line[word..].trim_ascii_start().len()..);
    match () {
        () if is("PING") => Op::Ping,
        () if is("PONG") => Op::Pong,
        () if is("+OK") => Op::Ok,
        () if is("-ERR") => Op::Refusal(rest()),
        () if is("INFO") => Op::Info(rest()),
        () => Op::Unknown(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All operations from bytes that arrive in pieces of these sizes.
    fn read(bytes: &[u8], pieces: &[usize]) -> (Vec<String>, Option<Broken>) {
        let (mut parser, mut buffer, mut ops) = (Parser::default(), BytesMut::new(), Vec::new());
        let (mut at, mut sizes) = (0, pieces.iter().cycle());
        while at < bytes.len() {
            let end = sizes.next().map_or(bytes.len(), |size| bytes.len().min(at + size.max(&1)));
            buffer.extend_from_slice(&bytes[at..end]);
            at = end;
            loop {
                match parser.next(&mut buffer, Instant::now()) {
                    Ok(Some(op)) => ops.push(shown(&op)),
                    Ok(None) => break,
                    Err(broken) => return (ops, Some(broken)),
                }
            }
            assert!(parser.missing(&buffer) > 0);
        }
        (ops, None)
    }

    fn shown(op: &Op) -> String {
        match op {
            Op::Message(subscription, message) => {
                let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
                let reply = message.reply().map(text);
                let headers = message.headers().map(text);
                let (subject, payload) = (text(message.subject()), text(message.payload()));
                format!("{subscription} {subject} {reply:?} {headers:?} {payload}")
            }
            Op::Info(text) => format!("info {}", text.escape_ascii()),
            Op::Refusal(text) => format!("refusal {}", text.escape_ascii()),
            Op::Unknown(text) => format!("unknown {}", text.escape_ascii()),
            other => format!("{other:?}"),
        }
    }

    fn one(bytes: &[u8]) -> Result<String, Option<Broken>> {
        match read(bytes, &[usize::MAX >> 1]) {
            (ops, None) if ops.len() == 1 => Ok(ops[0].clone()),
            (_, broken) => Err(broken),
        }
    }

    #[test]
    fn messages_are_cut_by_their_control_line() {
        let cases: [(&[u8], &str); 10] = [
            (b"MSG a.b 7 3\r\nabc\r\n", "7 a.b None None abc"),
            (b"MSG a 7 r.1 0\r\n\r\n", "7 a Some(\"r.1\") None "),
            (b"MSG a 7  0\r\n\r\n", "7 a None None "),
            (b"HMSG a 7 12 15\r\nNATS/1.0\r\n\r\nabc\r\n", "7 a None Some(\"NATS/1.0\\\\r\\\\n\\\\r\\\\n\") abc"),
            (b"HMSG a 7 r 0 2\r\n\r\n\r\n", "7 a Some(\"r\") Some(\"\") \\r\\n"),
            (b"MSG \xff.\xc2\xa0 7 1\r\nx\r\n", "7 \\xff.\\xc2\\xa0 None None x"),
            (b"MSG a\rb 7 1\r\nx\r\n", "7 a\\rb None None x"),
            (b"HMSG a 7 r\rs 3 4\r\na\rbx\r\n", "7 a Some(\"r\\\\rs\") Some(\"a\\\\rb\") x"),
            (b"MSG a 007 0001\r\n\n\r\n", "7 a None None \\n"),
            (b"msg a\x00 7 1\r\nx\r\n", "7 a\\x00 None None x"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(one(bytes), Ok(expected.to_owned()), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn other_lines_are_recognised() {
        let cases: [(&[u8], &str); 8] = [
            (b"PING\r\n", "Ping"),
            (b"PONG \r\n", "Pong"),
            (b"+OK\r\n", "Ok"),
            (b"INFO {\"a\":1}\r\n", "info {\\\"a\\\":1}"),
            (b"-ERR 'Stale Connection'\r\n", "refusal \\'Stale Connection\\'"),
            (b"-ERR '\xff'\r\n", "refusal \\'\\xff\\'"),
            (b"\r\n", "unknown "),
            (b"WHAT is\r\n", "unknown WHAT is"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(one(bytes), Ok(expected.to_owned()), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn invalid_lines_and_sizes_are_errors() {
        let cases: [(&[u8], Broken); 10] = [
            (b"MSG a 7\r\n", Broken::Line),
            (b"MSG a 7 r s 0\r\n", Broken::Line),
            (b"MSG a x 0\r\n", Broken::Line),
            (b"MSG a 7 -1\r\n", Broken::Line),
            (b"MSG a 7 0\n", Broken::Line),
            (b"HMSG a 7 3 2\r\n", Broken::Line),
            (b"HMSG a 7 3\r\n", Broken::Line),
            (b"MSG a 7 99999999999999999999\r\n", Broken::Line),
            (b"MSG a 7 9999999999\r\n", Broken::LargeMessage),
            (b"MSG a 7 1\r\nabc", Broken::End),
        ];
        for (bytes, expected) in cases {
            assert_eq!(one(bytes), Err(Some(expected)), "{}", bytes.escape_ascii());
        }
        assert_eq!(read(&vec![b'x'; LONGEST_LINE + 1], &[4096]).1, Some(Broken::LongLine));
    }

    /// A message as a server sends it, with any subject, reply, headers and payload that it lets through.
    fn sent() -> impl Strategy<Value = (Vec<u8>, String)> {
        let word = || {
            let byte = any::<u8>().prop_filter("no separator", |byte| !b" \t\n".contains(byte));
            proptest::collection::vec(byte, 1..12)
                .prop_filter("a line ends with its own", |word| word.last() != Some(&b'\r'))
        };
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        (word(), proptest::option::of(word()), proptest::option::of(bytes()), bytes()).prop_map(
            |(subject, reply, headers, payload)| {
                let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
                let mut all = if headers.is_some() { b"HMSG ".to_vec() } else { b"MSG ".to_vec() };
                all.extend_from_slice(&subject);
                all.extend_from_slice(b" 5 ");
                if let Some(reply) = &reply {
                    all.extend_from_slice(reply);
                    all.push(b' ');
                }
                if let Some(headers) = &headers {
                    all.extend_from_slice(
                        format!("{} {}\r\n", headers.len(), headers.len() + payload.len()).as_bytes(),
                    );
                    all.extend_from_slice(headers);
                } else {
                    all.extend_from_slice(format!("{}\r\n", payload.len()).as_bytes());
                }
                all.extend_from_slice(&payload);
                all.extend_from_slice(b"\r\n");
                let (reply, headers) = (reply.as_deref().map(text), headers.as_deref().map(text));
                let shown = format!("5 {} {reply:?} {headers:?} {}", text(&subject), text(&payload));
                (all, shown)
            },
        )
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            bytes in proptest::collection::vec(prop_oneof![
                3 => any::<u8>().prop_map(|byte| vec![byte]),
                1 => Just(b"\r\n".to_vec()),
                1 => Just(b"MSG a 1 ".to_vec()),
                1 => Just(b"HMSG a 1 2 ".to_vec()),
                1 => (0_u8..30).prop_map(|number| number.to_string().into_bytes()),
            ], 0..80),
            pieces in proptest::collection::vec(1_usize..20, 1..8),
        ) {
            let bytes = bytes.concat();
            prop_assert_eq!(read(&bytes, &pieces), read(&bytes, &[bytes.len().max(1)]));
        }

        #[test]
        fn messages_in_pieces_are_read_back_in_order(
            messages in proptest::collection::vec(sent(), 1..6),
            pieces in proptest::collection::vec(1_usize..20, 1..8),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (message, shown) in messages {
                bytes.extend(message);
                bytes.extend_from_slice(b"PING\r\n");
                expected.extend([shown, "Ping".to_owned()]);
            }
            prop_assert_eq!(read(&bytes, &pieces), (expected, None));
        }
    }
}
