//! Addresses for programs that must be told one before they start.

use std::iter::repeat_with;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

/// The ports below those that Linux gives to whoever asks for any, and to connections. Such a port would not stay free:
/// even the program for which it was chosen may be given it for something else first.
const PORTS: Range<u16> = 10_000..32_768;

/// How many ports are tried for each that is wanted.
const TRIES: usize = 100;

/// So many different ports that are free at all of these addresses now.
///
/// # Panics
/// If there are not so many.
pub fn free_ports(count: usize, addresses: &[IpAddr]) -> Vec<u16> {
    let mut free = Vec::new();
    for port in repeat_with(|| rand::random_range(PORTS)).take(count * TRIES) {
        if free.len() == count {
            break;
        }
        let is_free = addresses.iter().all(|address| TcpListener::bind((*address, port)).is_ok());
        if is_free && !free.contains(&port) {
            free.push(port);
        }
    }
    assert_eq!(free.len(), count, "free ports");
    free
}

/// So many different addresses on loopback that are free now.
///
/// # Panics
/// If there are not so many.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    free_ports(count, &[loopback]).into_iter().map(|port| SocketAddr::new(loopback, port)).collect()
}

/// An address on loopback that is free now.
///
/// # Panics
/// If there is none.
pub fn free_address() -> SocketAddr {
    free_addresses(1)[0]
}
