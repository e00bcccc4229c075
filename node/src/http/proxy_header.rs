//! The PROXY header, by which a load balancer tells the address of a client before the first byte of HTTP.
//!
//! Only [`Proxies`] may send one, and they have to: a connection of anybody else, or without a header, is refused.
//! Nobody can take another address by it.

mod parse;

use super::client_network::Proxies;
use crate::metrics;
use parse::{Step, step};
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use tracing::{debug, warn};

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum ProxyHeaderFault {
    #[error("the peer is none of gateway.trusted_proxies, and gateway.proxy_protocol lets only these connect")]
    Untrusted,
    #[error(
        "the connection does not begin with a PROXY header: let the balancer send one (HAProxy: send-proxy-v2), or set \
         gateway.proxy_protocol to \"off\""
    )]
    Missing,
    #[error("the PROXY header is malformed, or of a version other than 1 and 2")]
    Malformed,
    #[error("the PROXY header has more than 107 bytes (version 1) or 1024 bytes (version 2)")]
    TooLong,
    #[error("the checksum in the PROXY header is wrong")]
    Checksum,
    #[error("the PROXY header was not complete within gateway.head_timeout")]
    Late,
    #[error("the peer closed the connection before the end of a PROXY header")]
    Closed,
}

/// A connection was refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused;

/// The reasons for which connections are refused.
pub(crate) fn faults() -> Vec<&'static str> {
    ProxyHeaderFault::ALL.map(ProxyHeaderFault::as_str).to_vec()
}

impl ProxyHeaderFault {
    const ALL: [Self; 7] =
        [Self::Untrusted, Self::Missing, Self::Malformed, Self::TooLong, Self::Checksum, Self::Late, Self::Closed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Checksum => "checksum",
            Self::Late => "late",
            Self::Closed => "closed",
        }
    }
}

/// Reads the PROXY header of a connection, and nothing beyond it, within `deadline`. The client that it states; there is
/// none if a proxy speaks for itself, as in its health checks, or does not know the client.
///
/// # Errors
/// The connection is refused. That has been counted and logged.
pub(super) async fn read_client(
    server: &'static str,
    stream: &mut (impl AsyncRead + Unpin),
    peer: SocketAddr,
    proxies: &Proxies,
    deadline: Duration,
) -> Result<Option<SocketAddr>, Refused> {
    let fault = if proxies.has(peer.ip()) {
        match timeout(deadline, read(stream)).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(fault)) => fault,
            Err(_) => ProxyHeaderFault::Late,
        }
    } else {
        ProxyHeaderFault::Untrusted
    };
    metrics::HTTP_REFUSED_PROXY_HEADERS.with(fault.as_str()).increment(1);
    match fault {
        // So end the checks of balancers that only connect.
        ProxyHeaderFault::Closed => debug!(server, %peer, reason = %fault, "PROXY header refused"),
        _ => warn!(server, %peer, reason = %fault, "PROXY header refused"),
    }
    Err(Refused)
}

/// Reads a header. `None` if it states no client.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyHeaderFault> {
    let mut header = Vec::new();
    loop {
        match step(&header)? {
            Step::Whole(client) => return Ok(client),
            Step::More(most) => {
                let mut limited = AsyncReadExt::take(&mut *stream, most as u64);
                match limited.read_buf(&mut header).await {
                    Ok(0) | Err(_) => return Err(ProxyHeaderFault::Closed),
                    Ok(_) => {}
                }
            }
        }
    }
}
