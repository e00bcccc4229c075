//! What every tickwire node stands on, in the order in which a node starts: its configuration, logs and metrics, the
//! way it stops, the connection to NATS, what it expects to find there, and the admin server that tells how it does.

pub mod config;

pub mod telemetry;

pub mod shutdown;

pub mod clock;

pub mod names;

pub mod nats;

pub mod link;

pub mod direct;

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
pub mod stored;
