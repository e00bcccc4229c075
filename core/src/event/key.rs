//! Encodes any text as one token of a NATS subject, and back: `BRK.B` is published to `events.pattern.BRK=2EB`.
//!
//! ASCII letters, digits, `-` and `_` are written as they are. Every other byte of the UTF-8 text is written as `=` and
//! two upper-case hex digits. The encoding is canonical and any other spelling is refused, so a key has one subject,
//! one partition and one order.

use compact_str::CompactString;

use crate::hint::clipped;

/// The longest encoded key that our programs put into a subject, in bytes. NATS ends a connection that sends a line
/// longer than its `max_control_line`, 4 KiB by default, and all that the connection was used for.
pub const MAX_SENT: usize = 2 * 1024;

/// Why a token is not an encoded key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It has no characters.
    #[error("the key is empty")]
    Empty,
    /// It holds a character that must be escaped.
    #[error("the key token {token:?} contains {found:?} without escape; write {encoded:?}")]
    Unescaped {
        /// The token as received, or its beginning if it is long.
        token: String,
        /// The first such character.
        found: char,
        /// The encoding of the token, if the token was meant as the key.
        encoded: CompactString,
    },
    /// An `=` is not followed by two upper-case hex digits.
    #[error("the key token {token:?} has a bad escape at byte {at}: write two upper-case hex digits after '='")]
    BadEscape {
        /// The token as received, or its beginning if it is long.
        token: String,
        /// The offset of the `=`, from 0.
        at: usize,
    },
    /// It escapes a character that needs no escape.
    #[error("the key token {token:?} escapes {found:?}, which needs no escape")]
    NeedlessEscape {
        /// The token as received, or its beginning if it is long.
        token: String,
        /// The character.
        found: char,
    },
    /// Its bytes are not UTF-8.
    #[error("the key token {token:?} is not UTF-8 when unescaped")]
    NotUtf8 {
        /// The token as received, or its beginning if it is long.
        token: String,
    },
}

/// Encodes `key` as one subject token. An empty key gives an empty token, which [`decode`] and NATS both refuse.
#[must_use]
pub fn encode(key: &str) -> CompactString {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut token = CompactString::with_capacity(key.len());
    for byte in key.bytes() {
        if is_unescaped(byte) {
            token.push(char::from(byte));
        } else {
            token.push('=');
            token.push(char::from(HEX[usize::from(byte >> 4)]));
            token.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    token
}

/// Decodes a subject token into the key.
///
/// # Errors
/// [`KeyError`] unless [`encode`] gives `token` for some key that is not empty.
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
            if is_unescaped(byte) {
                return Err(KeyError::NeedlessEscape { token: clipped(token), found: char::from(byte) });
            }
            key.push(byte);
        } else if is_unescaped(byte) {
            key.push(byte);
        } else {
            let found = token[at..].chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
            return Err(KeyError::Unescaped { token: clipped(token), found, encoded: clipped(&encode(token)).into() });
        }
    }
    CompactString::from_utf8(key).map_err(|_| KeyError::NotUtf8 { token: clipped(token) })
}

fn is_unescaped(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
