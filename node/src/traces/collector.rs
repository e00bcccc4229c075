//! The collector of traces: one request over a connection of its own for each batch of spans (OTLP over HTTP).

use super::otlp::{Refusal, refusal};
use crate::config::Secret;
use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{HeaderValue, Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::{Host, Position, Url};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Where spans are sent.
#[derive(Debug)]
pub(super) struct Collector {
    /// As configured.
    pub(super) endpoint: String,
    host: String,
    port: u16,
    authority: String,
    path: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    authorization: Option<HeaderValue>,
    deadline: Duration,
}

impl Collector {
    pub(super) async fn new(endpoint: &Url, token: &Secret, deadline: Duration) -> Result<Self, String> {
        let host = match endpoint.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(format!("traces.endpoint = {endpoint}: it has no host")),
        };
        let port = endpoint.port_or_known_default().unwrap_or_default();
        let tls = match endpoint.scheme() {
            "https" => {
                let name = ServerName::try_from(host.clone()).map_err(|error| format!("traces.endpoint: {error}"))?;
                let config = tokio::task::spawn_blocking(tls_config).await.map_err(|error| error.to_string())??;
                Some((Arc::new(config), name))
            }
            _ => None,
        };
        let authorization = match token.is_empty() {
            true => None,
            false => {
                let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
                let mut value = value.map_err(|_| "traces.token: only visible ASCII can be sent".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            authority: endpoint[Position::BeforeHost..Position::AfterPort].to_owned(),
            path: endpoint[Position::BeforePath..Position::AfterQuery].to_owned(),
            endpoint: endpoint.to_string(),
            host,
            port,
            tls,
            authorization,
            deadline,
        })
    }

    /// Sends a request with this body. Returns which of its spans were refused.
    ///
    /// # Errors
    /// The reason why all were.
    pub(super) async fn send(&self, body: Vec<u8>) -> Result<Refusal, String> {
        match timeout(self.deadline, self.connect_and_send(body)).await {
            Ok(sent) => sent.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.deadline)),
        }
    }

    async fn connect_and_send(&self, body: Vec<u8>) -> Result<Refusal, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                self.exchange(connector.connect(name.clone(), stream).await?, body).await
            }
            None => self.exchange(stream, body).await,
        }
    }

    async fn exchange<S>(&self, stream: S, body: Vec<u8>) -> Result<Refusal, Box<dyn Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::post(self.path.as_str())
            .header(HOST, self.authority.as_str())
            .header(CONTENT_TYPE, "application/x-protobuf");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Body::from(body))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            if answer.status() != StatusCode::OK {
                return Err(format!("HTTP status {}", answer.status()).into());
            }
            let answer = to_bytes(Body::new(answer.into_body()), MAX_ANSWER).await?;
            Ok(refusal(&answer))
        };
        // The exchange gets the connection's error too, so this future never ends.
        let served = async {
            connection.await.ok();
            pending::<Infallible>().await
        };
        tokio::select! {
            refused = exchange => refused,
            never = served => match never {},
        }
    }
}

/// TLS with the authorities of this system.
fn tls_config() -> Result<ClientConfig, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(format!("no certificate authorities found on this system: {:?}", found.errors));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
