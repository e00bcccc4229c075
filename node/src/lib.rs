//! The foundation of every tickwire node, in the order in which a node uses it: configuration, logs and metrics,
//! shutdown, the connections to NATS, the state in JetStream, membership, HTTP, and the start itself.

pub mod config;
pub(crate) mod connection_health;
pub(crate) mod nats_error;

pub mod telemetry;

pub mod metrics;

pub mod shutdown;

pub mod clock;

pub mod names;

pub mod nats;

pub mod link;

pub mod direct;

pub mod stored;

pub mod epoch;

pub mod writes;

pub mod provision;

pub mod storage;

pub mod lease;

pub mod view;

pub mod membership;

pub mod namesake;

pub mod http;

pub mod admin;

pub mod descriptors;

pub mod ports;

pub mod start;
