//! Clients of a balancer that terminates TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tickwire_testkit::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::node::DEADLINE;

/// The name in the certificate.
const HOST: &str = "localhost";

/// A certificate for a balancer, and what its clients need to trust it.
pub(super) struct Certificate {
    /// The file with the certificate and its key.
    pub(super) file: PathBuf,
    connector: TlsConnector,
}

impl Certificate {
    /// Writes a certificate of a new authority into this folder.
    pub(super) fn create(home: &Path) -> Self {
        let (authority, file) = (Authority::new(), home.join("tls.pem"));
        authority.write_certificate(&[HOST], &file);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { file, connector: TlsConnector::from(Arc::new(config)) }
    }
}

/// A WebSocket over TLS.
pub(super) type SecureSocket = WebSocketStream<TlsStream<TcpStream>>;

/// Where clients connect with TLS.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    pub(super) certificate: Certificate,
}

impl Front {
    /// Opens a WebSocket at this path. The socket and the gateway that its welcome names, or the status of a refusal.
    pub(super) async fn open(&self, path: &str) -> Result<(SecureSocket, String), u16> {
        self.open_from(Ipv4Addr::LOCALHOST, path, &[]).await
    }

    /// The same from this address, with these headers.
    pub(super) async fn open_from(
        &self,
        from: Ipv4Addr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(SecureSocket, String), u16> {
        let mut socket = self.upgrade(from, path, headers).await?;
        let first = timeout(DEADLINE, socket.next()).await.expect("a welcome in time").unwrap().unwrap();
        let messages: Value = serde_json::from_str(first.to_text().unwrap()).unwrap();
        let gateway = messages[0]["gateway"].as_str().unwrap_or_else(|| panic!("{path}: {messages}")).to_owned();
        Ok((socket, gateway))
    }

    /// The same without waiting for a welcome.
    pub(super) async fn upgrade(
        &self,
        from: Ipv4Addr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<SecureSocket, u16> {
        let mut request = format!("wss://{HOST}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let tls = self.connect(from).await;
        match timeout(DEADLINE, client_async(request, tls)).await.expect("an answer in time") {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// The gateway that a client reaches at this path.
    pub(super) async fn gateway(&self, path: &str) -> String {
        self.open(path).await.unwrap_or_else(|status| panic!("{path}: {status}")).1
    }

    /// The status and the head of the answer to a GET.
    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")).await
    }

    /// The status and the head of the answer to this text, after which the connection ends.
    pub(super) async fn ask(&self, text: &str) -> (u16, String) {
        let mut tls = self.connect(Ipv4Addr::LOCALHOST).await;
        tls.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A peer may end TCP without ending TLS before.
        timeout(DEADLINE, tls.read_to_end(&mut answer)).await.expect("an answer in time").ok();
        let answer = String::from_utf8(answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    /// Sends such requests on one connection, at most so many, until one has this status. How many had another one;
    /// `None` if all had.
    pub(super) async fn requests_until(&self, status: u16, path: &str, most: usize) -> Option<usize> {
        let mut tls = self.connect(Ipv4Addr::LOCALHOST).await;
        for count in 0..most {
            // The answer to HEAD has no body.
            tls.write_all(format!("HEAD {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let byte = timeout(DEADLINE, tls.read_u8()).await.expect("an answer in time");
                head.push(byte.expect("a connection that stays"));
            }
            let head = String::from_utf8(head).unwrap();
            if head.split(' ').nth(1).unwrap() == status.to_string() {
                return Some(count);
            }
        }
        None
    }

    /// Whether a connection from this address is ended before it is served.
    pub(super) async fn is_cut(&self, from: Ipv4Addr) -> bool {
        let Ok(tcp) = self.dial(from).await else { return true };
        let served = self.certificate.connector.connect(ServerName::try_from(HOST).unwrap(), tcp);
        timeout(DEADLINE, served).await.expect("an end in time").is_err()
    }

    async fn dial(&self, from: Ipv4Addr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        socket.connect(self.address).await
    }

    async fn connect(&self, from: Ipv4Addr) -> TlsStream<TcpStream> {
        let tcp = self.dial(from).await.unwrap();
        let tls = self.certificate.connector.connect(ServerName::try_from(HOST).unwrap(), tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()), "only HTTP/1.1 has WebSockets here");
        tls
    }
}

/// Whether a gateway still answers on this socket.
pub(super) async fn is_open(socket: &mut SecureSocket) -> bool {
    if socket.send(Message::Ping(Bytes::new())).await.is_err() {
        return false;
    }
    let answered = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Pong(_))) => return true,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
                Some(Ok(_)) => {}
            }
        }
    };
    timeout(DEADLINE, answered).await.unwrap_or(false)
}
