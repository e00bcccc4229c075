//! A client's position: for each partition, the sequence up to which it was given everything or notified of what is
//! missing. Opaque to clients.
//!
//! The text is unpadded URL-safe base64 of a layout byte, the epoch's id (8 bytes, big-endian), and LEB128 numbers: the
//! count of partitions, the highest sequence, and for each partition how far it is below the highest.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ids::{EpochId, Partition, Seq};

/// The layout written by this build.
const LAYOUT: u8 = 1;

/// The last layout that later builds may use. A text with a higher first byte is not a position.
const LAST_LAYOUT: u8 = 15;

/// The most bytes of a position: layout, epoch id, count, highest sequence, and a number for each partition.
const MAX_BYTES: usize = 1 + 8 + 10 * (2 + Position::MAX_PARTITIONS);

/// One sequence for each partition, all of one epoch of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch of the stream.
    pub epoch_id: EpochId,
    /// For each partition, the last sequence that the client was given or notified of.
    pub seqs: Vec<Seq>,
}

impl Position {
    /// The most partitions of a stream. A position with more was not written by a gateway.
    pub const MAX_PARTITIONS: usize = 1_024;

    /// Lowers the position so that it does not cover this event.
    pub fn lower_before(&mut self, partition: Partition, seq: Seq) {
        if let Some(held) = self.seqs.get_mut(usize::from(partition.0)) {
            *held = (*held).min(Seq(seq.0.saturating_sub(1)));
        }
    }
}

/// Why a text is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// It is not base64, or is too short or too long.
    #[error("not a position: send back the text of a heartbeat or of `subscribed` unchanged")]
    Malformed,
    /// It has more partitions than any stream.
    #[error("it has {found} partitions; a stream has at most {}", Position::MAX_PARTITIONS)]
    Partitions {
        /// The number of its partitions.
        found: u64,
    },
    /// A later or an earlier build wrote it.
    #[error("unknown position layout {found}: another version of the server wrote it")]
    Layout {
        /// Its layout byte.
        found: u8,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let highest = self.seqs.iter().max().map_or(0, |seq| seq.0);
        let mut bytes = vec![LAYOUT];
        bytes.extend(self.epoch_id.0.to_be_bytes());
        put_number(&mut bytes, self.seqs.len() as u64);
        put_number(&mut bytes, highest);
        for seq in &self.seqs {
            put_number(&mut bytes, highest - seq.0);
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        // Too many partitions are refused by the first bytes, before the rest is decoded.
        let head = text.as_bytes().get(..HEAD).unwrap_or(text.as_bytes());
        check_head(&URL_SAFE_NO_PAD.decode(head).map_err(|_| PositionError::Malformed)?)?;
        if text.len() > MAX_BYTES.div_ceil(3) * 4 {
            return Err(PositionError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| PositionError::Malformed)?;
        let (epoch_id, mut rest) =
            bytes.get(1..).and_then(<[u8]>::split_first_chunk::<8>).ok_or(PositionError::Malformed)?;
        let partitions = take_number(&mut rest)?;
        let highest = take_number(&mut rest)?;
        // A partition takes at least one byte, so a larger count is wrong. It is refused before memory is allocated for
        // it.
        if partitions > rest.len().min(Self::MAX_PARTITIONS) as u64 {
            return Err(PositionError::Malformed);
        }
        let seqs = (0..partitions)
            .map(|_| highest.checked_sub(take_number(&mut rest)?).map(Seq).ok_or(PositionError::Malformed))
            .collect::<Result<_, _>>()?;
        match rest {
            [] => Ok(Self { epoch_id: EpochId(u64::from_be_bytes(*epoch_id)), seqs }),
            _ => Err(PositionError::Malformed),
        }
    }
}

/// The characters that hold the layout, the epoch's id and the count of partitions: at most 19 bytes, in groups of four
/// characters for three bytes.
const HEAD: usize = 28;

/// Checks the first bytes of a position.
fn check_head(bytes: &[u8]) -> Result<(), PositionError> {
    let (layout, rest) = bytes.split_first().ok_or(PositionError::Malformed)?;
    if *layout == 0 || *layout > LAST_LAYOUT {
        return Err(PositionError::Malformed);
    }
    if *layout != LAYOUT {
        return Err(PositionError::Layout { found: *layout });
    }
    let (_, mut rest) = rest.split_first_chunk::<8>().ok_or(PositionError::Malformed)?;
    match take_number(&mut rest)? {
        found if found > Position::MAX_PARTITIONS as u64 => Err(PositionError::Partitions { found }),
        _ => Ok(()),
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, PositionError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(PositionError::Malformed)?;
        *bytes = rest;
        let digit = u64::from(byte & 0x7f);
        if digit << shift >> shift != digit {
            return Err(PositionError::Malformed);
        }
        number |= digit << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(PositionError::Malformed)
}
