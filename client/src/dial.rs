//! The transport below WebSocket and HTTP: bytes to and from a server.

use std::future::Future;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The transport to a server. Tests use pipes in memory, so that time can be paused.
pub(crate) trait Dial: Send + Sync + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `host:port`.
    fn dial(&self, authority: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// The network.
#[derive(Debug)]
pub(crate) struct Tcp;

impl Dial for Tcp {
    type Io = TcpStream;

    async fn dial(&self, authority: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
