//! Routers against a real nats-server, with gateways that speak their side of the protocol by the types of the core.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cluster;
mod copies;
mod epochs;
mod faults;
mod floods;
mod gateway;
mod letters;
mod replay;
mod routing;
