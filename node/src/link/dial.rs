//! Opening a connection: choice of the server, TCP, TLS, and login.

use super::login::{self, ServerInfo};
use super::parse::{Op, Parser};
use crate::config::NatsConfig;
use crate::nats_login::{NatsLogin, is_login_refusal};
use crate::nats_tls::tls_config;
use async_nats::ServerAddr;
use bytes::BytesMut;
use rand::seq::SliceRandom;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long one attempt at one server may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// How many discovered servers are remembered.
const DISCOVERED: usize = 64;

/// How many bytes of a text of a server are shown.
const SHOWN: usize = 400;

/// A connection whose login the server has accepted.
pub(super) struct LinkConnection {
    pub(super) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Bytes that were read but not parsed yet.
    pub(super) buffer: BytesMut,
    pub(super) parser: Parser,
    pub(super) info: ServerInfo,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct DialError {
    pub(super) reason: String,
    /// Whether the server has refused the login.
    pub(super) is_login_refusal: bool,
}

impl From<String> for DialError {
    fn from(reason: String) -> Self {
        Self { reason, is_login_refusal: false }
    }
}

/// The servers, and the login.
#[derive(Debug)]
pub(super) struct Dialer {
    config: Arc<NatsConfig>,
    name: String,
    configured: Vec<ServerAddr>,
    discovered: Vec<ServerAddr>,
    /// The servers that are still to be tried in this round.
    round: Vec<ServerAddr>,
}

impl Dialer {
    pub(super) fn new(config: Arc<NatsConfig>, name: String) -> io::Result<Self> {
        let configured = config.url.split(',').map(|url| url.trim().parse()).collect::<Result<_, _>>()?;
        Ok(Self { config, name, configured, discovered: Vec::new(), round: Vec::new() })
    }

    /// Remembers the servers that a server has listed, in place of those that were listed before.
    pub(super) fn discover(&mut self, info: &ServerInfo) {
        if info.connect_urls.is_empty() {
            return;
        }
        let found = info.connect_urls.iter().filter_map(|url| url.parse::<ServerAddr>().ok());
        let known = &self.configured;
        let other = |address: &ServerAddr| {
            !known.iter().any(|known| (known.host(), known.port()) == (address.host(), address.port()))
        };
        self.discovered = found.filter(other).take(DISCOVERED).collect();
    }

    /// Tries each configured server once, until one accepts the login. Returns the last failure, or a refusal of the
    /// login at once.
    pub(super) async fn dial_any(&mut self) -> Result<LinkConnection, DialError> {
        let mut left = self.configured.len();
        loop {
            left = left.saturating_sub(1);
            match self.dial().await {
                Err(error) if left > 0 && !error.is_login_refusal => {}
                end => return end,
            }
        }
    }

    /// Tries the next server: all of them in random order, then all again.
    pub(super) async fn dial(&mut self) -> Result<LinkConnection, DialError> {
        if self.round.is_empty() {
            self.round = self.configured.iter().chain(&self.discovered).cloned().collect();
            self.round.shuffle(&mut rand::rng());
        }
        let Some(server) = self.round.pop() else { return Err("no address to connect to".to_owned().into()) };
        let attempt = ATTEMPT_TIMEOUT.min(self.config.connect_timeout);
        match timeout(attempt, self.attempt(&server)).await {
            Ok(Ok(connection)) => {
                // After the next loss a new round begins.
                self.round.clear();
                self.discover(&connection.info);
                Ok(connection)
            }
            Ok(Err(DialError { reason, is_login_refusal })) => {
                Err(DialError { reason: format!("{}:{}: {reason}", server.host(), server.port()), is_login_refusal })
            }
            Err(_) => Err(format!("{}:{}: no connection within {attempt:?}", server.host(), server.port()).into()),
        }
    }

    async fn attempt(&self, server: &ServerAddr) -> Result<LinkConnection, DialError> {
        let text = |error: io::Error| error.to_string();
        let mut stream = TcpStream::connect((server.host(), server.port())).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let (mut parser, mut buffer) = (Parser::default(), BytesMut::with_capacity(4096));
        let info: ServerInfo = match next(&mut stream, &mut parser, &mut buffer).await? {
            Op::Info(info) => serde_json::from_slice(&info).map_err(|error| error.to_string())?,
            Op::Refusal(text) | Op::Unknown(text) => {
                return Err(format!("expected INFO from the server, received {:?}", beginning(&text)).into());
            }
            _ => return Err("expected INFO from the server, received another operation".to_owned().into()),
        };
        let tls = self.config.tls_ca.is_some() || server.tls_required() || info.tls_required;
        if tls {
            let config = tls_config(Arc::clone(&self.config)).await?;
            let host = ServerName::try_from(server.host().to_owned()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(config).connect(host, stream).await.map_err(text)?;
            let (reader, writer) = tokio::io::split(stream);
            // Plain text from before TLS cannot be trusted.
            let fresh = (Parser::default(), BytesMut::with_capacity(4096));
            return self.log_in(Box::new(reader), Box::new(writer), fresh, info, tls).await;
        }
        let (reader, writer) = stream.into_split();
        // A server that refuses a connection may say so together with its INFO.
        self.log_in(Box::new(reader), Box::new(writer), (parser, buffer), info, tls).await
    }

    async fn log_in(
        &self,
        mut reader: Box<dyn AsyncRead + Send + Unpin>,
        mut writer: Box<dyn AsyncWrite + Send + Unpin>,
        (mut parser, mut buffer): (Parser, BytesMut),
        info: ServerInfo,
        tls: bool,
    ) -> Result<LinkConnection, DialError> {
        let login = NatsLogin::read_now(Arc::clone(&self.config)).await.map_err(|error| error.to_string())?;
        let line = login::line(&login, &self.name, &info, tls)?;
        writer.write_all(format!("{line}PING\r\n").as_bytes()).await.map_err(|error| error.to_string())?;
        writer.flush().await.map_err(|error| error.to_string())?;
        loop {
            match next(&mut reader, &mut parser, &mut buffer).await? {
                Op::Pong => return Ok(LinkConnection { reader, writer, buffer, parser, info }),
                Op::Refusal(refusal) => {
                    let reason = beginning(&refusal);
                    return Err(DialError { is_login_refusal: is_login_refusal(&reason), reason });
                }
                _ => {}
            }
        }
    }
}

/// What the server has sent, for people. A program that is no NATS server may send a megabyte.
fn beginning(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).into_owned()
}

/// The next operation of the server.
async fn next(reader: &mut (impl AsyncRead + Unpin), parser: &mut Parser, buffer: &mut BytesMut) -> Result<Op, String> {
    loop {
        if let Some(op) = parser.next(buffer, Instant::now()).map_err(|broken| broken.to_string())? {
            return Ok(op);
        }
        if reader.read_buf(buffer).await.map_err(|error| error.to_string())? == 0 {
            return Err("the server closed the connection".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, LoadOptions};
    use tokio::net::TcpListener;

    fn dialer(url: &str) -> Dialer {
        let sets = vec![("nats.url".to_owned(), url.to_owned())];
        let config = Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap();
        Dialer::new(Arc::new(config.nats), "test".to_owned()).unwrap()
    }

    #[test]
    fn newly_listed_servers_replace_older_ones() {
        let mut dialer = dialer("nats://127.0.0.1:1,127.0.0.1:2");
        let listing = |urls: &[&str]| ServerInfo {
            connect_urls: urls.iter().map(ToString::to_string).collect(),
            ..ServerInfo::default()
        };
        dialer.discover(&listing(&["127.0.0.1:2", "10.0.0.1:4222", "not an address:x"]));
        let ports = |dialer: &Dialer| dialer.discovered.iter().map(ServerAddr::port).collect::<Vec<_>>();
        assert_eq!(ports(&dialer), [4222]);
        dialer.discover(&listing(&[]));
        assert_eq!(ports(&dialer), [4222]);
        dialer.discover(&listing(&["10.0.0.2:4333", "[::1]:4444"]));
        assert_eq!(ports(&dialer), [4333, 4444]);
    }

    #[tokio::test]
    async fn reason_is_short_whatever_the_server_sends() {
        let info = "INFO {}\r\n-ERR ";
        for (begin, part) in [("HTTP/1.1 ", "received \"HTTP/1.1 xxx"), ("-ERR ", "received \"xxx"), (info, ": xxx")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut dialer = dialer(&listener.local_addr().unwrap().to_string());
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(format!("{begin}{}\r\n", "x".repeat(500_000)).as_bytes()).await.ok();
                std::future::pending::<()>().await;
            };
            let error = tokio::select! {
                end = dialer.dial() => end.err().unwrap(),
                () = serve => unreachable!("it has no end"),
            };
            assert!(error.reason.contains(part) && error.reason.len() < 600, "{}", error.reason);
        }
    }

    #[tokio::test]
    async fn every_server_is_tried_before_any_again() {
        // Nothing listens on port 1.
        let mut dialer = dialer("127.0.0.1:1,127.0.0.2:1,127.0.0.3:1");
        let mut tried: Vec<String> = Vec::new();
        for _ in 0..3 {
            tried.push(dialer.dial().await.err().unwrap().reason.split(':').next().unwrap().to_owned());
        }
        tried.sort_unstable();
        assert_eq!(tried, ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    }
}
