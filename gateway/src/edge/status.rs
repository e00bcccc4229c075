//! What the edge knows, for `/v1/cluster`. The driver publishes it about once a second, so that a question costs the edge
//! nothing.

use serde_json::{Value, json};
use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Millis, Revision, Seq};

use super::Edge;

/// How often it is published, in milliseconds.
pub(super) const STATUS_MS: u64 = 1_000;

/// The state of the edge at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgeStatus {
    /// The revision of the interest that was sent last, and the lowest that any partition has reached.
    revision: Revision,
    reached_revision: Revision,
    /// How many topics the interest has, and its size.
    topics: usize,
    bytes: usize,
    /// What sessions were given.
    reached: GatewayCoverage,
    open_gaps: usize,
    held_bytes: usize,
    /// Why sessions get no new events, if there is a reason.
    outage: Option<String>,
}

impl Edge {
    /// Its state now.
    pub(crate) fn status(&mut self, now: Millis) -> EdgeStatus {
        EdgeStatus {
            revision: self.log.revision(),
            reached_revision: self.coverage.lowest_revision(),
            topics: self.log.sent().wants.len(),
            bytes: self.log.bytes(),
            reached: self.reached,
            open_gaps: self.coverage.gaps(),
            held_bytes: self.coverage.held_bytes(),
            outage: self.outage(now).map(|outage| outage.to_string()),
        }
    }
}

impl EdgeStatus {
    /// The interest, as it is shown.
    pub(crate) fn interest(&self) -> Value {
        json!({
            "revision": self.revision.0,
            "reached_revision": self.reached_revision.0,
            "topics": self.topics,
            "bytes": self.bytes,
        })
    }

    /// The coverage at this time, since 1970 in milliseconds, as it is shown.
    pub(crate) fn coverage(&self, wall: i64) -> Value {
        let GatewayCoverage { epoch_id, through, last } = self.reached;
        let last = last.map(|(Seq(seq), stored)| {
            let Timestamp(at) = stored;
            json!({ "seq": seq, "stored": stored.to_string(), "age_ms": wall.saturating_sub(at).max(0) })
        });
        json!({
            // A number of this size is not exact in every JSON parser.
            "epoch": epoch_id.to_string(),
            "through": through.0,
            "last_event": last,
            "open_gaps": self.open_gaps,
            "held_bytes": self.held_bytes,
            "outage": self.outage,
        })
    }
}
