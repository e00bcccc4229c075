//! The edge without I/O: its inputs and its outputs. [`run`](crate::run) drives it over NATS with shards that hold
//! sessions, and the tests of routers drive it with none.

pub use crate::byte_queue::{ByteReceiver, ByteSender, channel};
pub use crate::edge::{Edge, EdgeSetup, NatsConnection, Outgoing, StreamSight};
pub use crate::messages::{FromEdge, SessionId, SharedCoverageEvents, ToEdge, ToShard};
