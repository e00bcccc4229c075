//! Headers of the frames that a gateway writes, and the payload of its close frames.

use tickwire_core::protocol::codes::CloseCode;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

/// The largest size of the header of a server's frame, in bytes (RFC 6455, 5.2).
pub(crate) const HEADER: usize = 10;

/// The largest size of the reason of a close, in bytes: a control frame has 125 at most, and the code takes two
/// (RFC 6455, 5.5).
const REASON: usize = 123;

/// Writes the payload of a close behind `frame`. A long reason is cut at the end of a character.
pub(super) fn put_close(frame: &mut Vec<u8>, code: CloseCode, reason: &str) {
    frame.extend(code.code().to_be_bytes());
    frame.extend(&reason.as_bytes()[..reason.floor_char_boundary(REASON)]);
}

/// Writes the header of an unmasked, final frame right before its payload, which starts at [`HEADER`]. Returns where
/// the header starts.
pub(super) fn put_header(frame: &mut [u8], opcode: OpCode) -> usize {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let payload = (frame.len() - HEADER) as u64;
    let start = HEADER - header.len(payload);
    header.format(payload, &mut &mut frame[start..HEADER]).expect("there is space for the header");
    start
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::coding::Data;

    use super::*;

    #[test]
    fn headers_are_written_as_in_rfc_6455() {
        for (len, expected) in [
            (5, vec![0x81, 5]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (0xffff, vec![0x81, 126, 0xff, 0xff]),
            (0x1_0000, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut frame = vec![0; HEADER + len];
            let start = put_header(&mut frame, OpCode::Data(Data::Text));
            assert_eq!(frame[start..HEADER], expected, "{len} bytes");
        }
    }

    #[test]
    fn reason_of_a_close_is_cut_at_the_end_of_a_character() {
        let (long, euros) = ("x".repeat(130), format!("x{}", "€".repeat(50)));
        for (reason, kept) in [("no", 2), (&long[..123], 123), (&long[..124], 123), (&euros[..], 1 + 40 * 3)] {
            let mut frame = Vec::new();
            put_close(&mut frame, CloseCode::AuthFailed, reason);
            assert_eq!(frame, [&4001_u16.to_be_bytes()[..], &reason.as_bytes()[..kept]].concat());
        }
    }
}
