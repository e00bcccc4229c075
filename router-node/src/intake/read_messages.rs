//! The messages that an intake has read and not reported to the engine yet. Pure.

use super::COMPARED;
use crate::checkpoint::Mark;
use crate::dead_letters::DeadLetter;
use crate::decode::{Content, Decoded, LiveForm, Readable};
use crate::metrics;
use tickwire_core::coverage::completeness::MissingRange;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;

/// Messages that were read, in the order of their sequences.
#[derive(Debug, Default)]
pub(super) struct ReadMessages {
    pub(super) events: Vec<Readable>,
    pub(super) dead_letters: Vec<DeadLetter>,
    heartbeats: u64,
    /// The events that rules have dropped.
    dropped: u64,
    /// The last message.
    pub(super) mark: Option<Mark>,
    /// The first messages: all of them if they are no more than are compared, else one more.
    pub(super) first: Vec<Seq>,
    /// What the stream lacks between them, in order.
    pub(super) missing: Vec<MissingRange>,
}

impl ReadMessages {
    pub(super) fn take(&mut self, seq: Seq, stored: Timestamp, content: Content) {
        self.mark = Some(Mark { seq, stored: stored.0 });
        if self.first.len() <= COMPARED {
            self.first.push(seq);
        }
        match content {
            Ok(Decoded::Heartbeat) => self.heartbeats += 1,
            Ok(Decoded::Dropped) => self.dropped += 1,
            Ok(Decoded::Event(event, LiveForm { wire, trace })) => {
                self.events.push(Readable { seq, event: *event, wire, trace });
            }
            Err(dead_letter) => self.dead_letters.push(*dead_letter),
        }
    }

    /// Takes out the events up to `seq`.
    pub(super) fn take_until(&mut self, seq: Seq) -> Vec<Readable> {
        let rest = self.events.partition_point(|event| event.seq <= seq);
        let rest = self.events.split_off(rest);
        std::mem::replace(&mut self.events, rest)
    }

    pub(super) fn count(&self) {
        let (events, dead_letters) = (self.events.len() as u64, self.dead_letters.len() as u64);
        let others = [("dead_letter", dead_letters), ("tick", self.heartbeats), ("dropped", self.dropped)];
        for (what, count) in [("event", events)].into_iter().chain(others) {
            metrics::MESSAGES.with(what).increment(count);
        }
    }
}
