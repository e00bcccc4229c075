//! Helpers for the tests of every tickwire crate: a real nats-server ([`NatsServer`]), other processes ([`Process`]),
//! waits with a deadline ([`eventually`]), the pauses of the machine ([`Pulse`]), an HTTP client ([`http`]), a minimal
//! event ([`blank_event`]), a flood of messages ([`Flood`]), certificates ([`Authority`]), TLS in front of a server
//! ([`TlsTerminator`]), golden vectors ([`assert_vectors`]), and tables of documents that are written from the code
//! ([`assert_table`]).
//!
//! Never part of a released binary. Every helper panics with the reason on an error, because a test that cannot run has
//! failed.

mod document;
mod event;
mod flood;
pub mod http;
mod nats_server;
mod ports;
mod process;
mod pulse;
pub mod simulation;
mod tls;
mod vectors;
mod wait;

pub use document::assert_table;
pub use event::blank_event;
pub use flood::Flood;
pub use nats_server::NatsServer;
pub use ports::{free_address, free_addresses, free_ports};
pub use process::{Process, is_running};
pub use pulse::Pulse;
pub use tls::{Authority, ServerCertificate, TlsTerminator};
pub use vectors::{MessageVector, assert_vectors, from_hex};
pub use wait::eventually;
