//! What an intake wants done, and is told of it.

#[cfg(doc)]
use super::Intake;
use super::IntakeEvent;
use crate::checkpoint::Mark;
use crate::dead_letters::DeadLetter;
use crate::stream::StreamFacts;
use std::time::Duration;
use tickwire_core::ids::Seq;

/// A consumer that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// How many messages it has to deliver.
    pub pending: u64,
    /// The server whose copy of the stream it reads; `None` where servers form no cluster.
    pub server: Option<String>,
}

/// What is to be done, one thing after the other. What has an answer is answered by the method that it names before
/// anything else is done.
#[derive(Debug)]
pub enum IntakeOutput {
    /// Make a consumer of the source, the so-manieth of this tenure: [`Intake::opened`].
    Open {
        /// Of what comes after this.
        after: Seq,
        /// The number.
        number: u64,
    },
    /// Delete the consumer, if there is one.
    Close,
    /// Look at the stream: [`Intake::saw`].
    Look,
    /// Find out whether the stream, which was seen like this, has this message: [`Intake::found_last`].
    FindLast(StreamFacts, Mark),
    /// Wait for messages of the consumer: [`Intake::take`], [`Intake::ended`] or [`Intake::reconnected`].
    Read,
    /// Ask the leader of the stream for the sequence of the source's first message after this one: [`Intake::compared`].
    Compare(Seq),
    /// Read the source's first message after this one from the leader of the stream: [`Intake::rescued`].
    Rescue(Seq),
    /// Find out what the stream lacks: [`Intake::walked`].
    Walk {
        /// Behind this.
        after: Seq,
        /// Up to here.
        through: Seq,
    },
    /// Store dead letters: [`Intake::posted`].
    Post(Vec<DeadLetter>),
    /// Tell the engine.
    Tell(IntakeEvent),
    /// Wait for so long, or until NATS is there again: [`Intake::paused`].
    Pause(Duration),
}
