//! What the routers are told: interest, as deltas and snapshots, and beats that show what they may have missed.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use tickwire_core::ids::Millis;
use tickwire_core::interest::InterestBeat;
use tickwire_core::wire;
use tickwire_node::names;
use tokio::time::timeout;
use tracing::debug;

use super::upstream::Outage;
use super::{Edge, PUBLISH_TIMEOUT, refused};

/// How many entries of interest go into one part of a snapshot; a part stays far below NATS' largest message.
const SNAPSHOT_ENTRIES: usize = 500;

/// When coverage does not carry our revision after so long, the routers are told again, in milliseconds.
const LAG: u64 = 100;

impl Edge {
    pub(super) async fn send_snapshot(&self, reply: Option<&[u8]>) {
        let Some(reply) = reply.and_then(|reply| std::str::from_utf8(reply).ok()) else { return };
        counter!("tickwire_gateway_snapshots_total").increment(1);
        for part in self.log.sent().parts(&self.gateway, self.log.revision(), SNAPSHOT_ENTRIES) {
            self.publish(reply.to_owned(), &part).await;
        }
    }

    /// Cuts a revision if anything has changed, and tells it.
    pub(super) async fn cut(&mut self, now: Millis) {
        self.cut_at = None;
        if let Some(delta) = self.log.cut(now) {
            gauge!("tickwire_gateway_interest_revision").set(delta.revision.0 as f64);
            self.beat_at = self.beat_at.min(now.plus(LAG));
            self.publish(names::INTEREST.to_owned(), &delta).await;
        }
    }

    pub(super) async fn beat(&mut self, now: Millis) {
        let lags = self.coverage.lowest_revision() < self.log.revision();
        self.beat_at = now.plus(if lags { LAG.min(self.beat_interval) } else { self.beat_interval });
        let beat = InterestBeat { gateway: self.gateway.clone(), revision: self.log.revision() };
        self.publish(names::GATEWAY_BEAT.to_owned(), &beat).await;
        let outage = Outage::of(now, true, &self.coverage, self.ticks);
        gauge!("tickwire_gateway_silent_partitions").set(outage.map_or(0, |outage| outage.silent()) as f64);
        match outage {
            Some(outage) => self.ready.missing(outage.to_string()),
            None => self.ready.ok(),
        }
    }

    /// Publishes to the routers. What is lost is told again with the next beat.
    async fn publish<T: serde::Serialize + Sync>(&self, subject: String, message: &T) {
        let bytes = match wire::encode(message) {
            Ok(bytes) => bytes,
            Err(error) => return refused(&error),
        };
        let published = timeout(PUBLISH_TIMEOUT, self.nats.client.publish(subject, bytes.into())).await;
        if !matches!(published, Ok(Ok(()))) {
            counter!("tickwire_gateway_unpublished_total").increment(1);
            debug!("a message to the routers found no room; the next beat makes up for it");
        }
    }
}

pub(super) fn describe() {
    describe_counter!("tickwire_gateway_snapshots_total", "Snapshots of interest sent to routers");
    describe_counter!("tickwire_gateway_unpublished_total", "Messages to routers that found no room");
    describe_gauge!("tickwire_gateway_interest_revision", "The revision of the interest that routers were told");
    describe_gauge!("tickwire_gateway_silent_partitions", "Partitions of which no router tells anything");
}
