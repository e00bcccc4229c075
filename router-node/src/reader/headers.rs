//! The header block of a stored message: its headers, or why the block is refused. Pure.
//!
//! Producers write these blocks, and servers store any bytes in them. A block that follows the rules of NATS is read: a
//! first line `NATS/1.0`, then lines with a name of visible ASCII, a colon and a text. Further lines that begin with
//! white space continue the text. Each line ends with CR LF. Any other block makes the message a dead letter: one
//! parser may take for a header what another does not, and a status would be a command to the client.
//!
//! The last two bytes of a block, which should be an empty line, are ignored. A server that answers a direct get has
//! cut them off, and a message must be the same event on every way of reading it.

use tickwire_core::event::decode::{Reason, Undecodable};

/// The first line.
const VERSION: &[u8] = b"NATS/1.0";

/// The header block of a message.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HeaderBlock<'m> {
    /// Without the last two bytes; empty if there are no headers.
    lines: &'m [u8],
}

/// The headers that the decoder uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EventHeaders<'m> {
    pub(crate) content_type: Option<&'m str>,
    pub(crate) msg_id: Option<&'m str>,
    pub(crate) traceparent: Option<&'m str>,
}

impl<'m> HeaderBlock<'m> {
    /// As the producer wrote it.
    pub(crate) fn whole(block: &'m [u8]) -> Self {
        Self { lines: &block[..block.len().saturating_sub(2)] }
    }

    /// As a direct get returns it.
    pub(crate) fn cut(lines: &'m [u8]) -> Self {
        Self { lines }
    }

    /// Whether there are no headers.
    pub(crate) fn is_none(self) -> bool {
        self.lines.is_empty()
    }

    /// The headers with their names, in order.
    pub(crate) fn headers(self) -> impl Iterator<Item = Result<(&'m str, &'m str), Undecodable>> {
        let mut lines = Lines(self.lines);
        let version =
            (!self.lines.is_empty()).then(|| lines.next().map_or_else(|| Err(unended()), |line| version(line?)));
        version.into_iter().filter_map(Result::err).map(Err).chain(HeaderIter(lines))
    }

    pub(crate) fn read(self) -> Result<EventHeaders<'m>, Undecodable> {
        let mut found = EventHeaders::default();
        for header in self.headers() {
            let (name, value) = header?;
            let place = match name.len() {
                12 if name.eq_ignore_ascii_case("Content-Type") => &mut found.content_type,
                11 if name.eq_ignore_ascii_case("Nats-Msg-Id") => &mut found.msg_id,
                11 if name.eq_ignore_ascii_case("traceparent") => &mut found.traceparent,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        Ok(found)
    }
}

/// A line, and the bytes after it.
type SplitLine<'m> = (&'m [u8], &'m [u8]);

/// Lines, each with CR LF at its end.
#[derive(Clone, Copy)]
struct Lines<'m>(&'m [u8]);

impl<'m> Lines<'m> {
    /// The next line, and the bytes after it.
    fn peek(&self) -> Option<Result<SplitLine<'m>, Undecodable>> {
        if self.0.is_empty() {
            return None;
        }
        let Some(feed) = memchr::memchr(b'\n', self.0) else { return Some(Err(unended())) };
        let (line, rest) = self.0.split_at(feed + 1);
        Some(
            line.strip_suffix(b"\r\n")
                .map(|line| (line, rest))
                .ok_or_else(|| refuse("a line feed without a carriage return before it")),
        )
    }
}

impl<'m> Iterator for Lines<'m> {
    type Item = Result<&'m [u8], Undecodable>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.peek()?;
        Some(next.map(|(line, rest)| {
            self.0 = rest;
            line
        }))
    }
}

/// Headers, each with its continuation lines.
struct HeaderIter<'m>(Lines<'m>);

impl<'m> HeaderIter<'m> {
    /// The header that begins with this line. Continuation lines are part of its text, with their line ends.
    fn read(&mut self, line: &'m [u8], from: &'m [u8]) -> Result<(&'m str, &'m str), Undecodable> {
        if line.is_empty() {
            return Err(refuse("an empty line before the end"));
        }
        let colon = memchr::memchr(b':', line).ok_or_else(|| refuse("a line without a colon"))?;
        let name = &line[..colon];
        if name.is_empty() {
            return Err(refuse("a header without a name"));
        }
        if !name.iter().all(u8::is_ascii_graphic) {
            return Err(refuse(format!("the name \"{}\" is not visible ASCII", name.escape_ascii())));
        }
        check(&line[colon + 1..], name)?;
        let mut length = line.len();
        while let Some(Ok((more, rest))) = self.0.peek()
            && more.first().is_some_and(|byte| b" \t".contains(byte))
        {
            check(more, name)?;
            self.0.0 = rest;
            length = from.len() - rest.len() - 2;
        }
        let text = |bytes: &'m [u8]| std::str::from_utf8(bytes).map_err(|_| not_text(name));
        Ok((text(name)?, text(&from[colon + 1..length])?.trim()))
    }
}

impl<'m> Iterator for HeaderIter<'m> {
    type Item = Result<(&'m str, &'m str), Undecodable>;

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.0.0;
        let header = match self.0.next()? {
            Ok(line) => self.read(line, from),
            Err(refusal) => Err(refusal),
        };
        if header.is_err() {
            // Bytes after a broken line cannot be parsed.
            self.0.0 = &[];
        }
        Some(header)
    }
}

/// Refuses text that one parser may take for the end of a line or a text, and another not.
fn check(text: &[u8], name: &[u8]) -> Result<(), Undecodable> {
    match text.iter().find(|byte| b"\r\n\0".contains(byte)) {
        Some(b'\0') => Err(refuse(format!("the value of {} holds a NUL", name.escape_ascii()))),
        Some(_) => Err(refuse(format!("the value of {} holds a lone carriage return", name.escape_ascii()))),
        None if std::str::from_utf8(text).is_err() => Err(not_text(name)),
        None => Ok(()),
    }
}

fn version(line: &[u8]) -> Result<(), Undecodable> {
    let rest = line.strip_prefix(VERSION).ok_or_else(|| refuse("the first line is not NATS/1.0"))?;
    if rest.trim_ascii().is_empty() {
        return Ok(());
    }
    let detail =
        format!("the first line holds \"{}\" behind the version; only servers may send a status", rest.escape_ascii());
    Err(refuse(detail))
}

fn unended() -> Undecodable {
    refuse("the last line has no end")
}

fn not_text(name: &[u8]) -> Undecodable {
    refuse(format!("the value of {} is not UTF-8", name.escape_ascii()))
}

fn refuse(detail: impl Into<String>) -> Undecodable {
    Undecodable::new(Reason::BadHeaders, format!("headers: {}", detail.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(block: &[u8]) -> Result<Vec<(String, String)>, String> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let all: Result<_, Undecodable> = HeaderBlock::whole(block).headers().map(|header| header.map(owned)).collect();
        all.map_err(|refusal| refusal.detail)
    }

    #[test]
    fn blocks_that_follow_the_rules_are_read() {
        type Case<'c> = (&'c [u8], &'c [(&'c str, &'c str)]);
        let cases: [Case<'_>; 9] = [
            (b"", &[]),
            (b"\r\n", &[]),
            (b"x", &[]),
            (b"NATS/1.0\r\n\r\n", &[]),
            (b"NATS/1.0 \t\r\n\r\n", &[]),
            (b"NATS/1.0\r\nA: 1\r\nb:2\r\nC:\r\n\r\n", &[("A", "1"), ("b", "2"), ("C", "")]),
            ("NATS/1.0\r\nX: caf\u{e9} \r\n\r\n".as_bytes(), &[("X", "caf\u{e9}")]),
            (b"NATS/1.0\r\nA: 1\r\n\t2\r\n 3\r\nB: :x\r\n\r\n", &[("A", "1\r\n\t2\r\n 3"), ("B", ":x")]),
            (b"NATS/1.0\r\n!#$%&'*+-.^_`|~(a\"b): \x01\x7f\r\n\r\n", &[("!#$%&'*+-.^_`|~(a\"b)", "\x01\x7f")]),
        ];
        for (block, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            assert_eq!(read(block), Ok(expected), "{}", block.escape_ascii());
        }
    }

    #[test]
    fn other_blocks_are_refused_with_the_broken_rule() {
        let cases: [(&[u8], &str); 22] = [
            (b"NATS/1.0\r\nX: a\rb\r\n\r\n", "lone carriage return"),
            (b"NATS/1.0\r\nX: a\nb: 1\r\n\r\n", "line feed without"),
            (b"NATS/1.0\nX: 1\n\n", "line feed without"),
            (b"NATS/1.0\r\nTrace Id: 1\r\n\r\n", "visible ASCII"),
            (b"NATS/1.0\r\nX : 1\r\n\r\n", "visible ASCII"),
            (b"NATS/1.0\r\nX: caf\xe9\r\n\r\n", "not UTF-8"),
            (b"NATS/1.0\r\nX: 1\r\n caf\xe9\r\n\r\n", "not UTF-8"),
            (b"NATS/1.0\r\nX\xe9: 1\r\n\r\n", "visible ASCII"),
            (b"NATS/1.0\r\nno colon\r\n\r\n", "without a colon"),
            (b"NATS/1.0\r\n: 1\r\n\r\n", "without a name"),
            (b"NATS/1.0\r\n folded\r\n\r\n", "without a colon"),
            (b"NATS/1.0\r\n a: 1\r\n\r\n", "visible ASCII"),
            (b"NATS/1.0\r\n\r\nX: 1\r\n\r\n", "empty line"),
            (b"NATS/1.0\r\nX: 1\r\n\r\n\r\n", "empty line"),
            (b"NATS/1.0\r\nX: a\0b\r\n\r\n", "NUL"),
            (b"NATS/1.0\r\nX: 1", "no end"),
            (b"NATS/1.0", "no end"),
            (b"NATS/1.0 100\r\n\r\n", "status"),
            (b"NATS/1.0 503 nobody\r\n\r\n", "status"),
            (b"NATS/1.0 what\r\n\r\n", "status"),
            (b"NATS/1.00\r\n\r\n", "status"),
            (b"X: 1\r\n\r\n", "not NATS/1.0"),
        ];
        for (block, expected) in cases {
            let refused = read(block).unwrap_err();
            assert!(refused.contains(expected), "{}: {refused}", block.escape_ascii());
        }
    }

    #[test]
    fn header_names_ignore_case_and_the_first_of_a_name_counts() {
        let block = b"NATS/1.0\r\ncontent-type: a\r\nNATS-MSG-ID:  7 \r\nContent-Type: b\r\nTraceparent: c\r\n\r\n";
        let found = HeaderBlock::whole(block).read().unwrap();
        assert_eq!(found, EventHeaders { content_type: Some("a"), msg_id: Some("7"), traceparent: Some("c") });
    }

    proptest! {
        #[test]
        fn whole_and_cut_blocks_are_read_alike(block in proptest::collection::vec(prop_oneof![
            2 => any::<u8>().prop_map(|byte| vec![byte]),
            2 => Just(b"\r\n".to_vec()),
            1 => Just(b"NATS/1.0\r\n".to_vec()),
            1 => Just(b"A: 1\r\n".to_vec()),
        ], 0..12)) {
            let block = block.concat();
            // As a server writes it in its answer to a direct get.
            let cut: &[u8] = if block.len() > 2 { &block[..block.len() - 2] } else { b"NATS/1.0\r\n" };
            prop_assert_eq!(HeaderBlock::whole(&block).read().is_ok(), HeaderBlock::cut(cut).read().is_ok());
        }
    }
}
