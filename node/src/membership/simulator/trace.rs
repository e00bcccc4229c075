//! The lines of a trace, which shows the cause of a failure.

use super::network::Delivery;
use crate::membership::{Announcement, Beat};
use tickwire_core::wire;

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
