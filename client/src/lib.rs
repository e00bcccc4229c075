//! The Rust client: connections, subscriptions, typed messages, reconnects.
//!
//! [`Client::connect`] returns two things: a [`Client`], a small handle for requests (subscribe, unsubscribe, list,
//! ping), and [`Messages`], the received messages. One task owns the socket behind both. When the connection is lost,
//! the task reconnects with a jittered backoff and resumes at its position, at any gateway.
//!
//! ```no_run
//! use serde_json::json;
//! use tickwire_client::{Client, ClientConfig, ClientError, Credentials, Message, SubscribeOptions};
//!
//! # async fn example() -> Result<(), ClientError> {
//! let mut config = ClientConfig::new("ws://127.0.0.1:8080/v1/stream");
//! config.credentials = Credentials::DevUser("ann".into());
//! let (client, mut messages) = Client::connect(config).await?;
//!
//! let filter = json!({ "symbols": ["AAPL", "NVDA"], "min_confidence": 0.7 });
//! client.subscribe("breakouts", filter, SubscribeOptions::default()).await?;
//!
//! while let Some(message) = messages.recv().await {
//!     match message {
//!         Message::Event(event) => println!("{}:{} {} {:?}", event.p, event.seq, event.id, event.symbol),
//!         Message::Gap(gap) => println!("partition {} may lack ({}, {}]", gap.p, gap.from, gap.to),
//!         Message::Resumed { complete } => println!("resumed{}", if complete { "" } else { ", with gaps" }),
//!         Message::Disconnected { reason, retry_in: None, .. } => println!("ended: {reason}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Alerts.** Events of a subscription with [`SubscribeOptions::alert`] arrive as [`Message::Alert`].
//! [`Client::acknowledge`] says of an event of kind `alert` that the user has seen it.
//!
//! **Saved subscriptions.** The server adds those that the user has saved, and changes them while the session is open;
//! [`Message::SavedSubscriptions`] has the present ones. They are resumed like the client's own, so a client needs none
//! of its own. [`ClientConfig::saved`] does without.
//!
//! **Presets.** [`Client::subscribe`] also takes a [`PresetRequest`], a filter with a name and fixed numbers, in place
//! of a filter.
//!
//! **Backpressure.** Messages wait in a bounded buffer ([`ClientConfig::buffer`]). While it is full, the socket is not
//! read, so the gateway sees a slow client: it conflates, drops and sends notices, and finally closes the connection.
//! The client itself drops nothing. Answers also wait behind events: to await a request while events arrive, let
//! another task read [`Messages`], or use a buffer that is large enough.
//!
//! **Reconnects.** The client keeps its position and resumes from it. [`Message::Restored`] means that all
//! subscriptions are confirmed again; then the missed events follow, then [`Message::Resumed`]. Every event is
//! delivered once: events that the server sent early and sends again are skipped. [`Message::Gap`] reports a range that
//! the server cannot give any more, with the reason. If a resume is refused, the client subscribes again, and
//! [`Message::Interrupted`] means that the time in between is not covered.
//!
//! **Tokens expire.** With [`Credentials::Provider`] the client asks for a new token before each connection, and renews
//! a session in place when the gateway notifies that its token expires; [`Message::Authenticated`] confirms it. With a
//! fixed token the client ends when the gateway no longer accepts it.
//!
//! **TLS.** An address with `wss://` is a gateway behind a balancer that terminates TLS. The certificate must be for
//! the host of the address, and from an authority of the system or of [`ClientConfig::tls_ca`]. If it is not, the first
//! connection ends with [`ClientError::Certificate`], which says what is wrong. After a session, the client retries
//! with backoff, since certificates and authorities are renewed: the authorities are then read again.
//!
//! **The client ends** after [`Client::close`], when [`Messages`] is dropped, or when the server closes for a reason
//! that a reconnect cannot fix. Dropping every [`Client`] ends nothing while [`Messages`] exists.
//!
//! The files in the order of a connection: `config`, `credentials`, `target`, `dial`, `tls`, `certificate`, `home`,
//! `connect`, `client` (the user), `user_side` (its channels), `listen` (many users in one process), `owner` (the
//! task), `session`, `requests`, `saved` (the saved subscriptions), `progress` (the position), `message`, `backoff`,
//! `error`.

mod backoff;
mod certificate;
mod client;
mod config;
mod connect;
mod credentials;
mod dial;
mod error;
mod home;
mod listen;
mod message;
mod owner;
mod progress;
mod requests;
mod saved;
#[cfg(test)]
mod scripted;
mod session;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod user_side;

pub use backoff::ReconnectDelays;
pub use certificate::CertificateProblem;
pub use client::{Client, Messages, SubscribeOptions};
pub use config::ClientConfig;
#[doc(hidden)]
pub use connect::websocket_limits;
pub use credentials::{Credentials, TokenProvider};
#[doc(hidden)]
pub use dial::Network;
pub use error::ClientError;
#[doc(hidden)]
pub use listen::listen;
pub use message::Message;
pub use tickwire_core::filter::presets::{Preset, PresetError, PresetRequest};
pub use tickwire_core::protocol::codes::{CloseCode, ErrorCode, Reconnect};
pub use tickwire_core::protocol::since::Since;
pub use tickwire_core::protocol::{
    Authenticated, BadSubscriptionName, Encoding, FilterRequest, Gap, Goaway, Heartbeat, Notice, ReceivedEvent,
    ServerError, Subscription, SubscriptionName, Subscriptions, Welcome,
};
