//! What a gateway reports to routers of its coverage. Routers may know less of the stream than the gateway: after all
//! routers were restarted with leases that have lost as much as the stream.

use serde::{Deserialize, Serialize};

use crate::coverage::CoverageEvent;
use crate::event::Timestamp;
use crate::ids::{EpochId, Seq};

/// What a gateway has been given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayCoverage {
    /// The epoch of the stream.
    pub epoch_id: EpochId,
    /// The highest sequence up to which any partition is covered.
    pub through: Seq,
    /// The last event that was given: its sequence, and when the stream stored it. If the stream loses its end and
    /// gives the sequence again, the time differs. Of two events with one sequence, this is the first: the other one
    /// would hide the loss.
    pub last: Option<(Seq, Timestamp)>,
}

impl GatewayCoverage {
    /// Records an event that is handed to the sessions. `stored` returns when the stream stored an event.
    pub fn record<E>(&mut self, coverage_event: &CoverageEvent<E>, stored: impl Fn(&E) -> Timestamp) {
        match coverage_event {
            CoverageEvent::Apply { through, events, .. } => {
                self.through = self.through.max(*through);
                let given = events.last().filter(|(seq, _)| self.last.is_none_or(|(last, _)| *seq > last));
                self.last = given.map(|(seq, event)| (*seq, stored(event))).or(self.last);
            }
            CoverageEvent::Reset { epoch, .. } => *self = Self { epoch_id: epoch.epoch_id, ..Self::default() },
            CoverageEvent::Adopt { .. } | CoverageEvent::Gap { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::GapReason;
    use crate::ids::{Epoch, Partition};

    #[test]
    fn only_given_ranges_count_and_a_new_epoch_starts_from_zero() {
        let mut reached = GatewayCoverage::default();
        let (partition, from) = (Partition(0), Seq(0));
        let mut record = |coverage_event: CoverageEvent<i64>| {
            reached.record(&coverage_event, |stored| Timestamp(*stored));
            reached
        };
        let epoch = Epoch { epoch_id: EpochId(7), before: Seq(3) };
        let begun = GatewayCoverage { epoch_id: EpochId(7), ..GatewayCoverage::default() };
        assert_eq!(record(CoverageEvent::Reset { former: None, epoch }), begun);
        assert_eq!(record(CoverageEvent::Adopt { partition, at: Seq(90) }), begun);
        let given = GatewayCoverage { through: Seq(20), last: Some((Seq(18), Timestamp(5))), ..begun };
        assert_eq!(
            record(CoverageEvent::Apply {
                partition,
                from,
                through: Seq(20),
                events: vec![(Seq(17), 4), (Seq(18), 5)]
            }),
            given
        );
        assert_eq!(
            record(CoverageEvent::Apply { partition, from, through: Seq(12), events: vec![(Seq(11), 3)] }),
            given
        );
        let again = vec![(Seq(18), 9)];
        let replaced = CoverageEvent::Apply { partition: Partition(1), from, through: Seq(18), events: again };
        assert_eq!(record(replaced), given, "another message with the sequence of a lost one");
        assert_eq!(record(CoverageEvent::Gap { partition, from, through: Seq(99), reason: GapReason::Lost }), given);
        let further = GatewayCoverage { through: Seq(30), ..given };
        assert_eq!(record(CoverageEvent::Apply { partition, from, through: Seq(30), events: vec![] }), further);
        let epoch = Epoch { epoch_id: EpochId(8), before: Seq(30) };
        let next = GatewayCoverage { epoch_id: EpochId(8), ..GatewayCoverage::default() };
        assert_eq!(record(CoverageEvent::Reset { former: Some(EpochId(7)), epoch }), next);
    }
}
