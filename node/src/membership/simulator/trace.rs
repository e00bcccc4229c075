//! The trace of a run, which shows the cause of a failure: one line for each thing that happens. This also stores plans
//! that have failed, and reads them.

use super::network::Delivery;
use super::plan::Plan;
use crate::membership::{Announcement, Beat};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use tickwire_core::wire;

/// How the file names of these plans begin, beside those of other simulators.
const PREFIX: &str = "membership-";

thread_local! {
    static IS_SHOWN: Cell<bool> = const { Cell::new(false) };
}

/// Turns the trace of this thread on.
pub(super) fn show() {
    IS_SHOWN.set(true);
}

/// Prints a line with the time in milliseconds, if the trace is on.
pub(super) fn line(now: u64, text: impl FnOnce() -> String) {
    if IS_SHOWN.get() {
        println!("{now:>8} {}", text());
    }
}

/// A short text for what reaches a process or KV.
pub(super) fn delivery(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Beat { to, beat, .. } => match wire::decode::<Beat>(&beat.payload) {
            Ok(Beat { member, goodbye }) => {
                let goodbye = if goodbye { ", goodbye" } else { "" };
                format!("-> process {to}: beat of {}, draining: {}{goodbye}", member.node, member.draining)
            }
            Err(error) => format!("-> process {to}: unreadable beat, {error}"),
        },
        Delivery::Announcement { to, payload, .. } => {
            let version = wire::decode::<Announcement>(payload).map(|announcement| announcement.version);
            format!("-> process {to}: announcement of version {version:?}")
        }
        Delivery::Request(flight) => {
            format!("process {} -> KV, for its {:?}: {:?}", flight.process, flight.asker, flight.request)
        }
        Delivery::Answer { process, asker, answer, .. } => {
            format!("KV -> process {process}, for its {asker:?}: {answer:?}")
        }
        Delivery::GiveUp { process, asker, number } => {
            format!("process {process}: its {asker:?} waits no longer for answer {number}")
        }
    }
}

/// Stores a plan, and returns the path of its file.
pub(super) fn store(plan: &Plan) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/simulator");
    fs::create_dir_all(&folder).expect("a folder for plans");
    let path = folder.join(format!("{PREFIX}{:016x}.json", plan.seed));
    fs::write(&path, serde_json::to_vec_pretty(plan).expect("a plan is JSON")).expect("a file for a plan");
    path.canonicalize().expect("the file was written")
}

/// Reads a plan that was stored; `None` if the file is of another simulator.
pub(super) fn read(path: &Path) -> Option<Plan> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Some(serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}
