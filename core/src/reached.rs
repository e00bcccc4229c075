//! How far a gateway has come in the stream of events. It tells this to the routers, for they may know less of the stream
//! than it does: after all of them were started again, on leases that have lost as much as the stream.

use serde::{Deserialize, Serialize};

use crate::coverage::Step;
use crate::event::Timestamp;
use crate::ids::{Incarnation, Seq};

/// What a gateway has been given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The life of the stream.
    pub incarnation: Incarnation,
    /// The highest sequence up to which any partition was given.
    pub upto: Seq,
    /// The last event that was given: its sequence, and when the stream stored it. Both together tell it from another that
    /// a stream which has lost its tail gives this sequence.
    pub last: Option<(Seq, Timestamp)>,
}

impl Reached {
    /// A step is handed to the sessions; `stored` tells when the stream stored an event.
    pub fn see<E>(&mut self, step: &Step<E>, stored: impl Fn(&E) -> Timestamp) {
        match step {
            Step::Apply { upto, events, .. } => {
                self.upto = self.upto.max(*upto);
                let last = events.last().map(|(seq, event)| (*seq, stored(event)));
                self.last = self.last.max(last);
            }
            Step::Reset { life, .. } => *self = Self { incarnation: life.incarnation, ..Self::default() },
            Step::Adopt { .. } | Step::Gap { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::GapReason;
    use crate::ids::{Life, Partition};

    #[test]
    fn only_what_was_given_counts_and_another_life_begins_anew() {
        let mut reached = Reached::default();
        let (partition, from) = (Partition(0), Seq(0));
        let mut see = |step: Step<i64>| {
            reached.see(&step, |stored| Timestamp(*stored));
            reached
        };
        let life = Life { incarnation: Incarnation(7), before: Seq(3) };
        let begun = Reached { incarnation: Incarnation(7), ..Reached::default() };
        assert_eq!(see(Step::Reset { former: None, life }), begun);
        assert_eq!(see(Step::Adopt { partition, at: Seq(90) }), begun);
        let given = Reached { upto: Seq(20), last: Some((Seq(18), Timestamp(5))), ..begun };
        assert_eq!(
            see(Step::Apply { partition, from, upto: Seq(20), events: vec![(Seq(17), 4), (Seq(18), 5)] }),
            given
        );
        assert_eq!(see(Step::Apply { partition, from, upto: Seq(12), events: vec![(Seq(11), 3)] }), given);
        assert_eq!(see(Step::Gap { partition, from, upto: Seq(99), reason: GapReason::Lost }), given);
        let further = Reached { upto: Seq(30), ..given };
        assert_eq!(see(Step::Apply { partition, from, upto: Seq(30), events: vec![] }), further);
        let life = Life { incarnation: Incarnation(8), before: Seq(30) };
        let next = Reached { incarnation: Incarnation(8), ..Reached::default() };
        assert_eq!(see(Step::Reset { former: Some(Incarnation(7)), life }), next);
    }
}
