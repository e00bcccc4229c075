//! What clients send, for tests.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};

/// A stream that returns these pieces, one at a time, and then `WouldBlock`.
pub(super) struct Pieces(pub(super) VecDeque<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut piece) = self.0.pop_front() else { return Err(ErrorKind::WouldBlock.into()) };
        let read = piece.len().min(buffer.len());
        buffer[..read].copy_from_slice(&piece[..read]);
        if read < piece.len() {
            self.0.push_front(piece.split_off(read));
        }
        Ok(read)
    }
}

/// A frame as a client sends it.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => frame.extend([&[0x80 | 126], &(length as u16).to_be_bytes()[..]].concat()),
        length => frame.extend([&[0x80 | 127], &(length as u64).to_be_bytes()[..]].concat()),
    }
    let mask = [1, 2, 3, 4];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
