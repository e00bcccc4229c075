//! Reads a PROXY header, version 1 or 2, from the bytes so far. Pure.
//!
//! The format is HAProxy's "The PROXY protocol, Versions 1 & 2" (proxy-protocol.txt). What follows a header belongs to
//! HTTP, and later to the WebSocket, which takes over the bare socket. So the parser says how many bytes may be read
//! next, and never asks for one beyond the header.

use super::ProxyHeaderFault;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// The beginning of a header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The beginning of a header of version 1.
const WORD: &[u8] = b"PROXY ";

/// The bytes before the addresses of version 2.
const FIXED: usize = 16;

/// The longest header of version 1, by its specification.
const MAX_TEXT: usize = 107;

/// The shortest one: `PROXY UNKNOWN` and the end of the line.
const LEAST_TEXT: usize = 15;

/// The longest header of version 2 that is read. The addresses need 52 bytes; the rest is for additions of the proxy.
const MAX_BINARY: usize = 1024;

/// The addition of version 2 with a checksum of the header.
const CHECKSUM: u8 = 0x03;

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The beginning of a header: at most so many further bytes, which is at least one, may be read.
    More(usize),
    /// A whole header, with the address of the client. `None` means that the proxy speaks for itself, as in its health
    /// checks, or does not know the client.
    Whole(Option<SocketAddr>),
}

/// Reads the bytes so far. They must not have a byte beyond the header.
pub(super) fn step(bytes: &[u8]) -> Result<Step, ProxyHeaderFault> {
    if bytes.is_empty() {
        // Both versions are longer.
        return Ok(Step::More(SIGNATURE.len()));
    }
    if let Some(rest) = bytes.strip_prefix(SIGNATURE) {
        return binary(bytes, rest);
    }
    if bytes.starts_with(WORD) {
        return text(bytes);
    }
    if SIGNATURE.starts_with(bytes) || WORD.starts_with(bytes) {
        return Ok(Step::More(SIGNATURE.len() - bytes.len()));
    }
    Err(ProxyHeaderFault::Missing)
}

/// Reads version 1: a line of text.
fn text(bytes: &[u8]) -> Result<Step, ProxyHeaderFault> {
    if bytes.windows(2).any(|pair| pair == b"\r\n") {
        // A line that ends before the shortest header is followed by other bytes already.
        let line = bytes.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
        return line.and_then(client_of_line).map(Step::Whole).ok_or(ProxyHeaderFault::Malformed);
    }
    if bytes.len() >= MAX_TEXT {
        return Err(ProxyHeaderFault::TooLong);
    }
    let least = if bytes.ends_with(b"\r") { 1 } else { 2 };
    Ok(Step::More(LEAST_TEXT.saturating_sub(bytes.len()).max(least).min(MAX_TEXT - bytes.len())))
}

/// The client of a line, or `Some(None)` if the line states none; `None` if it is malformed.
fn client_of_line(line: &str) -> Option<Option<SocketAddr>> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let (source, destination): (IpAddr, IpAddr) = (source.parse().ok()?, destination.parse().ok()?);
            let is_v4 = *family == "TCP4";
            let agrees = source.is_ipv4() == is_v4 && destination.is_ipv4() == is_v4;
            let (port, _) = (port(source_port)?, port(destination_port)?);
            agrees.then(|| Some(SocketAddr::new(source, port)))
        }
        _ => None,
    }
}

/// A port, written as a plain number.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// Reads version 2, of which `rest` follows the signature.
fn binary(header: &[u8], rest: &[u8]) -> Result<Step, ProxyHeaderFault> {
    let [version_and_command, family, high, low, body @ ..] = rest else {
        return Ok(Step::More(FIXED - header.len()));
    };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyHeaderFault::Malformed),
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if FIXED + length > MAX_BINARY {
        return Err(ProxyHeaderFault::TooLong);
    }
    if body.len() < length {
        return Ok(Step::More(length - body.len()));
    }
    if body.len() > length {
        return Err(ProxyHeaderFault::Malformed);
    }
    if is_local {
        // Everything else in it has no meaning.
        return Ok(Step::Whole(None));
    }
    let read = match family {
        // No address, or one of a Unix socket.
        0x00 => Some((None, body)),
        0x31 => body.split_at_checked(216).map(|(_, additions)| (None, additions)),
        0x11 => addresses::<4>(body),
        0x21 => addresses::<16>(body),
        _ => None,
    };
    let (client, additions) = read.ok_or(ProxyHeaderFault::Malformed)?;
    check_additions(header, additions)?;
    Ok(Step::Whole(client))
}

/// The source of a TCP connection with addresses of `N` bytes, and the bytes after both addresses and ports.
fn addresses<const N: usize>(body: &[u8]) -> Option<(Option<SocketAddr>, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (_, rest) = rest.split_first_chunk::<N>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (_, additions) = rest.split_first_chunk::<2>()?;
    Some((Some(SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes(*port))), additions))
}

/// Checks that the additions are whole, and the checksum if there is one.
fn check_additions(header: &[u8], mut additions: &[u8]) -> Result<(), ProxyHeaderFault> {
    while !additions.is_empty() {
        let [kind, high, low, rest @ ..] = additions else { return Err(ProxyHeaderFault::Malformed) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = rest.split_at_checked(length).ok_or(ProxyHeaderFault::Malformed)?;
        if *kind == CHECKSUM {
            let stated = <[u8; 4]>::try_from(value).map_err(|_| ProxyHeaderFault::Malformed)?;
            let start = header.len() - rest.len();
            if crc32c(header, &(start..start + value.len())) != u32::from_be_bytes(stated) {
                return Err(ProxyHeaderFault::Checksum);
            }
        }
        additions = next;
    }
    Ok(())
}

/// The CRC-32C (RFC 3720, B.4) of the header, in which the bytes of the checksum itself count as zero.
fn crc32c(header: &[u8], checksum: &Range<usize>) -> u32 {
    let add = |crc: u32, (at, byte): (usize, &u8)| {
        let byte = if checksum.contains(&at) { 0 } else { *byte };
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    };
    !header.iter().enumerate().fold(u32::MAX, add)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
