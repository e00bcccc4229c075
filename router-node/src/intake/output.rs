//! The outputs of an intake. The driver performs each, and calls the method that the output names.

#[cfg(doc)]
use super::Intake;
use super::IntakeEvent;
use crate::checkpoint::Mark;
use crate::dead_letters::DeadLetter;
use crate::stream::StreamFacts;
use std::time::Duration;
use tickwire_core::ids::Seq;

/// A consumer that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// How many messages it has to deliver.
    pub pending: u64,
    /// The server whose copy of the stream it reads; `None` where servers form no cluster.
    pub server: Option<String>,
}

/// An output. Outputs are performed in order. One with an answer names the method that takes it, and the next output
/// waits for that.
#[derive(Debug)]
pub enum IntakeOutput {
    /// Create a consumer of the source: [`Intake::opened`].
    Open {
        /// It delivers messages after this sequence.
        after: Seq,
        /// The number of the consumer within this tenure.
        number: u64,
    },
    /// Delete the consumer, if there is one.
    Close,
    /// Look at the stream: [`Intake::looked`].
    Look,
    /// Find out whether the stream, whose state this is, has this message: [`Intake::found_last`].
    FindLast(StreamFacts, Mark),
    /// Wait for messages of the consumer: [`Intake::take`], [`Intake::ended`] or [`Intake::reconnected`].
    Read,
    /// Ask the leader of the stream for the sequence of the source's first message after this one:
    /// [`Intake::compared`].
    Compare(Seq),
    /// Read the source's first message after this one from the leader of the stream: [`Intake::rescued`].
    Rescue(Seq),
    /// Find out which messages the stream lacks: [`Intake::walked`].
    Walk {
        /// The range begins after this sequence.
        after: Seq,
        /// The range ends with this sequence.
        through: Seq,
    },
    /// Store dead letters: [`Intake::posted`].
    Post(Vec<DeadLetter>),
    /// Report this to the engine.
    Report(IntakeEvent),
    /// Wait for this time, or until NATS is connected again: [`Intake::paused`].
    Pause(Duration),
}
