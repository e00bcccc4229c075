//! Headers of a client's frames, read by tungstenite's own parser before tungstenite itself gets the bytes.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// The longest header, its mask included, in bytes (RFC 6455, 5.2).
pub(super) const LONGEST_HEADER: usize = 14;

/// A complete header.
pub(super) struct ParsedHeader {
    pub(super) header: FrameHeader,
    /// The size of the payload that follows, in bytes.
    pub(super) payload: u64,
    /// The size of the header itself, its mask included, in bytes.
    pub(super) len: usize,
}

/// A frame with an opcode that RFC 6455 reserves. The reader refuses it and everything after it.
pub(super) struct ReservedOpcode;

impl ParsedHeader {
    /// Reads the header at the beginning of these bytes; `None` if it is incomplete.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, ReservedOpcode> {
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| ReservedOpcode)?;
        Ok(parsed.map(|(header, payload)| Self { header, payload, len: cursor.position() as usize }))
    }

    /// The type of the data, if it is a data frame.
    pub(super) fn data(&self) -> Option<Data> {
        match self.header.opcode {
            OpCode::Data(data) => Some(data),
            OpCode::Control(_) => None,
        }
    }

    /// Whether it uses an extension. None is ever agreed on.
    pub(super) fn is_extended(&self) -> bool {
        self.header.rsv1 || self.header.rsv2 || self.header.rsv3
    }
}
