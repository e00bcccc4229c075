//! How a client connects. Every wait that a client knows has its bound here.

use std::fmt;
use std::time::Duration;

use tickwire_core::protocol::Encoding;

use crate::backoff::ReconnectDelays;
use crate::token::TokenProvider;

/// Where to connect, as whom, and how patiently.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Gateways, as `ws://host:port/v1/stream`; `ws://host:port` means the same. They are tried in turn, starting with
    /// the first; after a session ends, the next one comes.
    pub urls: Vec<String>,
    /// Whether to ask the gateway, before each connection, for the user's home, and connect there: for clusters whose
    /// `gateway.connect_url` is set. If none is told within two seconds, or it does not take the client, the gateway
    /// that was asked is connected to itself.
    pub ask_home: bool,
    /// Who the client is.
    pub credentials: Credentials,
    /// How frames are written, both ways.
    pub encoding: Encoding,
    /// How to connect again after the connection is lost; `None` ends the client instead.
    pub reconnect: Option<ReconnectDelays>,
    /// The most that one attempt to connect may take, from dialling to the server's `welcome`. A home that is tried
    /// first has the same time for itself.
    pub connect_timeout: Duration,
    /// The most that a request may take from the call to the server's answer, a reconnect in between included. After a
    /// reconnect, the old subscriptions must be in force again within the same time.
    pub request_timeout: Duration,
    /// After so long without any sign of life the connection counts as lost. `None`: 2.5 times the heartbeat that the
    /// server's `welcome` names, at least a second.
    pub idle_timeout: Option<Duration>,
    /// How many messages may wait to be read. While so many do, the socket is not read.
    pub buffer: usize,
}

impl ClientConfig {
    /// The defaults for one gateway.
    pub fn new(url: impl Into<String>) -> Self {
        Self { urls: vec![url.into()], ..Self::default() }
    }
}

impl Default for ClientConfig {
    /// A gateway on this machine, JSON, no credentials, and reconnects for ever.
    fn default() -> Self {
        Self {
            urls: vec!["ws://127.0.0.1:8080/v1/stream".to_owned()],
            ask_home: false,
            credentials: Credentials::None,
            encoding: Encoding::Json,
            reconnect: Some(ReconnectDelays::default()),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            idle_timeout: None,
            buffer: 256,
        }
    }
}

/// Who a client says it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A token, sent as `Authorization: Bearer`. Once it has expired the client ends.
    Token(String),
    /// Tokens, sent alike, of a provider that is asked for a new one before each connection, and for another one when the
    /// gateway says that a session's token expires.
    Provider(TokenProvider),
    /// A user's name without proof, which only a gateway in `dev` mode takes.
    DevUser(String),
    /// Nothing.
    None,
}

impl fmt::Debug for Credentials {
    /// Leaves the token out, so that no log shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(…)"),
            Self::Provider(_) => f.write_str("Provider(…)"),
            Self::DevUser(user) => f.debug_tuple("DevUser").field(user).finish(),
            Self::None => f.write_str("None"),
        }
    }
}
