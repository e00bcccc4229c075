//! A subscriber with the client library, like a real program: it connects again by itself.

use futures_util::FutureExt;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tickwire_client::{
    Client, ClientConfig, Credentials, Encoding, Gap, Message, Messages, ReceivedEvent, ReconnectDelays,
    SubscribeOptions,
};
use tickwire_testkit::eventually;
use tokio::task::unconstrained;

use crate::node::DEADLINE;
use crate::oracle::End;

/// Large enough for all messages of a test, so that a request never waits for a reader.
const BUFFER: usize = 1 << 16;

/// A client and what it received.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The client.
    pub(crate) client: Client,
    messages: Messages,
    /// The events and alerts so far.
    pub(crate) events: Vec<ReceivedEvent>,
    /// The gaps so far.
    pub(crate) gaps: Vec<Gap>,
    /// All other messages, except heartbeats.
    pub(crate) others: Vec<Message>,
}

impl Listener {
    /// Connects as `user` to the first of these gateways.
    pub(crate) async fn connect(gateways: &[SocketAddr], user: &str, encoding: Encoding) -> Self {
        Self::connect_by(Self::config(gateways, user, encoding)).await
    }

    /// Connects with these credentials to a gateway.
    pub(crate) async fn connect_as(gateway: SocketAddr, credentials: Credentials, encoding: Encoding) -> Self {
        Self::connect_by(ClientConfig { credentials, ..Self::config(&[gateway], "", encoding) }).await
    }

    /// Connects as `user` to its home gateway, which this address names.
    pub(crate) async fn connect_home(front: SocketAddr, user: &str, encoding: Encoding) -> Self {
        Self::connect_by(ClientConfig { ask_home: true, ..Self::config(&[front], user, encoding) }).await
    }

    /// Connects as `user` with TLS to an endpoint whose certificate this authority has signed.
    pub(crate) async fn connect_secure(address: SocketAddr, authority: PathBuf, user: &str) -> Self {
        let urls = vec![format!("wss://{address}/v1/stream")];
        let config = Self::config(&[], user, Encoding::Json);
        Self::connect_by(ClientConfig { urls, tls_ca: Some(authority), ..config }).await
    }

    fn config(gateways: &[SocketAddr], user: &str, encoding: Encoding) -> ClientConfig {
        ClientConfig {
            urls: gateways.iter().map(|gateway| format!("ws://{gateway}/v1/stream")).collect(),
            credentials: Credentials::DevUser(user.to_owned()),
            encoding,
            reconnect: Some(ReconnectDelays { base: Duration::from_millis(50), ..ReconnectDelays::default() }),
            request_timeout: DEADLINE,
            buffer: BUFFER,
            ..ClientConfig::default()
        }
    }

    async fn connect_by(config: ClientConfig) -> Self {
        let (client, messages) = Client::connect(config).await.unwrap();
        Self { client, messages, events: Vec::new(), gaps: Vec::new(), others: Vec::new() }
    }

    /// Subscribes, and returns when it is confirmed.
    pub(crate) async fn subscribe(&self, name: &str, filter: &Value) {
        self.client.subscribe(name, filter.clone(), SubscribeOptions::default()).await.unwrap();
    }

    /// Reads until the position reaches `end`.
    pub(crate) async fn catch_up(&mut self, end: &End) {
        eventually("the position reaches the end of the stream", DEADLINE, async || {
            let list = self.client.list().await.unwrap();
            end.is_reached(&list.position).then_some(())
        })
        .await;
        // The answer follows the events before it, so all of them are in the buffer.
        while let Some(message) = unconstrained(self.messages.recv()).now_or_never() {
            self.take(message.unwrap());
        }
    }

    /// Reads until a message meets the condition.
    pub(crate) async fn until(&mut self, what: &str, mut is_it: impl FnMut(&Message) -> bool) {
        let found_message = async {
            loop {
                let message = self.messages.recv().await.unwrap();
                let found = is_it(&message);
                self.take(message);
                if found {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, found_message).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    fn take(&mut self, message: Message) {
        match message {
            // An alert that comes again is no new event.
            Message::Event(event) | Message::Alert(event) if event.again => {}
            Message::Event(event) | Message::Alert(event) => self.events.push(*event),
            Message::Gap(gap) => self.gaps.push(gap),
            Message::Heartbeat(_) => {}
            other => self.others.push(other),
        }
    }
}
