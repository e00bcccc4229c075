//! The lines of a trace, which shows the cause of a failure.
use bytes::Bytes;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::replay::{ReplayAnswer, ReplayPart};
use tickwire_core::wire;
use tickwire_testkit::simulation;

use super::clocks;
use super::network::SimMessage;

/// Prints a line with the time, if the plan of this thread is traced.
pub(super) fn line(text: impl FnOnce() -> String) {
    simulation::trace(clocks::now().0, text);
}

/// A short text for a message between nodes.
pub(super) fn message(message: &SimMessage) -> String {
    match message {
        SimMessage::Batch(to, bytes, _) => {
            let batch: Batch<Bytes> = wire::decode(bytes).expect("a batch can be decoded");
            let sections: Vec<String> = batch.sections.iter().map(section).collect();
            format!("{} -> {to}: epoch {}, {}", batch.router, batch.epoch_id, sections.join(", "))
        }
        SimMessage::Answer(to, ask, bytes) => {
            let answer: ReplayAnswer<Bytes> = wire::decode(bytes).expect("an answer can be decoded");
            let part = match &answer.part {
                ReplayPart::Events(part) => section(part),
                part => format!("{part:?}"),
            };
            format!("{} -> {to}: answer {ask} of epoch {}, {part}", answer.router, answer.epoch_id)
        }
        SimMessage::Delta(to, delta) => format!("{} -> router {to}: interest {}", delta.gateway, delta.revision),
        SimMessage::Beat(to, beat) => format!("{} -> router {to}: beat at {}", beat.gateway, beat.revision),
        SimMessage::AskSnapshot(to, from) => format!("router {from} -> {to}: asks for a snapshot of the interest"),
        SimMessage::Snapshot(to, parts) => {
            let first = parts.first().map(|part| format!("{} at {}", part.gateway, part.revision));
            format!("-> router {to}: interest of {}", first.unwrap_or_default())
        }
        SimMessage::Ask(to, ask, request) => format!("-> router {to}: ask {ask}, {request:?}"),
        other => format!("{other:?}"),
    }
}

fn section<E>(section: &Section<E>) -> String {
    let Section { partition, revision, prev, through, events } = section;
    let seqs: Vec<u64> = events.iter().map(|(seq, _)| seq.0).collect();
    format!("p{partition} ({prev}, {through}] by {revision} {seqs:?}")
}
