//! The transport below WebSocket and HTTP: bytes to and from a server, with TLS for `wss://`.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::certificate::CertificateProblem;
use crate::error::{ClientError, TLS_CA};
use crate::tls::{Tls, TlsTransport};

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host:port`.
    pub(crate) authority: String,
    /// The name that the server's certificate must have; `None` without TLS.
    pub(crate) tls: Option<ServerName<'static>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The network, or the server's side of TLS.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server's certificate was refused.
    #[error(transparent)]
    Certificate(CertificateProblem),
    /// The trusted authorities cannot be read.
    #[error("{0}")]
    Authorities(String),
}

impl DialError {
    /// The same as an error of the client.
    pub(crate) fn at(self, url: &str) -> ClientError {
        match self {
            Self::Io(error) => ClientError::Unreachable { url: url.to_owned(), problem: error.to_string() },
            Self::Certificate(problem) => ClientError::Certificate { url: url.to_owned(), problem },
            Self::Authorities(problem) => ClientError::BadConfig { field: TLS_CA, problem },
        }
    }
}

/// The transport to a server. Tests use pipes in memory, so that time can be paused.
pub(crate) trait Dial: Send + Sync + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects, with the handshake of TLS if there is one.
    fn dial(&self, endpoint: &Endpoint) -> impl Future<Output = Result<Self::Io, DialError>> + Send;
}

impl<D: Dial> Dial for Arc<D> {
    type Io = D::Io;

    fn dial(&self, endpoint: &Endpoint) -> impl Future<Output = Result<Self::Io, DialError>> + Send {
        D::dial(self, endpoint)
    }
}

/// The network.
#[derive(Debug)]
pub struct Network {
    tls: Tls,
}

impl Network {
    /// A network in which these authorities are trusted; those of the system without a file.
    #[must_use]
    pub fn new(authorities: Option<PathBuf>) -> Self {
        Self { tls: Tls::new(authorities) }
    }
}

impl Dial for Network {
    type Io = Transport;

    async fn dial(&self, endpoint: &Endpoint) -> Result<Transport, DialError> {
        let stream = TcpStream::connect(endpoint.authority.as_str()).await?;
        stream.set_nodelay(true)?;
        match &endpoint.tls {
            None => Ok(Transport::Plain(stream)),
            Some(name) => Ok(Transport::Tls(Box::new(self.tls.connect(name.clone(), stream).await?))),
        }
    }
}

/// A connection over the network. A plain one pays nothing for the other kind but the choice between both.
#[derive(Debug)]
pub(crate) enum Transport {
    /// For `ws://`.
    Plain(TcpStream),
    /// For `wss://`.
    Tls(Box<TlsTransport>),
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
