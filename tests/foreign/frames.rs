//! The parts of WebSocket that the proxies of these tests read: heads and frames.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The largest head of a request or an answer.
const LARGEST_HEAD: usize = 16 * 1024;

/// A frame.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// The bytes as received.
    pub(super) bytes: Vec<u8>,
    /// The payload without the mask.
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// Reads a frame.
    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut bytes = vec![from.read_u8().await?, from.read_u8().await?];
        let extended = match bytes[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mut length = [0; 8];
        from.read_exact(&mut length[8 - extended..]).await?;
        bytes.extend(&length[8 - extended..]);
        let length = if extended > 0 { u64::from_be_bytes(length) } else { (bytes[1] & 0x7f).into() };
        let mut mask = [0; 4];
        if bytes[1] & 0x80 != 0 {
            from.read_exact(&mut mask).await?;
            bytes.extend(mask);
        }
        let head = bytes.len();
        if from.take(length).read_to_end(&mut bytes).await? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let payload = bytes[head..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        Ok(Self { bytes, payload })
    }

    /// Its opcode (RFC 6455, 5.2).
    pub(super) fn opcode(&self) -> u8 {
        self.bytes[0] & 0xf
    }

    /// Whether it is the last fragment.
    pub(super) fn is_last(&self) -> bool {
        self.bytes[0] & 0x80 != 0
    }

    /// Whether it is a control frame.
    pub(super) fn is_control(&self) -> bool {
        self.opcode() > 2
    }
}

/// Reads up to the end of the head of a request or an answer, and not beyond.
pub(super) async fn head(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LARGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(from.read_u8().await?);
    }
    Ok(head)
}
