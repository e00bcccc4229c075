//! Any text as one token of a NATS subject, and back: `BRK.B` is published to `events.pattern.BRK=2EB`.
//!
//! ASCII letters and digits, `-` and `_` stand for themselves; every other byte of the text's UTF-8 is written `=`
//! and two upper-case hex digits. The encoding is canonical: a token that another spelling would have is refused,
//! so that a key has one subject, hence one partition, hence one order.

use compact_str::CompactString;

use crate::hint::clipped;

/// Why a token is not an encoded key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It has no characters.
    #[error("the key is empty")]
    Empty,
    /// It holds a character that must be escaped.
    #[error("the key token {token:?} holds {found:?} as it is; written right it is {encoded:?}")]
    Unescaped {
        /// The token as it came, or its begin if it is long.
        token: String,
        /// The first such character.
        found: char,
        /// How the token, taken for the key itself, is written.
        encoded: CompactString,
    },
    /// An `=` is not followed by two upper-case hex digits.
    #[error("the key token {token:?} has a bad escape at byte {at}: '=' takes two upper-case hex digits")]
    BadEscape {
        /// The token as it came, or its begin if it is long.
        token: String,
        /// Where the `=` stands, from 0.
        at: usize,
    },
    /// It escapes a character that stands for itself.
    #[error("the key token {token:?} escapes {found:?}, which stands for itself")]
    NeedlessEscape {
        /// The token as it came, or its begin if it is long.
        token: String,
        /// The character.
        found: char,
    },
    /// Its bytes are not UTF-8.
    #[error("the key token {token:?} is not UTF-8 when unescaped")]
    NotUtf8 {
        /// The token as it came, or its begin if it is long.
        token: String,
    },
}

/// Writes `key` as one subject token. An empty key gives an empty token, which [`decode`] and NATS both refuse.
#[must_use]
pub fn encode(key: &str) -> CompactString {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut token = CompactString::with_capacity(key.len());
    for byte in key.bytes() {
        if stands_for_itself(byte) {
            token.push(char::from(byte));
        } else {
            token.push('=');
            token.push(char::from(HEX[usize::from(byte >> 4)]));
            token.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    token
}

/// Reads a subject token back into the key.
///
/// # Errors
/// [`KeyError`] if `token` is not what [`encode`] writes for some key that is not empty.
pub fn decode(token: &str) -> Result<CompactString, KeyError> {
    if token.is_empty() {
        return Err(KeyError::Empty);
    }
    let mut key = Vec::with_capacity(token.len());
    let mut rest = token.bytes().enumerate();
    while let Some((at, byte)) = rest.next() {
        if byte == b'=' {
            let digits = (rest.next().and_then(|(_, d)| hex(d)), rest.next().and_then(|(_, d)| hex(d)));
            let (Some(high), Some(low)) = digits else {
                return Err(KeyError::BadEscape { token: clipped(token), at });
            };
            let byte = high << 4 | low;
            if stands_for_itself(byte) {
                return Err(KeyError::NeedlessEscape { token: clipped(token), found: char::from(byte) });
            }
            key.push(byte);
        } else if stands_for_itself(byte) {
            key.push(byte);
        } else {
            let found = token[at..].chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
            return Err(KeyError::Unescaped { token: clipped(token), found, encoded: clipped(&encode(token)).into() });
        }
    }
    CompactString::from_utf8(key).map_err(|_| KeyError::NotUtf8 { token: clipped(token) })
}

fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
