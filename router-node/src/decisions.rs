//! The router without I/O: its inputs and its outputs. [`run`](crate::run) drives it over NATS, and the simulator of
//! the cluster drives it in a simulated world.

pub use crate::checkpoint::{Checkpoint, Mark};
pub use crate::decode::Readable;
pub use crate::dispatch::RoutedEvent;
pub use crate::dispatch::pack::batches;
pub use crate::engine::{Engine, EngineReport, Order, Output, SourceCheckpoints};
pub use crate::intake::{IntakeEvent, IntakeReport};
pub use crate::interest::{InterestMessage, SNAPSHOT_BACKOFF, SNAPSHOT_DEADLINE};
pub use crate::ownership::driver::{ROUND, lease_deadline};
pub use crate::ownership::{Ownership, OwnershipTask, PlacementTiming, SourceProgress, WriteOutcome};
pub use crate::source::{Source, Tenure};
pub use crate::stream::{Expected, StreamFacts, StreamLook};
