//! The configuration of a client. Every wait of a client has its limit here.

use std::path::PathBuf;
use std::time::Duration;

use tickwire_core::protocol::Encoding;

use crate::backoff::ReconnectDelays;
use crate::credentials::Credentials;

/// Addresses, credentials and limits of a client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Gateways, as `ws://host:port/v1/stream`; `ws://host:port` means the same. `wss://` is the same with TLS. They
    /// are tried in turn, starting with the first; after a session ends, the next one is tried.
    pub urls: Vec<String>,
    /// A PEM file with the certificates of the authorities that may sign a gateway's certificate, for `wss://`; `None`:
    /// those of the system. It is read at the first connection, and again after a certificate was refused.
    pub tls_ca: Option<PathBuf>,
    /// Whether to ask the gateway for the user's home gateway before each connection, and connect there: for clusters
    /// with `gateway.connect_url`. Without an answer within two seconds, or if the home gateway does not accept the
    /// client, the client connects to the gateway that it asked. A gateway that was asked with TLS must name an address
    /// with TLS.
    pub ask_home: bool,
    /// The credentials.
    pub credentials: Credentials,
    /// The encoding of frames in both directions.
    pub encoding: Encoding,
    /// Whether to get the saved subscriptions of the user beside the client's own
    /// ([`Message::SavedSubscriptions`](crate::Message::SavedSubscriptions)).
    pub saved: bool,
    /// How to reconnect after the connection is lost; `None` ends the client instead.
    pub reconnect: Option<ReconnectDelays>,
    /// The longest time of one attempt to connect, from dialling to the server's `welcome`, with TLS. A home gateway
    /// that is tried first has its own time of this length.
    pub connect_timeout: Duration,
    /// The longest time of a request from the call to the server's answer, including a reconnect. After a reconnect,
    /// the old subscriptions must be confirmed again within the same time.
    pub request_timeout: Duration,
    /// After this time without a message from the server the connection counts as lost. `None`: 2.5 times the heartbeat
    /// interval in the server's `welcome`, at least a second.
    pub idle_timeout: Option<Duration>,
    /// How many messages may wait for the user. While the buffer is full, the socket is not read.
    pub buffer: usize,
}

impl ClientConfig {
    /// The defaults for one gateway.
    pub fn new(url: impl Into<String>) -> Self {
        Self { urls: vec![url.into()], ..Self::default() }
    }
}

impl Default for ClientConfig {
    /// A gateway on this machine, JSON, no credentials, and reconnects without limit.
    fn default() -> Self {
        Self {
            urls: vec!["ws://127.0.0.1:8080/v1/stream".to_owned()],
            tls_ca: None,
            ask_home: false,
            credentials: Credentials::None,
            encoding: Encoding::Json,
            saved: true,
            reconnect: Some(ReconnectDelays::default()),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            idle_timeout: None,
            buffer: 256,
        }
    }
}
