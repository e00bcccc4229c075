//! Routers with a real nats-server, and with gateways that implement their side of the protocol with the core's types.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod asking;
mod cluster;
mod copies;
mod epochs;
mod faults;
mod floods;
mod gateway;
mod letters;
mod replay;
mod routing;
