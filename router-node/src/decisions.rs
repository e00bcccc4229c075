//! The router without I/O: its inputs and its outputs. [`run`](crate::run) drives it over NATS, the simulator of the
//! cluster in a simulated world, and the load generator without a stream.

pub use crate::alerts::PageBuilder;
pub use crate::asker::Asker;
pub use crate::checkpoint::{Checkpoint, Mark};
pub use crate::dead_letters::DeadLetter;
pub use crate::decode::{Content, Decoded, LiveForm, Readable};
pub use crate::dispatch::RoutedEvent;
pub use crate::dispatch::pack::{batches, pack};
pub use crate::engine::driver::TURN as ENGINE_TURN;
pub use crate::engine::turns::MessageTurns;
pub use crate::engine::{Engine, EngineOutput, EngineReport, Order, SourceCheckpoints};
pub use crate::intake::driver::silence;
pub use crate::intake::proof::WALKS;
pub use crate::intake::{Intake, IntakeEvent, IntakeOutput, IntakeReport, IntakeTrouble, Opened};
pub use crate::interest::{InterestMessage, SNAPSHOT_BACKOFF, SNAPSHOT_DEADLINE};
pub use crate::ownership::driver::{ROUND, lease_deadline};
pub use crate::ownership::{Ownership, OwnershipTask, PlacementTiming, WriteOutcome};
pub use crate::reader::delivery::ConsumerDelivery;
pub use crate::reader::pull::{HEARTBEAT as CONSUMER_HEARTBEAT, SILENCE as CONSUMER_SILENCE};
pub use crate::reader::span::{Proof, Span};
pub use crate::reader::{MessageHeaders, StreamMessage};
pub use crate::replay::pass::{Pass, PassOutcome, Proved, is_proved, makes_sense};
pub use crate::replay::queue::{Due, Queue, QueuedReplay, TOGETHER};
pub use crate::replay::replayed_event::ReplayedEvent;
pub use crate::rules::{ActiveRules, LiveRules, ReadPurpose};
pub use crate::source::{Source, Tenure};
pub use crate::stream::{Expected, Leader, StreamError, StreamFacts, StreamLook, StreamState, Witness};
pub use crate::traced::EventTrace;
pub use crate::walk::Walked;
