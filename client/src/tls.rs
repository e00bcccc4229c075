//! TLS to a server: the trusted authorities, and the handshake.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, Error as TlsError, RootCertStore};

use crate::certificate::CertificateProblem;
use crate::dial::DialError;

/// The largest file of authorities: those of all public ones are a quarter of that.
const MOST_BYTES: u64 = 1024 * 1024;

/// The protocol above TLS. WebSocket begins with HTTP/1.1, and a balancer must not choose another version.
const PROTOCOL: &[u8] = b"http/1.1";

/// What a client trusts.
#[derive(Debug)]
pub(crate) struct Tls {
    /// The authorities; those of the system without a file.
    authorities: Option<PathBuf>,
    /// Read at the first handshake, and again after a certificate was not trusted: the authorities may have changed.
    /// The lock is held only to copy the pointer.
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Tls {
    pub(crate) fn new(authorities: Option<PathBuf>) -> Self {
        Self { authorities, config: Mutex::new(None) }
    }

    /// Makes the handshake with the server of this name.
    pub(crate) async fn connect(&self, name: ServerName<'static>, tcp: TcpStream) -> Result<TlsTransport, DialError> {
        let connector = TlsConnector::from(self.config().await?);
        match connector.connect(name, tcp).await {
            Ok(stream) => Ok(TlsTransport(stream)),
            Err(error) => {
                let problem = handshake_problem(&error);
                if let DialError::Certificate(_) = problem {
                    self.remember(None);
                }
                Err(problem)
            }
        }
    }

    async fn config(&self) -> Result<Arc<ClientConfig>, DialError> {
        let known = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(config) = known {
            return Ok(config);
        }
        let file = self.authorities.clone();
        let read = tokio::task::spawn_blocking(move || read_config(file.as_deref())).await;
        let config = read.map_err(|error| DialError::Authorities(error.to_string()))?;
        let config = config.map_err(DialError::Authorities)?;
        self.remember(Some(Arc::clone(&config)));
        Ok(config)
    }

    fn remember(&self, config: Option<Arc<ClientConfig>>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

fn read_config(file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let failed = |problem: &dyn Display| format!("{}: {problem}", file.display());
            let content = read_bounded(file).map_err(|error| failed(&error))?;
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
            for authority in found.map_err(|error| failed(&error))? {
                roots.add(authority).map_err(|error| failed(&error))?;
            }
            if roots.is_empty() {
                return Err(failed(&"the file has no certificate; it must have PEM certificates of authorities"));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let problems: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                let problems = problems.join("; ");
                return Err(format!(
                    "this system has no certificate authorities ({problems}); give a PEM file of them"
                ));
            }
        }
    }
    // Not the default provider of the process, which another library may have set.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// The content of a file of authorities.
fn read_bounded(file: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(file)?.take(MOST_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("the file has more than {MOST_BYTES} bytes: is it another file?")));
    }
    Ok(content)
}

/// The cause of a failed handshake.
fn handshake_problem(error: &io::Error) -> DialError {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidCertificate(problem)) => DialError::Certificate(CertificateProblem::of(problem)),
        Some(TlsError::InvalidMessage(_)) => DialError::Io(io::Error::other(
            "the server does not answer with TLS; if it speaks plain WebSocket, the address begins with ws://",
        )),
        _ => DialError::Io(io::Error::other(format!("TLS: {error}"))),
    }
}

/// An encrypted connection.
#[derive(Debug)]
pub(crate) struct TlsTransport(TlsStream<TcpStream>);

impl Drop for TlsTransport {
    /// Ends the stream with `close_notify`, so that the server can tell an end from a cut. Nobody waits for it: if the
    /// socket takes no more bytes, the end of the connection has to do.
    fn drop(&mut self) {
        let (tcp, tls) = self.0.get_mut();
        tls.send_close_notify();
        let mut socket = WriteNow(tcp);
        while tls.wants_write() && tls.write_tls(&mut socket).is_ok_and(|written| written > 0) {}
    }
}

/// Writes what the socket takes without a wait.
struct WriteNow<'s>(&'s TcpStream);

impl io::Write for WriteNow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TlsTransport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsTransport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
