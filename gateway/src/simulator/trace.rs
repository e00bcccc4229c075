//! The trace of a run, which shows the cause of a failure: one line for each thing that happens. This also stores plans
//! that have failed, and reads them.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::replay::{ReplayAnswer, ReplayPart};
use tickwire_core::wire;

use super::clocks;
use super::network::SimMessage;
use super::plan::Plan;

/// How the file names of these plans begin, beside those of other simulators.
const PREFIX: &str = "cluster-";

thread_local! {
    static IS_SHOWN: Cell<bool> = const { Cell::new(false) };
}

/// Turns the trace of this thread on.
pub(super) fn show() {
    IS_SHOWN.set(true);
}

/// Prints a line with the time, if the trace is on.
pub(super) fn line(text: impl FnOnce() -> String) {
    if IS_SHOWN.get() {
        println!("{:>8} {}", clocks::now().0, text());
    }
}

/// The folder of the plans that have failed.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/simulator")
}

/// Stores a plan, and returns the path of its file.
pub(super) fn store(plan: &Plan) -> PathBuf {
    fs::create_dir_all(folder()).expect("a folder for plans");
    let path = folder().join(format!("{PREFIX}{:016x}.json", plan.seed));
    fs::write(&path, serde_json::to_vec_pretty(plan).expect("a plan is JSON")).expect("a file for a plan");
    path.canonicalize().expect("the file was written")
}

/// Reads a plan that was stored; `None` if the file is of another simulator.
pub(super) fn read(path: &Path) -> Option<Plan> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Some(serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
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
