//! Routers with a real nats-server, and with the edges of gateways that ship.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod asking;
mod cluster;
mod copies;
mod dead_letters;
mod epochs;
mod faults;
mod floods;
mod gateway;
mod replay;
mod routing;
