//! A node's own beats: at every interval, and at once when the drain begins.

use super::Beat;
use crate::names;
use crate::nats::Nats;
use std::time::Duration;
use tickwire_core::placement::Member;
use tickwire_core::wire;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Sends beats until dropped; from the drain on, as draining.
pub(super) async fn send(nats: &Nats, every: Duration, member: &Member, drain: &CancellationToken) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draining = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = drain.cancelled(), if !draining => {}
        }
        draining = drain.is_cancelled();
        let member = Member { draining, ..member.clone() };
        beat(nats, member, false).await;
    }
}

/// Sends the goodbye, and waits until it has left this process.
pub(super) async fn goodbye(nats: &Nats, member: &Member) {
    let member = Member { draining: true, ..member.clone() };
    beat(nats, member, true).await;
    if let Err(error) = nats.client.flush().await {
        warn!(%error, "goodbye not sent");
    }
}

async fn beat(nats: &Nats, member: Member, goodbye: bool) {
    // A beat that waits for the connection would arrive late and together with others. The next beat replaces it.
    if !nats.is_connected() {
        return;
    }
    let subject = names::beat(member.role.as_str(), member.node.id.as_str());
    match wire::encode(&Beat { member, goodbye }) {
        Ok(bytes) => {
            if let Err(error) = nats.client.publish(subject, bytes.into()).await {
                warn!(%error, "beat not sent");
            }
        }
        Err(error) => warn!(%error, "beat not sent"),
    }
}
