//! What several commands of `tickwire` share: their flags, their signals, the line that shows progress, a publisher to
//! JetStream, and how they start a nats-server and wait for nodes. No node uses it.

pub mod args;
pub mod nats_server;
pub mod progress;
pub mod publisher;
pub mod ready;
pub mod stop;
