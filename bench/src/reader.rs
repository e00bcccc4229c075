//! Reads bytes as a client of the bench: WebSocket frames, and the numbers of the events in them. Events are found by
//! a search for their `id`, not by parsing, so that the clients cost little beside the server.

use memchr::memmem::Finder;

/// The opcodes of RFC 6455 that matter here.
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The largest frame taken.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A frame of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerFrameKind<'b> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'b [u8],
    /// The size in bytes, with the header.
    pub(crate) size: usize,
}

/// A frame that a server must not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFrame {
    #[error("a masked frame")]
    Masked,
    #[error("a fragment, or a frame with extension bits")]
    Fragment,
    #[error("a frame of {0} bytes")]
    TooLarge(u64),
}

/// The first frame of `bytes`; `None` if it is not whole yet.
pub(crate) fn first_frame(bytes: &[u8]) -> Result<Option<ServerFrameKind<'_>>, BadFrame> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0xF0 != 0x80 || first & 0x0F == 0 {
        return Err(BadFrame::Fragment);
    }
    if second & 0x80 != 0 {
        return Err(BadFrame::Masked);
    }
    let (extended, length) = match second & 0x7F {
        126 => (2, rest.first_chunk().map(|length| u64::from(u16::from_be_bytes(*length)))),
        127 => (8, rest.first_chunk().map(|length| u64::from_be_bytes(*length))),
        length => (0, Some(u64::from(length))),
    };
    let Some(length) = length else { return Ok(None) };
    if length > LARGEST {
        return Err(BadFrame::TooLarge(length));
    }
    let header = 2 + extended;
    let size = header + length as usize;
    Ok(bytes.get(header..size).map(|payload| ServerFrameKind { opcode: first & 0x0F, payload, size }))
}

/// Finds events in frames.
#[derive(Debug)]
pub(crate) struct EventNumbers {
    id: Finder<'static>,
}

impl EventNumbers {
    pub(crate) fn new() -> Self {
        Self { id: Finder::new("\"id\":\"") }
    }

    /// The numbers of the events in a frame of the server's.
    pub(crate) fn of<'p>(&'p self, payload: &'p [u8]) -> impl Iterator<Item = u64> + 'p {
        let length = self.id.needle().len();
        self.id.find_iter(payload).filter_map(move |at| number(&payload[at + length..]))
    }
}

/// The digits before the closing quote.
fn number(text: &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?,
            b'"' if at > 0 => return Some(value),
            _ => return None,
        }
    }
    None
}

/// The type of the first object of a frame, such as `event`; empty if there is none.
pub(crate) fn first_type(payload: &[u8]) -> &[u8] {
    let text = payload.strip_prefix(b"[{\"T\":\"").unwrap_or_default();
    text.split(|byte| *byte == b'"').next().unwrap_or_default()
}

/// A frame as a client sends it. The mask is zero, which leaves the payload as it is.
pub(crate) fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, 0x80, payload.len());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A frame as a server sends it.
pub(crate) fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, 0, payload.len());
    frame.extend(payload);
    frame
}

fn header(opcode: u8, mask: u8, length: usize) -> Vec<u8> {
    let first = 0x80 | opcode;
    match length {
        0..=125 => vec![first, mask | length as u8],
        126..=0xFFFF => [&[first, mask | 126], &(length as u16).to_be_bytes()[..]].concat(),
        _ => [&[first, mask | 127], &(length as u64).to_be_bytes()[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_read_wherever_they_are_cut() {
        for length in [0, 1, 125, 126, 0xFFFF, 0x1_0000] {
            let payload = vec![b'x'; length];
            let bytes = [server_frame(TEXT, &payload), server_frame(PING, b"y")].concat();
            let first = first_frame(&bytes).unwrap().unwrap();
            assert_eq!((first.opcode, first.payload), (TEXT, &payload[..]), "{length}");
            let second = first_frame(&bytes[first.size..]).unwrap().unwrap();
            assert_eq!((second.opcode, second.payload), (PING, &b"y"[..]));
            for cut in (0..first.size).step_by(1 + first.size / 50) {
                assert_eq!(first_frame(&bytes[..cut]), Ok(None), "{length} cut at {cut}");
            }
        }
    }

    #[test]
    fn invalid_server_frames_are_refused() {
        assert_eq!(first_frame(&client_frame(TEXT, b"x")), Err(BadFrame::Masked));
        assert_eq!(first_frame(&[0x01, 0]), Err(BadFrame::Fragment));
        assert_eq!(first_frame(&[0x80, 0]), Err(BadFrame::Fragment));
        assert_eq!(first_frame(&[0xC1, 0]), Err(BadFrame::Fragment));
        assert_eq!(first_frame(&[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0]), Err(BadFrame::TooLarge(1 << 40)));
    }

    #[test]
    fn events_are_found_by_their_numbers() {
        let numbers = EventNumbers::new();
        let frame = [
            &br#"[{"T":"event","id":"7","p":1,"data":{"x":"id"}},"#[..],
            br#"{"T":"event","symbol":"A","id":"18446744073709551615"}]"#,
        ]
        .concat();
        assert_eq!(numbers.of(&frame).collect::<Vec<_>>(), [7, u64::MAX]);
        let others = br#"[{"T":"subscribed","id":1},{"id":"x"},{"id":""},{"id":"18446744073709551616"},{"id":"12"#;
        assert_eq!(numbers.of(others).count(), 0);
    }

    #[test]
    fn first_object_gives_the_type_of_a_frame() {
        assert_eq!(first_type(br#"[{"T":"event","kind":"pattern"}]"#), b"event");
        assert_eq!(first_type(br#"[{"T":"early"},{"T":"event"}]"#), b"early");
        for none in [&b"[]"[..], b"", b"{\"T\":\"event\"}"] {
            assert_eq!(first_type(none), b"");
        }
    }
}
