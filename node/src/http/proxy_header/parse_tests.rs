use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Reads a header from a stream with `extra` bytes behind it, with pieces of at most `piece` bytes. Also checks that no
/// byte beyond the header is asked for: what is left of the stream is returned.
fn read(stream: &[u8], piece: usize) -> (Result<Option<SocketAddr>, ProxyHeaderFault>, &[u8]) {
    let (mut so_far, mut rest) = (Vec::new(), stream);
    loop {
        match step(&so_far) {
            Ok(Step::Whole(client)) => return (Ok(client), rest),
            Err(fault) => return (Err(fault), rest),
            Ok(Step::More(most)) => {
                assert!((1..=MAX_BINARY).contains(&most), "{most}");
                let (taken, left) = rest.split_at(most.min(piece).min(rest.len()));
                if taken.is_empty() {
                    return (Err(ProxyHeaderFault::Closed), rest);
                }
                so_far.extend_from_slice(taken);
                rest = left;
            }
        }
    }
}

/// A header of version 2.
fn binary_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE.as_slice(), &[0x20 | command, family], &length, body].concat()
}

/// The addresses of 192.0.2.1:4711 and 198.51.100.7:443.
const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0x12, 0x67, 1, 0xbb];

fn v6() -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    [&address("2001:db8::1")[..], &address("2001:db8::2")[..], &[0x12, 0x67, 1, 0xbb]].concat()
}

/// The same with a checksum, which may be wrong.
fn with_checksum(changed: u32) -> Vec<u8> {
    let mut header = binary_header(1, 0x11, &[&V4[..], &[CHECKSUM, 0, 4, 0, 0, 0, 0]].concat());
    let at = header.len() - 4;
    let crc = crc32c(&header, &(at..at + 4)) ^ changed;
    header[at..].copy_from_slice(&crc.to_be_bytes());
    header
}

fn client(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn crc_is_that_of_rfc_3720() {
    assert_eq!(crc32c(b"123456789", &(9..13)), 0xE306_9283);
    assert_eq!(crc32c(&[0; 32], &(32..36)), 0x8A91_36AA);
    assert_eq!(crc32c(&[0xff; 32], &(0..32)), 0x8A91_36AA);
}

#[test]
fn headers_have_the_client_of_their_proxy() {
    let additions = [&V4[..], &[0x04, 0, 2, 0, 0, 0xEA, 0, 0]].concat();
    let unix = [0u8; 216];
    for (header, expected) in [
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n".to_vec(), client("192.0.2.1:4711")),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 65535 0\r\n".to_vec(), client("[2001:db8::1]:65535")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
        (binary_header(1, 0x11, &V4), client("192.0.2.1:4711")),
        (binary_header(1, 0x11, &additions), client("192.0.2.1:4711")),
        (binary_header(1, 0x21, &v6()), client("[2001:db8::1]:4711")),
        (binary_header(1, 0x31, &unix), None),
        (binary_header(1, 0, &[]), None),
        (binary_header(0, 0, &[]), None),
        (binary_header(0, 0x11, &V4), None),
        (binary_header(0, 0xff, b"anything"), None),
        (with_checksum(0), client("192.0.2.1:4711")),
    ] {
        let stream = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        for piece in [1, 2, 3, 7, MAX_BINARY] {
            let expected = (Ok(expected), b"GET / HTTP/1.1\r\n".as_slice());
            assert_eq!(read(&stream, piece), expected, "{:?} by {piece}", String::from_utf8_lossy(&header));
        }
    }
}

#[test]
fn malformed_headers_are_refused_by_reason() {
    let cut = |header: Vec<u8>| header[..header.len() - 1].to_vec();
    let long = [&V4[..], &[0; MAX_BINARY]].concat();
    let padded = [&V4[..], &[0x04, 0, 9, 0]].concat();
    let short_checksum = [&V4[..], &[CHECKSUM, 0, 3, 0, 0, 0]].concat();
    use ProxyHeaderFault::{Checksum, Closed, Malformed, Missing, TooLong};
    for (bytes, fault) in [
        (b"".to_vec(), Closed),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Missing),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(), Missing),
        (b"PROXX TCP4 192.0.2.1 198.51.100.7 1 2\r\n".to_vec(), Missing),
        (b"PROXY TCP4 192.0.2.1".to_vec(), Closed),
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 4711\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443 9\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 192.0.2.1  198.51.100.7 4711 443\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n".to_vec(), Malformed),
        (b"PROXY TCP6 192.0.2.1 198.51.100.7 4711 443\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 +1 443\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 01 443\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 1 \r\n".to_vec(), Malformed),
        (b"PROXY TCP4 localhost 198.51.100.7 1 2\r\n".to_vec(), Malformed),
        (b"PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n".to_vec(), Malformed),
        (b"PROXY UNKNOWN\xff\r\n".to_vec(), Malformed),
        (b"PROXY \r\nGET / HTTP/1.1\r\n\r\n".to_vec(), Malformed),
        ([b"PROXY UNKNOWN ".as_slice(), &[b'x'; MAX_TEXT]].concat(), TooLong),
        (binary_header(2, 0x11, &V4), Malformed),
        ([SIGNATURE.as_slice(), &[0x31, 0x11, 0, 12], &V4].concat(), Malformed),
        (binary_header(1, 0x12, &V4), Malformed),
        (binary_header(1, 0x44, &V4), Malformed),
        (binary_header(1, 0x11, &V4[..11]), Malformed),
        (binary_header(1, 0x21, &V4), Malformed),
        (binary_header(1, 0x31, &V4), Malformed),
        (binary_header(1, 0x11, &padded), Malformed),
        (binary_header(1, 0x11, &short_checksum), Malformed),
        (binary_header(1, 0x11, &long), TooLong),
        (with_checksum(1), Checksum),
        (cut(binary_header(1, 0x11, &V4)), Closed),
    ] {
        for piece in [1, 5, MAX_BINARY] {
            assert_eq!(read(&bytes, piece).0, Err(fault), "{:?} by {piece}", String::from_utf8_lossy(&bytes));
        }
    }
    // One byte after the other, a refusal needs no more bytes than a header may have.
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 4 * MAX_TEXT]].concat();
    assert_eq!(endless.len() - read(&endless, 1).1.len(), MAX_TEXT);
}

proptest! {
    #[test]
    fn any_bytes_are_read_alike_in_any_pieces(
        start in prop::sample::select(vec![&b""[..], WORD, b"PROXY TCP4 1.1.1.1 ", SIGNATURE]),
        bytes in vec(any::<u8>(), 0..200),
        piece in 1usize..40,
    ) {
        let stream = [start, &bytes[..]].concat();
        prop_assert_eq!(read(&stream, piece).0, read(&stream, MAX_BINARY).0);
    }

    #[test]
    fn addresses_are_read_as_they_are_written(source: (IpAddr, u16), destination: u16, piece in 1usize..40) {
        let source = SocketAddr::from(source);
        let (word, family, octets) = match source.ip() {
            IpAddr::V4(ip) => ("TCP4", 0x11, ip.octets().to_vec()),
            IpAddr::V6(ip) => ("TCP6", 0x21, ip.octets().to_vec()),
        };
        let line = format!("PROXY {word} {0} {0} {1} {destination}\r\n", source.ip(), source.port());
        prop_assert_eq!(read(line.as_bytes(), piece), (Ok(Some(source)), &b""[..]));
        let ports = [source.port().to_be_bytes(), destination.to_be_bytes()].concat();
        let header = binary_header(1, family, &[&octets[..], &octets[..], &ports[..]].concat());
        prop_assert_eq!(read(&header, piece), (Ok(Some(source)), &b""[..]));
    }
}
