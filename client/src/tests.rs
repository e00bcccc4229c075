//! Tests of whole clients against a scripted peer, in paused time.

mod connecting;
mod home_gateway;
mod reconnecting;
mod requests;
mod resuming;
mod saved;
mod tokens;

use std::time::Duration;

use tokio::time::timeout;

use crate::scripted::{MemoryDial, Peer, ScriptedServer, stage};
use crate::{Client, ClientConfig, ClientError, Message, Messages, SubscribeOptions};

/// Two gateways, so that a test can see which one is dialled.
fn config() -> ClientConfig {
    ClientConfig { urls: vec!["ws://one:1".into(), "ws://two:2".into()], ..ClientConfig::default() }
}

async fn connect(dialler: MemoryDial, config: ClientConfig) -> Result<(Client, Messages), ClientError> {
    Client::connect_through(dialler, config).await
}

/// A client that is connected to a peer and has delivered `Connected`.
async fn connected(config: ClientConfig) -> (Client, Messages, ScriptedServer, Peer) {
    let (dialler, mut stage) = stage();
    let (client, peer) = tokio::join!(connect(dialler, config), stage.welcome());
    let (client, mut messages) = client.unwrap();
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    (client, messages, stage, peer)
}

/// The next message. Panics if there is none within an hour.
async fn next(messages: &mut Messages) -> Message {
    let next = timeout(Duration::from_secs(3_600), messages.recv()).await;
    next.expect("a message within an hour").expect("the client runs")
}

/// The code and the pause of the next message, which must be `Disconnected`.
async fn disconnected(messages: &mut Messages) -> (Option<u16>, Option<Duration>) {
    match next(messages).await {
        Message::Disconnected { code, retry_in, .. } => (code, retry_in),
        other => panic!("{other:?}"),
    }
}

/// Subscribes, and lets the peer grant it.
async fn subscribe(client: &Client, peer: &mut Peer, name: &str) {
    let (answer, granted) =
        tokio::join!(client.subscribe(name, serde_json::json!({}), SubscribeOptions::default()), peer.grant());
    assert_eq!(granted, name);
    answer.unwrap();
}
