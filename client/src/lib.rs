//! The Rust client: connect, subscribe, typed messages, reconnect.
//!
//! [`Client::connect`] gives two things: a [`Client`], a small handle that asks (subscribe, unsubscribe, list, ping),
//! and [`Messages`], what comes. One task owns the socket behind both, connects again with a jittered backoff when the
//! connection is lost, and goes on where it was, at whichever gateway it reaches.
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
//!         Message::Resumed { complete } => println!("caught up{}", if complete { "" } else { ", with gaps" }),
//!         Message::Disconnected { reason, retry_in: None, .. } => println!("over: {reason}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **A slow reader is felt by the server.** Messages wait in a bounded buffer ([`ClientConfig::buffer`]). While it is
//! full the socket is not read, so that the gateway sees a slow client and deals with it: it conflates, drops and
//! tells, and at last closes. Nothing is dropped on this side. It also means that answers wait behind events: whoever
//! awaits a request while events flow must have another task read [`Messages`], or a buffer that is large enough.
//!
//! **A reconnect loses nothing, and what is lost is told.** The client remembers how far it is and asks for the rest:
//! [`Message::Restored`] says that all subscriptions are in force again, then comes what was missed, then
//! [`Message::Resumed`]. Every event is told once; those that the server sent early and sends again are passed over.
//! Where the server cannot give something any more, [`Message::Gap`] says what and why. Only if a resume is refused are
//! the subscriptions made anew, and [`Message::Interrupted`] says that the time between is not covered.
//!
//! **A token expires.** With [`Credentials::Provider`] the client asks for a new one before each connection, and renews a
//! session in place when the gateway says that its token expires; [`Message::Authenticated`] tells. With one fixed token
//! the client ends when the gateway does not take it any more.
//!
//! **It ends** with [`Client::close`], when [`Messages`] is dropped, or when the server closes for a reason that
//! connecting again would not mend. Dropping every [`Client`] alone ends nothing as long as [`Messages`] is there.
//!
//! The files stand in the order of a connection's life: configured, dialled, asked, served, retried.

mod backoff;
mod client;
mod config;
mod dial;
mod error;
mod home;
mod message;
mod owner;
mod progress;
mod requests;
#[cfg(test)]
mod scripted;
mod session;
mod target;
#[cfg(test)]
mod tests;
mod token;

pub use backoff::ReconnectDelays;
pub use client::{Client, Messages, SubscribeOptions};
pub use config::{ClientConfig, Credentials};
#[doc(hidden)]
pub use dial::websocket_limits;
pub use error::ClientError;
pub use message::Message;
pub use tickwire_core::protocol::codes::{CloseCode, ErrorCode, Reconnect};
pub use tickwire_core::protocol::since::Since;
pub use tickwire_core::protocol::{
    Authenticated, BadSubscriptionName, Encoding, Gap, Goaway, Heartbeat, Notice, ReceivedEvent, ServerError,
    Subscription, SubscriptionName, Subscriptions, Welcome,
};
pub use token::TokenProvider;
