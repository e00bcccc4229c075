//! What was read of a chunk of messages. Pure.

use super::COMPARED;
use crate::decode::{Decoded, Decoder, Readable};
use crate::letters::Letter;
use crate::ownership::tenancy::Mark;
use crate::reader::Held;
use metrics::counter;
use tickwire_core::ids::Seq;
use tickwire_core::whole::MissingRange;

/// What was read of a chunk.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) events: Vec<Readable>,
    pub(super) letters: Vec<Letter>,
    ticks: u64,
    /// The last message.
    pub(super) mark: Option<Mark>,
    /// The first messages: all of them if they are no more than are compared, else one more.
    pub(super) first: Vec<Seq>,
    /// What the stream lacks between them, in order.
    pub(super) missing: Vec<MissingRange>,
}

impl Chunk {
    pub(super) fn take(&mut self, decoder: &Decoder, message: Held) {
        let seq = message.seq;
        self.mark = Some(Mark { seq, stored: message.stored.0 });
        if self.first.len() <= COMPARED {
            self.first.push(seq);
        }
        match decoder.read_live(&message) {
            Ok(Decoded::Tick) => self.ticks += 1,
            Ok(Decoded::Event(event, wire)) => self.events.push(Readable { seq, event: *event, wire }),
            Err(refusal) => self.letters.push(Letter { refusal, message }),
        }
    }

    /// Takes out the events up to `seq`.
    pub(super) fn take_until(&mut self, seq: Seq) -> Vec<Readable> {
        let rest = self.events.partition_point(|event| event.seq <= seq);
        let rest = self.events.split_off(rest);
        std::mem::replace(&mut self.events, rest)
    }

    pub(super) fn count(&self) {
        let (events, letters) = (self.events.len() as u64, self.letters.len() as u64);
        for (what, count) in [("event", events), ("dead_letter", letters), ("tick", self.ticks)] {
            counter!("tickwire_router_messages_total", "what" => what).increment(count);
        }
    }
}
