//! The network of a client, by which connections are counted: an IPv4 address, or the network of a subscriber for IPv6.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 address, or the /64 of an IPv6 address, which belongs to one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNetwork(IpAddr);

impl ClientNetwork {
    /// The network of an address. An IPv4 address may be mapped into IPv6.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }

    /// Its first address.
    pub fn address(self) -> IpAddr {
        self.0
    }
}

/// The load balancers and proxies whose `X-Forwarded-For` is trusted.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// These networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether the address is in one of them.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request: the peer or, if it is a proxy, the last address in `X-Forwarded-For` that is not a
    /// proxy. Entries before that one were written by the client itself, and may be any bytes.
    pub fn client<'a>(&self, peer: IpAddr, forwarded_for: impl Iterator<Item = &'a [u8]>) -> IpAddr {
        if !self.has(peer) {
            return peer;
        }
        let hops: Vec<&[u8]> = forwarded_for.flat_map(|value| value.split(|byte| *byte == b',')).collect();
        let mut client = peer;
        for hop in hops.into_iter().rev() {
            let Some(address) = parse(hop) else { break };
            client = address;
            if !self.has(address) {
                break;
            }
        }
        client
    }
}

/// An address of `X-Forwarded-For`. Some proxies add a port.
fn parse(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.split(']').next()).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn all_addresses_of_a_subscriber_are_one_network() {
        assert_eq!(ClientNetwork::of(ip("2001:db8:1:2::1")), ClientNetwork::of(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(ClientNetwork::of(ip("2001:db8:1:2::1")), ClientNetwork::of(ip("2001:db8:1:3::1")));
        assert_eq!(ClientNetwork::of(ip("::ffff:192.0.2.7")), ClientNetwork::of(ip("192.0.2.7")));
        assert_ne!(ClientNetwork::of(ip("192.0.2.7")), ClientNetwork::of(ip("192.0.2.8")));
    }

    #[test]
    fn only_proxies_are_trusted_for_the_client_address() {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let client = |peer: &str, headers: &[&str]| {
            proxies.client(ip(peer), headers.iter().map(|header| header.as_bytes())).to_string()
        };
        assert_eq!(client("192.0.2.1", &["198.51.100.1"]), "192.0.2.1", "not a proxy");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        // Entries of the client stand before those of the proxies.
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("fd00::1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3", "all are proxies");
        // A client cannot hide behind its proxy by an entry that is no text.
        let hidden = [&b"\xff, 198.51.100.1"[..], b"\xc3\xa4, 198.51.100.2"];
        assert_eq!(proxies.client(ip("10.0.0.1"), hidden.into_iter()).to_string(), "198.51.100.2");
        assert_eq!(proxies.client(ip("10.0.0.1"), hidden[..1].iter().copied()).to_string(), "198.51.100.1");
    }
}
