//! What the gateway sends to all routers: interest, as deltas and snapshots, and beats that show which revision they
//! may have missed.

use std::borrow::Cow;

use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::ids::Millis;
use tickwire_core::interest::InterestBeat;
use tickwire_core::placement::Role;
use tickwire_core::wire;
use tickwire_node::names;
use tracing::error;

use super::upstream::Outage;
use super::{Edge, Outgoing, refused};
use crate::metrics;

/// The largest part of a snapshot, in bytes.
const PART_BYTES: usize = 128 * 1024;

/// The largest delta, in bytes. Instead of a larger one only a beat with the revision is sent, and routers ask for a
/// snapshot.
const DELTA_BYTES: usize = 256 * 1024;

/// While coverage does not have our revision yet, a beat is sent this often, in milliseconds.
const LAG: u64 = 100;

impl Edge {
    /// A router asks for the whole interest, and wants it sent to `reply`.
    pub fn send_snapshot(&mut self, reply: Option<&[u8]>) {
        let Some(reply) = reply.and_then(|reply| std::str::from_utf8(reply).ok()).filter(|reply| is_routers(reply))
        else {
            return metrics::REFUSED_MESSAGES.increment(1);
        };
        metrics::SNAPSHOTS.increment(1);
        for part in self.log.sent().parts(&self.gateway, self.log.revision(), self.at_most(PART_BYTES)) {
            self.publish(reply.to_owned(), &part);
        }
    }

    /// `bytes`, or half of what the server accepts if that is less.
    fn at_most(&self, bytes: usize) -> usize {
        bytes.min(self.connection.max_payload / 2)
    }

    /// Cuts a revision if the interest has changed, and publishes it.
    pub(super) fn cut(&mut self, now: Millis) {
        self.cut_at = None;
        if let Some(delta) = self.log.cut(now) {
            metrics::INTEREST_REVISION.set(delta.revision.0 as f64);
            metrics::INTEREST_BYTES.set(self.log.bytes() as f64);
            if delta.encoded() > self.at_most(DELTA_BYTES) {
                metrics::LARGE_DELTAS.increment(1);
                return self.beat(now);
            }
            self.beat_at = self.beat_at.min(now.plus(LAG));
            self.publish(names::interest(self.gateway.id.as_str()), &delta);
        }
    }

    pub(super) fn beat(&mut self, now: Millis) {
        let lags = self.coverage.lowest_revision() < self.log.revision();
        self.beat_at = now.plus(if lags { LAG.min(self.beat_interval) } else { self.beat_interval });
        let reached = (self.reached != GatewayCoverage::default()).then_some(self.reached);
        let beat = InterestBeat { gateway: self.gateway.clone(), revision: self.log.revision(), reached };
        self.publish(names::interest_beat(self.gateway.id.as_str()), &beat);
        let outage = self.outage(now);
        metrics::SILENT_PARTITIONS.set(outage.map_or(0, |outage| outage.silent()) as f64);
        match (self.too_large, outage) {
            (Some(bytes), _) => {
                let most = self.connection.max_payload;
                let reason =
                    format!("a message of {bytes} bytes to the routers is too large for NATS, which takes {most}");
                self.ready.missing(format!("{reason}: set max_payload in the server's configuration"));
            }
            // Another check reports why NATS does not store events.
            (None, None | Some(Outage::NotStored)) => self.ready.ok(),
            (None, Some(outage)) => self.ready.missing(outage.to_string()),
        }
    }

    /// Publishes to the routers. The next beat repairs a loss.
    fn publish<T: serde::Serialize>(&mut self, subject: String, message: &T) {
        let payload = match wire::encode(message) {
            Ok(payload) => payload,
            Err(error) => return refused(&error),
        };
        let (size, most) = (payload.len(), self.connection.max_payload);
        if size > most {
            metrics::UNSENT_MESSAGES.with("too_large").increment(1);
            error!(%subject, size, most, "message to routers exceeds max_payload of the NATS server, not sent");
            self.too_large = Some(size);
            return;
        }
        if self.too_large.is_some_and(|too_large| size >= too_large || most >= too_large) {
            self.too_large = None;
        }
        self.outgoing.push(Outgoing { subject: Cow::Owned(subject), payload, ask: None });
    }
}

/// Whether the reply subject is a router's inbox. A gateway may publish to subjects that the sender of a request may
/// not, so it must not answer anywhere else.
fn is_routers(reply: &str) -> bool {
    names::is_inbox(Role::Router.as_str(), reply.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_sent_only_to_inboxes_of_routers() {
        assert!(is_routers("_INBOX_router.r1.00112233445566778899aabbccddeeff"));
        for other in
            ["_INBOX_router", "_INBOX_router.", "_INBOX_router.a", "_INBOX_router.a.>", "_INBOX_gateway.a.b", "$KV.X.y"]
        {
            assert!(!is_routers(other), "{other}");
        }
    }
}
